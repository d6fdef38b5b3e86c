// Owns the view of one host: what runs on it, how it is connected, how it does, and what failed on it.
import {
  ActorLink, Badge, Button, CallRate, Card, Cut, EmptyState, ErrorNote, Facts, formatBytes, formatCount, formatDuration,
  formatMicros, Health, HostState, href, html, Key, Labels, Latency, Menu, Meter, Note, PageHeader, plural, ProviderLink,
  RelativeTime, SeriesChart, shortKey, Since, Skeleton, Stat, StatusDot, Table, Tabs, Term, useResource, whyNot,
} from "../ui/index.js";
import {
  editLabels, forgetHost, RunsNowhere, scaleActor, startActor, startElsewhere, startProvider, stopActor, stopProvider,
  updateActor,
} from "../actions/index.js";
import { useTitle } from "../title.js";
import { formatReplicas, Reference } from "./actors.js";
import { HostMenu } from "./hosts.js";

const annotationsOf = (groups) => Object.assign({}, ...groups.map((group) => group.annotations));

function actorColumns(host) {
  const target = (actor) => ({ actor_id: actor.id, actor_name: actor.name, host_id: host.id, host_name: host.name });
  return [
    { key: "name", title: "Actor", render: (actor) => html`<${ActorLink} id=${actor.id} name=${actor.name} />` },
    { key: "reference", title: "Reference", render: (actor) => html`<${Reference} text=${actor.reference}
      name=${actor.name} />` },
    { key: "kind", title: "Kind", width: "130px", render: (actor) => (actor.kind === "unknown"
      ? html`<span class="muted">–</span>` : actor.kind) },
    { key: "replicas", title: "Replicas", align: "right", width: "90px", render: (actor) => html`<span class="num">
      ${formatReplicas(actor.replicas)}</span>` },
    { key: "permits", title: "In use", width: "150px", hint: "Replicas at work of those that may run at once",
      render: (actor) => (actor.limit === null
      ? html`<span class="muted">–</span>` : html`<${Meter} value=${actor.limit - actor.free} of=${actor.limit}
      tone=${actor.waiting ? "warning" : "info"}
        text=${`${actor.limit - actor.free} of ${actor.limit}${actor.waiting ? `, ${actor.waiting} wait` : ""}`} />`) },
    { key: "annotations", title: "Annotations", render: (actor) => html`<${Labels} labels=${annotationsOf(actor.groups)}
      max=${2} empty="–" />` },
    { key: "calls", title: "Calls", align: "right", width: "110px", render: (actor) => html`<${CallRate}
      rates=${actor.rates} />` },
    { key: "p99", title: "p99", align: "right", width: "80px", render: (actor) => html`<${Latency}
      micros=${actor.rates?.p99_us ?? null} />` },
    { key: "menu", title: "", width: "48px", align: "right", render: (actor) => html`<${Menu}
      label=${`Actions of ${actor.name || shortKey(actor.id)}`} why=${whyNot(host)} items=${[
      { text: "Scale", icon: "edit", onSelect: () => scaleActor({ ...target(actor), max: actor.groups[0]?.max
        ?? actor.replicas,
        annotations: actor.groups[0]?.annotations ?? {} }) },
      { text: "Update", icon: "refresh", onSelect: () => updateActor({ ...target(actor),
        reference: actor.reference }) },
      { text: "Stop", icon: "stop", danger: true, onSelect: () => stopActor({ ...target(actor),
        replicas: actor.replicas }) }]} />` },
  ];
}

function providerColumns(host) {
  return [
    { key: "name", title: "Provider", render: (each) => html`<${ProviderLink} id=${each.id} linkName=${each.link_name}
      name=${each.name} />` },
    { key: "link", title: "Link name", width: "120px", render: (each) => each.link_name },
    { key: "contract", title: "Contract", render: (each) => html`<span class="mono"><${Cut} text=${each.contract_id}
      /></span>` },
    { key: "health", title: "Health", width: "120px", render: (each) => html`<${Health} health=${each.health} />` },
    { key: "phase", title: "Phase", width: "110px", render: (each) => each.phase ?? html`<span
      class="muted">–</span>` },
    { key: "crashes", title: "Crashes", align: "right", width: "90px", render: (each) => html`<span class=${each.crashes
      ? "num text-error" : "num"}>${formatCount(each.crashes)}</span>` },
    { key: "complaint", title: "Complaint", render: (each) => (each.complaint ? html`<span class="clip"
      title=${each.complaint}>${each.complaint}</span>` : html`<span class="muted">none</span>`) },
    { key: "calls", title: "Calls", align: "right", width: "110px", render: (each) => html`<${CallRate}
      rates=${each.rates} />` },
    { key: "menu", title: "", width: "48px", align: "right", render: (each) => html`<${Menu}
      label=${`Actions of ${each.name || shortKey(each.id)}`} why=${whyNot(host)} items=${[
      { text: "Stop", icon: "stop", danger: true, onSelect: () => stopProvider({ provider_id: each.id,
        provider_name: each.name,
        link_name: each.link_name, host_id: host.id, host_name: host.name }) }]} />` },
  ];
}

/** A connection to NATS: control (ctl) or calls (rpc). */
function LineCard({ title, line }) {
  return html`<${Card} title=${title} actions=${html`<${Badge} tone=${line.is_connected ? "good" : "error"}>
    ${line.is_connected ? "connected" : "not connected"}</>`}>
    <${Facts} items=${[
      ["Server", html`<span class="mono">${line.server}</span> <span class="muted">${line.server_name}</span>`],
      ["NATS version", line.server_version],
      ["Round trip", formatMicros(line.round_trip_us)],
      [html`<${Term} of="JetStream domain">Domain</>`, line.server_domain || html`<span class="muted">none</span>`],
      ["Cluster", line.cluster || html`<span class="muted">none: a single server or a <${Term} of="leaf node">leaf
        node</></span>`],
      ["JetStream", line.jetstream ? "yes" : "no"],
      ["Reconnects", formatCount(line.reconnects)],
      line.denied.length > 0 && ["Denied subjects", html`<span class="text-error">${line.denied.join(", ")}</span>`]]}
        /></>`;
}

function Vitals({ host }) {
  const v = host.vitals;
  if (!v) {
    return html`<${Note}>${host.state === "ok"
      ? "This host does not tell its vitals: it is of another make or of an older version."
      : "This host is not heard, so its connections and settings are not known."}</>`;
  }
  const s = v.settings;
  const service = (each) => (each === null ? html`<span class="muted">not used</span>` : html`<span class="mono">
    ${each.subject}</span>${" "}
    <${Badge} tone=${each.answers === null ? "muted" : each.answers ? "good" : "error"}>${each.answers === null
      ? "not asked yet" : each.answers ? "answers" : each.error || "does not answer"}</>`);
  return html`<div class="cards">
    ${s.warnings.length > 0 && html`<div class="notes">${s.warnings.map((text) => html`<${Note} key=${text}
      tone="warning">${text}</>`)}</div>`}
    <${LineCard} title="NATS, control" line=${v.ctl} /><${LineCard} title="NATS, calls" line=${v.rpc} />
    <${Card} title="Store and services"><${Facts} items=${[
      ["Store", html`${v.store.place} <${Badge} tone=${v.store.error ? "error" : v.store.is_known ? "good" : "muted"}>
        ${v.store.error || (v.store.is_known ? "ok" : "not known")}</>`],
      ["Policy service", service(v.policy)], ["Config service", service(v.config_service)]]} /></>
    <${Card} title="Settings"><${Facts} items=${[
      ["Actors from files", s.allow_file_load ? "allowed" : "not allowed"], ["Tag latest", s.allow_latest ? "allowed"
        : "not allowed"],
      ["Calls within the host", s.local_calls ? "direct" : "by NATS"], ["Deadline of a call",
        formatMicros(s.rpc_timeout_ms * 1000)],
      [html`<${Term} of="cluster seed">Cluster seeds</>, by their public keys`, html`<span
        class="keys">${v.cluster_issuers.map((id) => html`<${Key} key=${id} id=${id} />`)}</span>`]]} /></>
  </div>`;
}

function Peers({ peers }) {
  return html`<${Table} label="Peers" items=${peers} rowKey=${(peer) => peer.host_id}
    empty=${html`<${EmptyState} icon="host" title="This host hears no other">
      It is alone in the lattice, or cut off from it.</>`}
    columns=${[
      { key: "id", title: "Host", render: (peer) => html`<${Key} id=${peer.host_id} href=${href.host(peer.host_id)}
        />` },
      { key: "state", title: "As this host hears it", render: (peer) => html`<${StatusDot} tone=${peer.is_silent
        ? "error" : "good"} text=${peer.is_silent ? "silent" : "heard"} />` },
      { key: "silence", title: "Silent for", align: "right", render: (peer) => html`<span class="num">
        ${formatDuration(peer.silence_ms)}</span>` }]} />`;
}

function Failures({ failures }) {
  return html`<${Table} label="Failures" items=${failures} rowKey=${(each) => `${each.at_ms} ${each.reference}`}
    empty=${html`<${EmptyState} icon="good" title="Nothing failed to start on this host" />`} columns=${[
      { key: "at", title: "When", width: "110px", render: (each) => html`<${RelativeTime} at=${each.at_ms} />` },
      { key: "kind", title: "Kind", width: "90px", render: (each) => each.kind },
      { key: "reference", title: "Reference", render: (each) => html`<span class="mono">${each.reference}</span>
        ${each.link_name && ` (${each.link_name})`}` },
      { key: "error", title: "Error", render: (each) => html`<span class="text-error">${each.error}</span>` }]} />`;
}

const UNKNOWN = html`<span class="muted">not known</span>`;

/** A series in which nothing is told of the time in which nothing was heard: not zero calls, but none that are known. */
function withoutSilence(series, heard_ms) {
  const know = (values) => values.map((value, at) =>
    (series.end_ms - (values.length - 1 - at) * series.step_ms > heard_ms + series.step_ms ? null : value));
  return { ...series, calls: know(series.calls), errors: know(series.errors), p50_us: know(series.p50_us),
    p99_us: know(series.p99_us) };
}

export function HostDetail({ id }) {
  const { data: host, error, loading, refresh } = useResource(`/hosts/${encodeURIComponent(id)}`, ["hosts", "actors",
    "providers", "rates"]);
  useTitle(host?.name || shortKey(id), "Hosts");
  const crumbs = [{ text: "Hosts", href: "/hosts" }];
  if (!host) {
    return html`<div class="view"><${PageHeader} title=${shortKey(id)} crumbs=${crumbs} />
      ${error ? html`<${ErrorNote} error=${error} retry=${refresh} />` : loading && html`<${Skeleton} height="88px" />
        <${Skeleton} height="420px" />`}</div>`;
  }
  const v = host.vitals;
  const isHeard = host.state === "ok" || host.state === "stopping";
  const why = whyNot(host);
  const add = (text, run) => html`<${Button} icon="plus" why=${why} onClick=${run}>${text}</>`;
  return html`<div class="view">
    <${PageHeader} title=${host.name} crumbs=${crumbs} status=${html`<${HostState} state=${host.state} />${host.is_this
      && html`<span class="this">this host</span>`}`}
      sub=${html`<${Key} id=${host.id} full />`}
      actions=${html`${host.state !== "lost" ? html`<${Button} kind="primary" icon="plus"
        why=${why} onClick=${() => startActor({ host_id: host.id })}>Start an actor here</>`
        : host.missing.length > 0 ? html`<${Button} kind="primary" icon="plus"
          onClick=${() => startElsewhere(host)}>Start elsewhere</>`
        : html`<${Button} icon="trash" onClick=${() => forgetHost(host)}>Forget the host</>`}
        <${HostMenu} host=${host} text="Actions" />`} />
    ${error && html`<${ErrorNote} error=${error} retry=${refresh} />`}
    ${host.state === "stopping" && html`<${Note} tone="warning">This host stops: it finishes its calls, and ends.</>`}
    ${!isHeard && html`<${Note} tone=${host.state === "lost" ? "error" : "warning"}>
      Nothing was heard of this host since <${RelativeTime} at=${host.heard_ms}
        />. What is shown is what it told then. Look whether its machine
      ${" "}and its NATS connection are up.</>`}
    ${host.missing.length > 0 && html`<${Card} title="Runs nowhere" count=${host.missing.length}>
      <p>This ran only here, and runs nowhere since the host was lost.</p>
      <${RunsNowhere} items=${host.missing} /></>`}
    <div class="stats">
      <${Stat} label="Uptime" value=${!isHeard ? UNKNOWN : html`<${Since} at=${host.started_ms} />`}
        sub=${host.version ? `version ${host.version}` : "of another make"} />
      <${Stat} label="Round trip" value=${v ? formatMicros(v.ctl.round_trip_us) : UNKNOWN} sub=${v ? v.ctl.server
        : "to its NATS server"} />
      <${Stat} label=${html`<${Term} of="JetStream domain">JetStream domain</>`} value=${host.js_domain
        || (v ? "none" : UNKNOWN)} sub=${v?.ctl.server_domain && v.ctl.server_domain !== host.js_domain
        ? `leaf of ${v.ctl.server_domain}` : ""} />
      <${Stat} label="Memory" value=${host.memory_bytes === null ? UNKNOWN : formatBytes(host.memory_bytes)} />
      <${Stat} label=${html`<${Term} of="replica">Replicas</>`} value=${formatReplicas(host.replicas)}
        sub=${`${isHeard ? "" : "then, "}of ${plural(host.actors, "actor")}`} />
      <${Stat} label="Heard" value=${html`<${RelativeTime} at=${host.heard_ms} />`} sub="last heartbeat" />
    </div>
    <div class="host-grid">
      <${Card} title="Traffic">${isHeard || host.series.calls.length ? html`<${SeriesChart} series=${isHeard
        ? host.series : withoutSilence(host.series, host.heard_ms)} of=${{ of: "host", id: host.id }} />`
        : html`<${EmptyState} icon="activity" title="Its figures are not known any more" />`}</>
      <div class="stack">
        <${Card} title="Labels" actions=${html`<${Button} size="small" icon="edit" why=${why}
          onClick=${() => editLabels(host)}>Edit</>`}>
          <${Labels} labels=${host.labels} empty="No labels. Auctions with constraints pass this host by." /></>
        <${Card} title="Identity"><${Facts} items=${[["Host id", html`<${Key} id=${host.id} />`],
          ["Issuer", html`<${Key} id=${host.issuer} />`], ["Version", host.version || "of another make"]]} /></>
      </div>
    </div>
    <${Tabs} label="Parts of the host" tabs=${[
      { id: "actors", text: "Actors", count: host.running_actors.length, render: () => html`<${Table} label="Actors"
        columns=${actorColumns(host)}
        items=${host.running_actors} rowKey=${(actor) => `${actor.id} ${actor.reference}`} empty=${html`<${EmptyState}
          icon="actor" title="No actor runs on this host"
          command=${`host start actor ./echo.wasm --host-id ${host.id}`} action=${add("Start an actor here",
            () => startActor({ host_id: host.id }))} />`} />` },
      { id: "providers", text: "Providers", count: host.running_providers.length, render: () => html`<${Table}
        label="Providers" columns=${providerColumns(host)}
        items=${host.running_providers} rowKey=${(each) => `${each.id} ${each.link_name}`} empty=${html`<${EmptyState}
          icon="provider" title="No provider runs on this host"
          action=${add("Start a provider here", () => startProvider({ host_id: host.id }))} />`} />` },
      { id: "vitals", text: "Connections and settings", render: () => html`<${Vitals} host=${host} />` },
      { id: "peers", text: "Peers", count: v ? v.peers.length : undefined, render: () => (v ? html`<${Peers}
        peers=${v.peers} />` : html`<${Note}>The peers of this host are not known.</>`) },
      { id: "failures", text: "Failures", count: v ? v.failures.length : undefined, render: () => (v ? html`<${Failures}
        failures=${v.failures} />` : html`<${Note}>The failures of this host are not known.</>`) },
    ]} />
  </div>`;
}
