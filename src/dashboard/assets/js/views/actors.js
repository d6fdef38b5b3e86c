// Owns the list of actors, and what other views take from it: the filter by host, references, the actions of an actor.
import {
  ActorLink, ActorState, apiPath, Badge, Button, CallRate, Chips, Cut, EmptyState, formatCount, formatRate, get, HostNames, href,
  html, Key, Latency, Menu, PageHeader, SearchBox, Select, setQuery, shortKey, Term, useListQuery, useResource, useRoute,
  useState, VirtualTable,
} from "../ui/index.js";
import { GLOSSARY } from "../glossary.js";
import { changeMany, putLink, scaleActor, startActor, stopActor, updateActor } from "../actions/index.js";

const UNBOUNDED = 4294967295;

/** How many replicas; one that was scaled without a bound says so. */
export const formatReplicas = (n) => (n >= UNBOUNDED ? "unbounded" : formatCount(n));

/** How a reference is shown: the file with its version, or the image with its tag. An upload has only a hash. */
function shownReference(text, name, version) {
  const file = text.slice(text.lastIndexOf("/") + 1);
  if (text.startsWith("lattice://")) return [name || "upload", version, "uploaded"];
  return text.startsWith("file://") ? [file, version] : [text];
}

/** A reference that is cut in the middle: its end, with the tag, stays in sight. `name` and `version` are of the claims. */
export function Reference({ text, others = [], name = "", version = "" }) {
  if (!text) return html`<span class="muted">–</span>`;
  const [shown, ...notes] = shownReference(text, name, version).filter(Boolean);
  const at = shown.lastIndexOf("/") + 1;
  return html`<span class="ref" title=${[text, ...others].join("\n")}><span class="mono cut"><${Cut} text=${shown}
    at=${shown.length - at > 32 ? shown.length - 16 : at} /></span>${notes.map((note) => html`<span key=${note}
    class="muted">${note}</span>`)}${others.length > 0 && html`<span class="chip more">+${others.length}</span>`}</span>`;
}

/** The kind of an actor's code; hosts of other makes do not tell it. */
export function Kind({ actor }) {
  return actor.kind === "unknown" ? html`<span class="muted">–</span>`
    : html`<span>${actor.kind}${actor.wasi && html` <span class="muted">${actor.wasi}</span>`}</span>`;
}

/** Filters a list by a host; the choice is kept in the query of the address. */
export function HostFilter() {
  const { query } = useRoute();
  const { data } = useResource("/hosts?limit=1000&sort=name", ["hosts"]);
  const hosts = data?.items || [];
  const options = [["", "All hosts"], ...hosts.map((host) => [host.id, host.state === "ok" ? host.name
    : `${host.name} (${host.state})`])];
  if (query.host && !hosts.some((host) => host.id === query.host)) options.push([query.host, shortKey(query.host)]);
  return html`<${Select} label="Host" value=${query.host || ""} onInput=${(host) => setQuery({ host })}
    options=${options} />`;
}

/** The items of a menu to scale, update and stop an actor where it runs; with several places each opens their list. */
export function placementItems(actor, placements) {
  const target = (place) => ({ actor_id: actor.id, actor_name: actor.name, host_id: place.host_id,
    host_name: place.host_name });
  const name = (place, annotations = {}) => [place.host_name || shortKey(place.host_id),
    ...Object.entries(annotations).map(([key, value]) => `${key}=${value}`)].join(", ");
  const choice = (text, icon, entries, danger) => {
    if (!entries.length) return null;
    if (entries.length === 1) return { text, icon, danger, onSelect: entries[0].onSelect };
    return { text: `${text} on`, icon, danger, items: entries.map((entry) => ({ ...entry, danger })) };
  };
  const groups = placements.flatMap((place) => (place.groups.length ? place.groups
    : [{ annotations: {}, max: place.replicas }]).map(({ annotations, max }) => ({
    text: `${name(place, annotations)}: ${formatReplicas(max)}`,
    onSelect: () => scaleActor({ ...target(place), max, annotations }) })));
  return [
    choice("Scale", "edit", groups),
    choice("Update", "refresh", placements.map((place) => ({ text: name(place),
      onSelect: () => updateActor({ ...target(place), reference: place.reference }) }))),
    choice("Stop", "stop", placements.map((place) => ({ text: name(place),
      onSelect: () => stopActor({ ...target(place), replicas: place.replicas }) })), true),
  ].filter(Boolean);
}

function ActorMenu({ actor }) {
  const items = async () => {
    const { placements } = await get(apiPath("actors", actor.id) + "?brief=true");
    return [
      ...placementItems(actor, placements),
      { text: "Start another replica", icon: "plus", onSelect: () => startActor({ reference: actor.references[0] }) },
      { text: "Link it to a provider", icon: "link",
        onSelect: () => putLink({ actor_id: actor.id, actor_name: actor.name }) },
      { text: "Call it", icon: "call", href: `/call?actor=${actor.id}` }];
  };
  return html`<${Menu} label=${`Actions of ${actor.name || shortKey(actor.id)}`} items=${items} />`;
}

const COLUMNS = [
  { key: "name", title: "Actor", sort: "name", min: "168px", render: (actor) => (actor.name
    ? html`<b><${ActorLink} id=${actor.id} name=${actor.name} /></b>` : html`<${Key} id=${actor.id}
    href=${href.actor(actor.id)} />`) },
  { key: "state", title: "State", sort: "state", width: "166px", phoneLabel: false, render: (actor) => (actor.lost_on.length
    ? html`<${Badge} tone="error" title=${`It ran on ${actor.lost_on.join(", ")}, which vanished.`}>runs nowhere</>`
    : html`<${ActorState} state=${actor.state} />`) },
  { key: "id", title: "Id", width: "132px", from: 1760, phone: false, render: (actor) => html`<${Key} id=${actor.id}
    />` },
  { key: "references", title: "Reference", sort: "references", min: "168px", from: 900, phone: false,
    render: (actor) => html`<${Reference} text=${actor.references[0]} others=${actor.references.slice(1)}
      name=${actor.name} version=${actor.version} />` },
  { key: "kind", title: "Kind", sort: "kind", width: "124px", from: 1640, phone: false, hint: "A module (waPC), or a " +
    "component and its line of WASI", render: (actor) => html`<${Kind} actor=${actor} />` },
  { key: "caps", title: "Contracts", hint: "What it may use by its claims", min: "220px", from: 1360, phone: false,
    render: (actor) => html`<${Chips} items=${actor.caps} max=${2} empty="–" />` },
  { key: "replicas", title: "Replicas", sort: "replicas", down: true, align: "right", width: "96px",
    hint: GLOSSARY.replica, render: (actor) => html`<span class="num">${formatReplicas(actor.replicas)}</span>` },
  { key: "hosts", title: "Hosts", sort: "hosts", down: true, width: "160px",
    render: (actor) => html`<${HostNames} hosts=${actor.runs_on} total=${actor.hosts} />` },
  { key: "calls", title: "Calls", sort: "calls_per_s", down: true, align: "right", width: "86px",
    render: (actor) => html`<${CallRate} rates=${actor.rates && { ...actor.rates, errors_per_s: 0 }} />` },
  { key: "errors", title: "Errors", sort: "errors_per_s", down: true, align: "right", width: "84px", phone: false,
    render: (actor) => html`<${ErrorRate} rates=${actor.rates} />` },
  { key: "p50", title: "p50", sort: "p50_us", down: true, align: "right", width: "82px", from: 1230, phone: false,
    render: (actor) => html`<${Latency} micros=${actor.rates?.p50_us ?? null} />` },
  { key: "p99", title: "p99", sort: "p99_us", down: true, align: "right", width: "82px", phone: false,
    render: (actor) => html`<${Latency} micros=${actor.rates?.p99_us ?? null} />` },
  { key: "menu", title: "", width: "52px", phone: false, render: (actor) => html`<${ActorMenu} actor=${actor} />` },
];

const bulk = (host) => ({ name: (actor) => actor.name || shortKey(actor.id), actions: [
  { text: "Move to another host", icon: "host", run: (rows, done) => changeMany("moveActors", rows, host, done) },
  { text: "Stop", icon: "stop", run: (rows, done) => changeMany("stopActors", rows, host, done) }] });

/** Errors per second, red where there are any. */
export function ErrorRate({ rates }) {
  if (!rates) return html`<span class="muted">–</span>`;
  return html`<span class=${rates.errors_per_s > 0 ? "num text-error" : "num muted"}>
    ${formatRate(rates.errors_per_s)}${rates.errors_per_s > 0 && "/s"}</span>`;
}

export function Actors() {
  const [q, setQ] = useListQuery();
  const { query: { host = "" } } = useRoute();
  const [total, setTotal] = useState(null);
  const start = html`<${Button} kind="primary" icon="plus"
    onClick=${() => startActor(host ? { host_id: host } : {})}>Start an actor</>`;
  return html`<div class="view view-fill">
    <${PageHeader} title="Actors" status=${html`${total !== null && html`<span class="count">${formatCount(total)}</span>`}
      <${Term} of="actor" />`}
      actions=${html`<${SearchBox} label="Search actors" placeholder="Name, id or reference" value=${q}
        onInput=${setQ} /><span class="filters"><${HostFilter} /></span>${start}`} />
    <${VirtualTable} label="Actors" url="/actors" collections=${["actors", "rates"]} columns=${COLUMNS}
      query=${{ q, host }} phoneLines=${3} onTotal=${setTotal} bulk=${bulk(host)}
      rowKey=${(actor) => actor.id} rowHref=${(actor) => href.actor(actor.id)}
      empty=${q || host ? html`<${EmptyState} icon="search" title="No actor fits"
          action=${html`<${Button} onClick=${() => setQuery({ q: "", host: "" })}>Show all actors</>`}>
          ${q ? html`Nothing ${host ? "on this host" : "in this lattice"} has “${q}” in its name, id, reference or
            contracts.` : "No actor runs on this host."}</>`
        : html`<${EmptyState} icon="actor" title="No actor runs yet" command="host start actor ./echo_s.wasm"
          action=${start}>Start one with the button, or with the command below. A file is sent into the lattice, so that
          every host can run it.</>`} />
  </div>`;
}
