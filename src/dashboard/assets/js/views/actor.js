// Owns the view of one actor, and what it shares with a provider's: operations, log, errors of the log.
import {
  apiPath, Badge, Button, Card, Chips, classes, copyText, EmptyState, ErrorNote, errorTone, formatClock, formatCount,
  formatMicros, formatRate, formatTime, HostLink, href, html, Icon, Key, Labels, LinkState, Menu, PageHeader, plural,
  ProviderLink, RelativeTime, Select, SeriesChart, shortKey, Skeleton, Sparkline, Stat, Table, Tabs, useLayoutEffect,
  useMemo, usePoll, useRef, useResource, useState, withQuery,
} from "../ui/index.js";
import { putLink, startActor } from "../actions/index.js";
import { useTitle } from "../title.js";
import { formatReplicas, Kind, placementItems, Reference } from "./actors.js";
import { ClaimsFacts } from "./claims.js";
import { FailedCalls, useFailures } from "./failures.js";
import { LinksTable } from "./links.js";

/** Calls, errors and latency of something as figures with their lines. */
export function RateStats({ rates, series }) {
  const tone = (line) => (line === "errors" ? errorTone(series.errors) : line.replace("_us", ""));
  const figure = (label, name, line, format, unit) => html`<${Stat} label=${label} value=${rates ? format(rates[name])
    : "–"} unit=${rates ? unit : ""} tone=${name === "errors_per_s" && rates?.errors_per_s > 0 ? "error" : ""}
    sub=${!rates ? "not told" : name === "calls_per_s" ? `${formatCount(rates.in_work)} in work`
      : name === "errors_per_s" && rates.made_errors_per_s > 0 ? `${formatRate(rates.made_errors_per_s)}/s of calls it makes`
      : name === "errors_per_s" && rates.success_percent !== null ? `${formatRate(rates.success_percent)} % succeed`
      : ""}
    spark=${html`<${Sparkline} tone=${tone(line)} values=${series[line]}
      label=${`${label} over the last two minutes`} />`} />`;
  return html`${figure("Calls", "calls_per_s", "calls", formatRate, "/s")}
    ${figure("Errors", "errors_per_s", "errors", formatRate, "/s")}
    ${figure("Latency p50", "p50_us", "p50_us", formatMicros)}
    ${figure("Latency p99", "p99_us", "p99_us", formatMicros)}`;
}

const PATHS = { local: ["within a host", "Called by something on the same host, without NATS"],
  nats: ["by NATS", "Called over the network"] };

/** What was called, how often and how fast, since the hosts began to count. */
export function OperationsTable({ operations, empty }) {
  return html`<${Table} label="Operations" items=${operations} rowKey=${(each) => `${each.operation} ${each.path}`}
    empty=${empty} columns=${[
    { key: "operation", title: "Operation", render: (each) => html`<span class="mono">${each.operation}</span>` },
    { key: "path", title: "Path", width: "130px", render: (each) => html`<span title=${PATHS[each.path]?.[1] || ""}>
      ${PATHS[each.path]?.[0] || each.path}</span>` },
    { key: "calls", title: "Calls", align: "right", width: "110px", hint: "Since the hosts began to count",
      render: (each) => html`<span class="num">${formatCount(each.calls)}</span>` },
    { key: "errors", title: "Errors", align: "right", width: "150px", render: (each) => html`<span
      class=${each.errors ? "num text-error" : "num muted"}>${formatCount(each.errors)}${each.errors > 0
      && each.calls > 0 && ` (${formatRate((each.errors / each.calls) * 100)} %)`}</span>` },
    { key: "p50", title: "p50", align: "right", width: "90px", render: (each) => html`<span class="num">
      ${formatMicros(each.p50_us)}</span>` },
    { key: "p99", title: "p99", align: "right", width: "90px", render: (each) => html`<span class="num">
      ${formatMicros(each.p99_us)}</span>` }]} />`;
}

/** Calls that failed lately, and warnings and errors that were logged, newest first. */
export function LastErrors({ lines, failures }) {
  // What a failed call left in the log is told by the call.
  const ids = (failures.items || []).map((call) => call.id);
  const others = lines.filter((line) => !ids.some((id) => line.text.includes(id)));
  return html`<${Card} title="Failed calls" count=${ids.length || undefined}><${FailedCalls} failures=${failures} /></>
    <${LoggedErrors} lines=${others} />`;
}

function LoggedErrors({ lines }) {
  if (!lines.length) {
    return html`<${EmptyState} icon="good" title="No other warning or error was logged lately" />`;
  }
  return html`<${Card} title="Logged warnings and errors"><ul class="event-list">${lines.map((line, at) => {
    const tone = line.level === "error" ? "error" : "warning";
    return html`<li key=${`${line.at_ms} ${at}`} class="event-line tone-${tone}"><${Icon} name=${tone} size=${14} />
      <span class="event-text mono">${line.text}</span><span class="event-meta"><a
      href=${href.host(line.host_id)}>${line.host_name || shortKey(line.host_id)}</a><${RelativeTime} at=${line.at_ms}
      /></span></li>`;
  })}</ul></>`;
}

const RANKS = { trace: 0, debug: 1, info: 2, warn: 3, error: 4 };
const LEVELS = [["trace", "All levels"], ["info", "Info and above"], ["warn", "Warnings, errors"], ["error", "Errors"]];
const POLL_MS = 2000;

/** The last lines of a log; fetched again every two seconds while it follows. */
export function LogView({ url, takes, id }) {
  const [isFollowing, setFollowing] = useState(true);
  const [level, setLevel] = useState("trace");
  const [text, setText] = useState("");
  const box = useRef(null);
  const isAtEnd = useRef(true);
  const { data, error } = usePoll(isFollowing ? withQuery(url, { tail: 200 }) : null, POLL_MS);
  const lines = data?.items ?? null;
  const shown = useMemo(() => {
    const seen = new Map();
    const needle = text.trim().toLowerCase();
    return (lines || []).filter((line) => (!takes || takes(line)) && (RANKS[line.level] ?? 2) >= RANKS[level] &&
      (!needle || `${line.text} ${line.host_name}`.toLowerCase().includes(needle)))
      .sort((a, b) => a.at_ms - b.at_ms).map((line) => {
        // Equal lines are told apart, so that those that stay keep their place.
        const key = `${line.at_ms} ${line.host_id} ${line.text}`;
        seen.set(key, (seen.get(key) ?? 0) + 1);
        return { ...line, key: `${key} ${seen.get(key)}` };
      });
  }, [lines, level, text]);
  useLayoutEffect(() => {
    if (isAtEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown]);
  const isOneHost = new Set(shown.map((line) => line.host_id)).size < 2;
  const copy = () => copyText(shown.map((line) => `${new Date(line.at_ms).toISOString()} ${line.level.toUpperCase()} ` +
    `${line.host_name || line.host_id} ${line.text}`).join("\n"));
  return html`<div class="log-view">
    <div class="log-bar"><${Select} label="Level" value=${level} options=${LEVELS} onInput=${setLevel} />
      <input type="search" class="input small" aria-label="Filter the log by text" placeholder="Filter" value=${text}
        spellcheck=${false} autocomplete="off" onInput=${(event) => setText(event.target.value)} />
      <span class="muted small grow">${plural(shown.length, "line")}${lines && shown.length < lines.length
        ? ` of ${formatCount(lines.length)}` : ""}</span>
      <${Button} size="small" icon=${isFollowing ? "pause" : "play"} aria-pressed=${!isFollowing}
        onClick=${() => setFollowing(!isFollowing)}>${isFollowing ? "Pause" : "Follow"}</>
      <${Button} size="small" icon="copy" disabled=${!shown.length} onClick=${copy}>Copy all</></div>
    ${error && html`<${ErrorNote} error=${error} />`}
    <div class="log" role="log" aria-live="off" aria-label="Log, newest last" tabindex="0" ref=${box}
      onScroll=${({ currentTarget: node }) => {
        isAtEnd.current = node.scrollTop + node.clientHeight > node.scrollHeight - 30;
      }}>
      ${!lines && !error ? html`<${Skeleton} lines=${8} height="1.1rem" />` : !shown.length ? html`<${EmptyState}
        icon="event" title=${lines?.length ? "No line fits the filter" : "Nothing was logged yet"}
        command=${lines?.length ? "" : `host logs ${id} -f`}>${lines?.length ? ""
        : "Lines appear here as they are logged. In a shell, follow it with:"}</>`
      : shown.map((line) => html`<div key=${line.key} class=${classes("log-line", `level-${line.level}`)}>
        <time class="muted" title=${formatTime(line.at_ms)}>${formatClock(line.at_ms)}</time>
        <span class="log-level">${line.level}</span>${!isOneHost && html`<span class="log-host muted"
          title=${line.host_id}>${line.host_name}</span>`}<span class="log-text">${line.text}</span></div>`)}
    </div></div>`;
}

/** The kind of an actor's code, and what a component can be called by. */
function codeFacts(actor) {
  if (actor.kind === "unknown") return [];
  return [["Kind", html`<${Kind} actor=${actor} />`], actor.kind === "component" && ["Exports",
    html`<${Chips} items=${actor.exports} />`]];
}

/** For each contract of an actor's claims: is it linked, and to what? */
function Capabilities({ actor }) {
  const { caps } = actor.claims;
  if (!caps.length) return html`<span class="muted">no contract: it can be called, and call other actors</span>`;
  return html`<ul class="caps">${caps.map((contract) => {
    const links = actor.links.filter((link) => link.contract_id === contract);
    const isMissing = actor.missing.includes(contract);
    return html`<li key=${contract} class=${isMissing ? "missing" : ""}><span class="mono">${contract}</span>
      ${isMissing ? html`<span class="cap-state"><${Badge} tone="warning">not linked</>
        <${Button} size="small" icon="link" onClick=${() => putLink({ actor_id: actor.id, actor_name: actor.name,
          contract_id: contract })}>Link it</></span>`
        : !links.length ? html`<span class="cap-state muted">built in, needs no link</span>`
        : links.map((link) => html`<span key=${link.link_name} class="cap-state"><${ProviderLink} id=${link.provider_id}
          linkName=${link.link_name} name=${link.provider_name} />${link.link_name !== "default" && html`<span
          class="muted">${link.link_name}</span>`}${link.state === "ok" ? html`<${Badge} tone="good">linked</>`
          : html`<${LinkState} state=${link.state} problem=${link.problem} />`}</span>`)}</li>`;
  })}</ul>`;
}

const PLACES = [
  { key: "host", title: "Host", render: (place) => html`<${HostLink} id=${place.host_id} name=${place.host_name}
    state=${place.host_state} />` },
  { key: "replicas", title: "Replicas", align: "right", width: "110px", render: (place) => html`<span class="num">
    ${formatReplicas(place.replicas)}</span>` },
  { key: "groups", title: "Annotations", render: (place) => html`<div class="groups">${place.groups.map((group) =>
    html`<div key=${JSON.stringify(group.annotations)} class="group">${place.groups.length > 1 && html`<span
      class="num muted">${formatReplicas(group.max)} ×</span>`}<${Labels} labels=${group.annotations} empty="none"
      /></div>`)}</div>` },
  { key: "reference", title: "Reference", render: (place) => html`<${Reference} text=${place.reference} />` },
];

function Placements({ actor, start }) {
  return html`<${Table} label="Hosts" items=${actor.placements}
    rowKey=${(place) => `${place.host_id} ${place.reference}`}
    rowClass=${(place) => (place.host_state === "lost" ? "lost" : "")} columns=${[...PLACES,
      { key: "menu", title: "", width: "48px", align: "right", render: (place) => html`<${Menu}
        label=${`Actions on ${place.host_name || shortKey(place.host_id)}`}
        items=${placementItems(actor, [place])} />` }]}
    empty=${html`<${EmptyState} icon="actor" title="This actor runs nowhere" action=${start}
      command=${`host start actor ${actor.references[0] || "./echo_s.wasm"}`}>Its claims are known from an earlier run.
      Calls of it fail until a replica runs.</>`} />`;
}

export function ActorDetail({ id }) {
  const { data: actor, error, loading, refresh } = useResource(apiPath("actors", id), ["actors", "links", "hosts",
    "claims", "rates"]);
  const failures = useFailures("actors", id);
  const name = actor?.name || shortKey(id);
  useTitle(name, "Actors");
  const crumbs = [{ text: "Actors", href: "/actors" }];
  if (!actor) {
    return html`<div class="view"><${PageHeader} title=${name} crumbs=${crumbs} sub=${html`<${Key} id=${id} full />`} />
      ${error ? html`<${ErrorNote} error=${error} retry=${refresh} />` : loading && html`<${Skeleton} height="92px" />
        <${Skeleton} height="420px" />`}</div>`;
  }
  const { placements } = actor;
  const lost = placements.filter((place) => place.host_state === "lost").length;
  const wrong = actor.links.filter((link) => link.state !== "ok").length;
  const start = html`<${Button} icon="plus" onClick=${() => startActor(actor.references[0]
    ? { reference: actor.references[0] } : {})}>${placements.length ? "Start replica elsewhere" : "Start it"}</>`;
  const link = html`<${Button} icon="link" onClick=${() => putLink({ actor_id: id, actor_name: actor.name,
    ...(actor.missing[0] ? { contract_id: actor.missing[0] } : {}) })}>Link</>`;
  return html`<div class="view">
    <${PageHeader} title=${name} crumbs=${crumbs} sub=${html`<${Key} id=${id} full />`}
      status=${html`<${Badge} tone=${!placements.length ? "muted" : lost ? "warning" : "good"}>${!placements.length
        ? "not running" : lost ? `on ${plural(lost, "lost host")}` : "running"}</>
        ${actor.missing.length > 0 && html`<${Badge} tone="warning" title=${actor.missing.join(", ")}>
          ${plural(actor.missing.length, "contract")} not linked</>`}
        ${wrong > 0 && html`<${Badge} tone="error">${plural(wrong, "link")} not ok</>`}`}
      actions=${html`<a class="button primary" href=${`/call?actor=${encodeURIComponent(id)}`}><${Icon} name="call" />
        <span>Call</span></a>${start}${link}${placements.length > 0 && html`<${Menu} label="Actions" text="Actions"
        items=${placementItems(actor, placements)} />`}`} />
    ${error && html`<${ErrorNote} error=${error} retry=${refresh} />`}
    <div class="stats"><${RateStats} rates=${actor.rates} series=${actor.series} />
      <${Stat} label="Replicas" value=${formatReplicas(actor.replicas)} sub=${`on ${plural(actor.hosts, "host")}`} />
      <${Stat} label="Links" value=${formatCount(actor.links.length)} tone=${wrong ? "error" : ""} sub=${wrong
        ? `${wrong} not ok` : actor.missing.length ? `${actor.missing.length} missing` : "all ok"} /></div>
    <div class="host-grid">
      <${Card} title="Traffic"><${SeriesChart} series=${actor.series} of=${{ of: "actor", id }} /></>
      <${Card} title="Claims">${actor.claims ? html`<${ClaimsFacts} claims=${actor.claims}
        first=${codeFacts(actor)} caps=${html`<${Capabilities} actor=${actor} />`} />` : html`<p class="muted">
        The claims of this actor are not known yet: no host has told them. Look with ${" "}<code>host doctor</code>.</p>`}</>
    </div>
    <${Tabs} label="Parts of the actor" tabs=${[
      { id: "hosts", text: "Hosts", count: placements.length, render: () => html`<${Placements} actor=${actor}
        start=${start} />` },
      { id: "links", text: "Links", count: actor.links.length, render: () => html`<${LinksTable} links=${actor.links}
        side="provider" empty=${html`<${EmptyState} icon="link" title="This actor has no link" action=${link}
          command=${`host link put ${id} PROVIDER CONTRACT KEY=VALUE`}>Without links it uses no provider.</>`} />` },
      { id: "operations", text: "Operations", count: actor.operations.length, render: () => html`<${OperationsTable}
        operations=${actor.operations} empty=${html`<${EmptyState} icon="call" title="No call was counted yet"
          action=${html`<a class="button" href=${`/call?actor=${encodeURIComponent(id)}`}>Call it</a>`}>The operations
          of this actor appear with its first call.</>`} />` },
      { id: "errors", text: "Errors", count: failures.items?.length || actor.last_errors.length,
        render: () => html`<${LastErrors} lines=${actor.last_errors} failures=${failures} />` },
      { id: "logs", text: "Logs", render: () => html`<${LogView} url=${apiPath("actors", id, "logs")} id=${id} />` },
    ]} />
  </div>`;
}
