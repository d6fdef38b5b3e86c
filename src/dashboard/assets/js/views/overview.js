// Owns the overview: whether the lattice is well, how much it works, where its hosts are, and what happened last.
import {
  Badge, Button, Card, EmptyState, ErrorNote, errorTone, EventLine, formatCount, formatMicros, formatRate, href, html,
  HOST_TONES, Icon, Menu, plural, RelativeTime, Select, SeriesChart, Skeleton, Sparkline, Stat, StatusDot, Term, useLive,
  useMemo, useRemembered, useResource,
} from "../ui/index.js";
import { putLink, startActor, startProvider } from "../actions/index.js";
import { isOpen, MutedAttention } from "../actions/attention.js";
import { AttentionList } from "./attention.js";
import { formatReplicas } from "./actors.js";

const FIRST_KEYS = ["machine", "region", "zone", "site", "hostcore.os"];
const MAX_POINTS = 300;

/** The fetched series continued by the points that the stream brought since. */
function continued(series, points) {
  if (!series) return null;
  // One chart has one resolution: points that come are not finer than those that are there.
  if (points[1] && series.step_ms > points[1].at_ms - points[0].at_ms) return series;
  const fresh = points.filter((point) => point.at_ms > series.end_ms + series.step_ms / 2);
  const join = (name) => [...series[name], ...fresh.map((point) => point[name])].slice(-MAX_POINTS);
  return {
    step_ms: series.step_ms, end_ms: fresh.length ? fresh[fresh.length - 1].at_ms : series.end_ms,
    calls: join("calls"), errors: join("errors"), p50_us: join("p50_us"), p99_us: join("p99_us"),
  };
}

/** One sentence: is the lattice well? */
function StateLine({ counts, attention }) {
  if (!counts) return html`<div class="state-line"><${Skeleton} width="22rem" height="2rem" /></div>`;
  attention = attention.filter(isOpen);
  const errors = attention.filter((item) => item.severity === "error").length;
  const warnings = attention.length - errors;
  const tone = errors ? "error" : warnings ? "warning" : "good";
  const hosts = counts.hosts === 1 ? "The only host is well" : counts.hosts === 2 ? "Both hosts are well"
    : `All ${counts.hosts} hosts are well`;
  const text = counts.hosts_lost ? `${counts.hosts_lost} of ${plural(counts.hosts, "host")} ${counts.hosts_lost === 1
    ? "is" : "are"} lost`
    : attention.length ? `${plural(attention.length, "thing needs", "things need")} attention` : hosts;
  const rest = counts.hosts_lost && attention.length > counts.hosts_lost
    ? `, and ${attention.length - counts.hosts_lost} more to look at` : "";
  return html`<div class="state-line tone-${tone}"><${Icon} name=${tone === "good" ? "good" : tone} size=${24} />
    <div><p class="state-text">${text}${rest}</p>
    <p class="state-sub"><${Term} of="actor">${plural(counts.actors, "actor")}</> · <${Term} of="replica">
      ${formatReplicas(counts.replicas)} ${counts.replicas === 1 ? "replica" : "replicas"}</> · <${Term} of="provider">
      ${plural(counts.providers, "provider")}</> · <${Term} of="link definition">${plural(counts.links, "link")}</></p>
    </div></div>`;
}

/** A host among very many. */
function HostSquare({ host, most }) {
  const share = host.rates && most > 0 ? Math.round((host.rates.calls_per_s / most) * 60) : 0;
  const fill = host.state === "ok" ? { background: `color-mix(in oklab, var(--good) ${share}%, var(--bg))` } : {};
  const words = `${host.name}, ${host.state}${host.rates ? `, ${formatRate(host.rates.calls_per_s)} calls/s`
    : ""}${host.is_this ? ", this host" : ""}`;
  return html`<li><a class=${`square tone-${HOST_TONES[host.state]}${host.is_this ? " here" : ""}`}
    href=${href.host(host.id)} title=${words} style=${fill}>
    ${host.state !== "ok" && html`<${Icon} name=${host.state === "lost" ? "cross" : "warning"} size=${14} />`}<span
      class="sr-only">${words}</span></a></li>`;
}

function HostTile({ host }) {
  const tone = HOST_TONES[host.state];
  return html`<li><a class="tile tone-${tone}" href=${href.host(host.id)} title=${host.id}>
    <span class="tile-name"><span class="dot" aria-hidden="true"></span><b>${host.name}</b>${host.is_this && html`<span
      class="this">this host</span>`}</span>
    <span class="tile-line">${host.state === "ok" ? html`${plural(host.actors, "actor")}, ${plural(host.replicas,
      "replica")}`
      : html`<span class="tile-state">${host.state}</span>, heard <${RelativeTime} at=${host.heard_ms} />${
        host.runs_nowhere > 0 && `, ${host.runs_nowhere} run nowhere`}`}</span>
    <span class="tile-line num">${host.rates ? `${formatRate(host.rates.calls_per_s)} calls/s` : "no figures"}</span>
    <span class="sr-only">state ${host.state}</span></a></li>`;
}

/** The hosts as tiles, grouped by the value of a label. */
function HostMap({ hosts, total }) {
  const keys = useMemo(() => {
    const all = new Set(hosts.flatMap((host) => Object.keys(host.labels)));
    return [...FIRST_KEYS.filter((key) => all.has(key)), ...[...all].filter((key) => !FIRST_KEYS.includes(key)).sort()];
  }, [hosts]);
  const [chosen, choose] = useRemembered("overview.group", "");
  const key = keys.includes(chosen) || chosen === "-" ? chosen : keys[0] || "-";
  const groups = useMemo(() => {
    const map = new Map();
    for (const host of hosts) {
      const value = key === "-" ? "" : host.labels[key] ?? null;
      if (!map.has(value)) map.set(value, []);
      map.get(value).push(host);
    }
    return [...map].sort(([a], [b]) => (a === null) - (b === null) || (a < b ? -1 : 1));
  }, [hosts, key]);
  const dense = hosts.length > 40;
  const most = dense ? Math.max(0, ...hosts.map((host) => host.rates?.calls_per_s ?? 0)) : 0;
  return html`<${Card} title="Hosts" count=${total ?? undefined} actions=${html`<label class="inline-label">Group by
    <${Select} label="Group the hosts by the label" value=${key} onInput=${choose}
      options=${[...keys.map((name) => [name, name]), ["-", "no label"]]} /></label>`}>
    <div class=${dense ? "map dense" : "map"}>${groups.map(([value, members]) => {
      const lost = members.filter((host) => host.state === "lost").length;
      return html`<section key=${String(value)} class="map-group" aria-label=${value === null ? `No label ${key}`
        : key === "-" ? "All hosts" : `${key} ${value}`}>
      ${key !== "-" && html`<h3><span class="muted">${key}</span> ${value === null ? html`<i>not set</i>` : value}
        <span class="count">${members.length}</span>${lost > 0 && html` <${StatusDot} tone="error"
          text=${`${lost} lost`} />`}</h3>`}
      <ul class="tiles">${members.map((host) => (dense ? html`<${HostSquare} key=${host.id} host=${host} most=${most}
        />`
        : html`<${HostTile} key=${host.id} host=${host} />`))}</ul></section>`;
    })}</div>
    ${dense && html`<p class="map-legend"><span>One square is one host. The fuller its colour, the more calls.</span>
      <span><${Icon} name="warning" size=${13} /> silent</span><span><${Icon} name="cross" size=${13} /> lost</span>
        </p>`}
    ${total > hosts.length && html`<p class="muted">The first ${formatCount(hosts.length)} hosts are shown. <a
      href="/hosts">All of them</a></p>`}
  </>`;
}

/** What to do first in a lattice where nothing runs. */
function FirstSteps() {
  return html`<${Card} title="First steps"><${EmptyState} icon="actor" title="No actor runs yet"
    command="host start actor ./echo.wasm"
    action=${html`<${Button} kind="primary" icon="plus" onClick=${() => startActor()}>Start an actor</>
      <${Button} icon="plus" onClick=${() => startProvider()}>Start a provider</>`}>
    Start one with the button, or with the command below. An actor that serves HTTP needs a provider such as
    ${" "}builtin://httpserver, and a link between the two.</></>`;
}

export function Overview() {
  const { data, error, refresh } = useResource("/overview");
  const listed = useResource("/hosts?limit=1000", ["hosts"]);
  const events = useResource("/events?limit=9", ["events"]);
  const now = useLive((state) => state.overview);
  const points = useLive((state) => state.points);
  const series = useMemo(() => continued(data?.series, points), [data, points]);
  const counts = now?.counts || data?.counts;
  const rates = now?.rates || data?.rates;
  const attention = now?.attention || data?.attention;
  // The figures of hosts are of the same moment as those above them.
  const ofHosts = now?.hosts || data?.hosts;
  const hosts = useMemo(() => (listed.data?.items || []).map((host) => ({ ...host, rates: host.state === "lost" ? null
    : ofHosts?.[host.id] ?? host.rates })), [listed.data, ofHosts]);
  const figure = (label, name, format, unit, tone) => html`<${Stat} label=${label} value=${rates ? format(rates[name])
    : null} unit=${unit}
    tone=${name === "request_errors_per_s" && rates?.request_errors_per_s > 0 ? "error" : ""} sub=${!rates ? ""
      : name === "requests_per_s" ? `${formatRate(rates.calls_per_s)} calls/s`
      : name === "request_errors_per_s" ? `${formatRate(rates.errors_per_s)} failed calls/s`
      : ""}
    spark=${series && html`<${Sparkline} tone=${tone} values=${series[{ requests_per_s: "calls",
      request_errors_per_s: "errors" }[name] || name]}
      label=${`${label} over the last two minutes`} />`} />`;
  return html`<div class="view overview">
    <header class="page-header overview-head"><h1 class="sr-only">Overview</h1>
      <${StateLine} counts=${counts} attention=${attention || []} />
      <div class="page-actions">
      <${Button} icon="plus" kind="primary" onClick=${() => startActor()}>Start an actor</>
      <${Menu} label="More to start" items=${[
        { text: "Start a provider", icon: "provider", onSelect: () => startProvider() },
        { text: "Link an actor to a provider", icon: "link", onSelect: () => putLink() },
        { text: "Call an actor", icon: "call", href: "/call" }]} /></div></header>
    ${error && !data && html`<${ErrorNote} error=${error} retry=${refresh} />`}
    <div class="stats">
      ${figure("Requests", "requests_per_s", formatRate, "/s", "calls")}
      ${figure("Failed requests", "request_errors_per_s", formatRate, "/s", errorTone(series?.errors))}
      ${figure("Latency p50", "p50_us", formatMicros, "", "p50")}
      ${figure("Latency p99", "p99_us", formatMicros, "", "p99")}
      <${Stat} label="Hosts" href="/hosts" value=${counts && formatCount(counts.hosts)} tone=${counts?.hosts_lost
        ? "error" : ""}
        sub=${counts && (counts.hosts_lost ? `${counts.hosts_lost} lost` : "none lost")} />
      <${Stat} label=${html`<${Term} of="replica">Replicas</>`} value=${counts
        && formatReplicas(counts.replicas)} sub=${counts
        && `of ${plural(counts.actors, "actor")}`} />
    </div>
    <div class="overview-grid">
      <div class="stack">
        ${counts && counts.actors === 0 && !counts.hosts_lost && html`<${FirstSteps} />`}
        <${Card} title="Traffic"><${SeriesChart} series=${series} of=${{ of: "lattice" }} /></>
        <${HostMap} hosts=${hosts} total=${listed.data?.total ?? null} />
      </div>
      <div class="stack">
        <${Card} title="Needs attention" count=${attention?.filter(isOpen).length || undefined}>
          <${AttentionList} items=${attention} /><${MutedAttention} /></>
        <${Card} title="Latest events" actions=${html`<a href="/events">All events</a>`}>
          ${!events.data ? html`<${Skeleton} lines=${6} height="2.4rem" />` : !events.data.items.length
            ? html`<${EmptyState} small title="No event yet" />` : html`<ul class="event-list">
              ${events.data.items.map((event) => html`<${EventLine} key=${event.id || event.seq} event=${event} />`)}</ul>`}
        </>
        <${Card} title="Store">${data ? html`<p>${data.store.is_known ? html`<${Badge} tone=${data.store.error ? "error"
          : "good"}>
          ${data.store.error ? "failing" : "ok"}</>` : html`<${Badge}>not known</>`} ${data.store.place}</p>
          <p class="muted small">${data.store.error || (data.store.is_shared
            ? "Links and claims are shared by all hosts of the lattice."
            : "Links and claims are kept by this host only.")}</p>` : html`<${Skeleton} lines=${2} />`}</>
      </div>
    </div>
  </div>`;
}
