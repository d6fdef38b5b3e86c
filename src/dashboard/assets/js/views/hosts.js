// Owns the list of hosts.
import {
  CallRate, Command, EmptyState, formatBytes, formatCount, href, HostState, html, Key, Labels, Latency, Menu, PageHeader,
  RelativeTime, SearchBox, Since, Term, useListQuery, useState, VirtualTable, whyNot,
} from "../ui/index.js";
import {
  changeMany, drainHost, editLabels, forgetHost, startActor, startElsewhere, startProvider, stopHost, undrainHost,
} from "../actions/index.js";

const COLUMNS = [
  { key: "name", title: "Host", sort: "name", min: "210px", render: (host) => html`<span class="thing"><a
    href=${href.host(host.id)}><b>${host.name}</b></a>
    ${host.is_this && html`<span class="this">this host</span>`}</span>` },
  { key: "state", title: "State", sort: "state", width: "92px", phoneLabel: false, render: (host) => html`<${HostState}
    state=${host.state} />` },
  { key: "id", title: "Id", width: "132px", from: 1600, phone: false, render: (host) => html`<${Key} id=${host.id}
    href=${href.host(host.id)} />` },
  { key: "labels", title: "Labels", min: "250px", phone: false, render: (host) => html`<${Labels}
    labels=${ownLabels(host.labels)} max=${2} empty="–" />` },
  { key: "actors", title: "Actors", sort: "actors", down: true, align: "right", width: "84px",
    render: (host) => html`<span class="num">${formatCount(host.actors)}${host.runs_nowhere > 0 && html` <span
      class="text-error" title="That ran only there, and run nowhere now">${host.runs_nowhere} nowhere</span>`}</span>` },
  { key: "replicas", title: "Replicas", sort: "replicas", down: true, align: "right", width: "96px", phone: false,
    render: (host) => html`<span class="num">${formatCount(host.replicas)}</span>` },
  { key: "providers", title: "Providers", sort: "providers", down: true, from: 1240, align: "right", width: "104px",
    phone: false, render: (host) => html`<span class="num">${formatCount(host.providers)}</span>` },
  { key: "calls", title: "Calls", sort: "calls", down: true, align: "right", width: "132px",
    render: (host) => html`<${CallRate} rates=${host.rates} />` },
  { key: "p99", title: "p99", sort: "p99", down: true, align: "right", width: "84px", from: 1340, phone: false,
    render: (host) => html`<${Latency} micros=${host.rates?.p99_us ?? null} />` },
  { key: "memory", title: "Memory", sort: "memory", down: true, align: "right", width: "96px", from: 1440, phone: false,
    render: (host) => html`<span class="num">${formatBytes(host.memory_bytes)}</span>` },
  { key: "uptime", title: "Uptime", sort: "started", align: "right", width: "100px", phone: false,
    render: (host) => html`<span class="num"><${Since} at=${host.state === "lost" ? null : host.started_ms} /></span>` },
  { key: "heard", title: "Heard", sort: "heard", down: true, align: "right", width: "100px", from: 1240,
    phone: false, render: (host) => html`<${RelativeTime} at=${host.heard_ms} />` },
  { key: "menu", title: "", width: "56px", phone: false, render: (host) => html`<${HostMenu} host=${host} />` },
];

/** The labels that somebody set; every host has the hostcore ones. */
const ownLabels = (labels) => Object.fromEntries(Object.entries(labels).filter(([key]) =>
  !key.startsWith("hostcore.")));

export function HostMenu({ host, text }) {
  if (host.state === "lost") {
    return html`<${Menu} label=${`Actions of ${host.name}`} text=${text} items=${[
      { text: "Start elsewhere what ran here", icon: "plus", onSelect: () => startElsewhere(host) },
      { text: "Forget the host", icon: "trash", danger: true, onSelect: () => forgetHost(host) }]} />`;
  }
  return html`<${Menu} label=${`Actions of ${host.name}`} text=${text} why=${whyNot(host)} items=${[
    { text: "Start an actor here", icon: "plus", onSelect: () => startActor({ host_id: host.id }) },
    { text: "Start a provider here", icon: "plus", onSelect: () => startProvider({ host_id: host.id }) },
    { text: "Edit labels", icon: "edit", onSelect: () => editLabels(host) },
    "lattice.host/drained" in host.labels
      ? { text: "Let it take work again", icon: "refresh", onSelect: () => undrainHost(host) }
      : { text: "Drain", icon: "host", onSelect: () => drainHost(host) },
    { text: "Stop the host", icon: "stop", danger: true, onSelect: () => stopHost(host) }]} />`;
}

const BULK = { name: (host) => host.name, actions: [
  { text: "Drain", icon: "host", run: (rows, done) => changeMany("drainHosts", rows, "", done) },
  { text: "Stop", icon: "stop", run: (rows, done) => changeMany("stopHosts", rows, "", done) }] };

export function Hosts() {
  const [q, setQ] = useListQuery();
  const [total, setTotal] = useState(null);
  return html`<div class="view view-fill">
    <${PageHeader} title="Hosts" status=${html`${total !== null && html`<span class="count">${formatCount(total)}</span>`}
      <${Term} of="host" />`}
      actions=${html`<${SearchBox} label="Search hosts" placeholder="Name, id or label" value=${q} onInput=${setQ} />`}
        />
    <${VirtualTable} label="Hosts" url="/hosts" collections=${["hosts", "rates"]} columns=${COLUMNS} query=${{ q }}
      onTotal=${setTotal} bulk=${BULK}
      rowKey=${(host) => host.id} rowHref=${(host) => href.host(host.id)} rowClass=${(host) => (host.state === "lost"
        ? "lost" : "")}
      empty=${q ? html`<${EmptyState} icon="search"
        title="No host fits the search">Nothing in this lattice has “${q}” in its name, id or labels.</>`
        : html`<${EmptyState} icon="host" title="No host is heard">Start one with <${Command} text="host up" /></>`} />
  </div>`;
}
