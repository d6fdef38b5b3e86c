// Owns the list of providers.
import {
  Badge, Button, CallRate, Cut, EmptyState, formatCount, Health, HostNames, href, html, Latency, Menu,
  PageHeader, ProviderLink, SearchBox, setQuery, shortKey, Term, useListQuery, useRoute, useState, VirtualTable,
} from "../ui/index.js";
import { changeMany, putLink, startProvider, stopProvider } from "../actions/index.js";
import { HostFilter, Reference } from "./actors.js";

/** The item of a menu that stops a provider; with several hosts it opens their list. */
export function stopItem(provider, places) {
  const entries = places.map((place) => ({ text: place.host_name || shortKey(place.host_id), danger: true,
    onSelect: () => stopProvider({ provider_id: provider.id, provider_name: provider.name,
      link_name: provider.link_name, host_id: place.host_id, host_name: place.host_name }) }));
  if (!entries.length) return null;
  if (entries.length === 1) return { ...entries[0], text: "Stop", icon: "stop" };
  return { text: "Stop on", icon: "stop", danger: true, items: entries };
}

/** What a link to the provider begins with. */
export const linkPreset = (provider) => ({ provider_id: provider.id, provider_name: provider.name,
  link_name: provider.link_name, contract_id: provider.contract_id });

const ProviderMenu = ({ provider }) => html`<${Menu} label=${`Actions of ${provider.name || shortKey(provider.id)}`}
  items=${[
    { text: "Link an actor to it", icon: "link", onSelect: () => putLink(linkPreset(provider)) },
    { text: "Start it on another host", icon: "plus", onSelect: () => startProvider({
      reference: provider.references[0], link_name: provider.link_name }) },
    stopItem(provider, provider.hosts)]} />`;

const COLUMNS = [
  { key: "name", title: "Provider", sort: "name", min: "180px", render: (each) => html`<b><${ProviderLink} id=${each.id}
    linkName=${each.link_name} name=${each.name} /></b>` },
  { key: "health", title: "State", sort: "health", width: "134px", phoneLabel: false, render: (each) => (each.lost_on.length
    ? html`<${Badge} tone="error" title=${`It ran on ${each.lost_on.join(", ")}, which vanished.`}>runs nowhere</>`
    : html`<${Health} health=${each.health} runs=${each.hosts.length > 0} />`) },
  { key: "contract", title: "Contract", sort: "contract_id", min: "190px", phoneLabel: false,
    render: (each) => html`<span class="mono"><${Cut} text=${each.contract_id} /></span>` },
  { key: "link", title: "Link name", sort: "link_name", width: "120px", render: (each) => each.link_name },
  { key: "reference", title: "Reference", min: "180px", from: 1240, phone: false, render: (each) => html`<${Reference}
    text=${each.references[0]} others=${each.references.slice(1)} />` },
  { key: "hosts", title: "Hosts", sort: "hosts", down: true, width: "210px", phone: false,
    render: (each) => html`<${HostNames} hosts=${each.hosts} />` },
  { key: "links", title: "Links", sort: "links", down: true, align: "right", width: "80px",
    render: (each) => html`<span class="num">${formatCount(each.links)}</span>` },
  { key: "calls", title: "Calls", align: "right", width: "130px", phone: false, render: (each) => html`<${CallRate}
    rates=${each.rates} />` },
  { key: "p99", title: "p99", align: "right", width: "84px", from: 1180, phone: false,
    render: (each) => html`<${Latency} micros=${each.rates?.p99_us ?? null} />` },
  { key: "menu", title: "", width: "56px", phone: false, render: (each) => html`<${ProviderMenu} provider=${each} />` },
];

const bulk = (host) => ({ name: (each) => `${each.name || shortKey(each.id)} (${each.link_name})`, actions: [
  { text: "Move to another host", icon: "host", run: (rows, done) => changeMany("moveProviders", rows, host, done) },
  { text: "Stop", icon: "stop", run: (rows, done) => changeMany("stopProviders", rows, host, done) }] });

export function Providers() {
  const [q, setQ] = useListQuery();
  const { query: { host = "" } } = useRoute();
  const [total, setTotal] = useState(null);
  const start = html`<${Button} kind="primary" icon="plus"
    onClick=${() => startProvider(host ? { host_id: host } : {})}>Start a provider</>`;
  return html`<div class="view view-fill">
    <${PageHeader} title="Providers" status=${html`${total !== null && html`<span
      class="count">${formatCount(total)}</span>`}<${Term} of="provider" />`}
      actions=${html`<${SearchBox} label="Search providers" placeholder="Name, id or contract" value=${q}
        onInput=${setQ} /><span class="filters"><${HostFilter} /></span>${start}`} />
    <${VirtualTable} label="Providers" url="/providers" collections=${["providers", "links", "rates"]}
      columns=${COLUMNS} query=${{ q, host }} phoneLines=${3} onTotal=${setTotal} bulk=${bulk(host)}
      rowKey=${(each) => `${each.id} ${each.link_name}`} rowHref=${(each) => href.provider(each.id, each.link_name)}
      empty=${q || host ? html`<${EmptyState} icon="search" title="No provider fits"
          action=${html`<${Button} onClick=${() => setQuery({ q: "", host: "" })}>Show all providers</>`}>
          ${q ? `Nothing has “${q}” in its name, id, contract, link name or reference.`
            : "No provider runs on this host."}</>`
        : html`<${EmptyState} icon="provider" title="No provider runs yet"
          command="host start provider builtin://httpserver" action=${start}>Providers bring capabilities such as HTTP
          or a key-value store to actors. Every host brings some with it, others come from a registry or a file.</>`} />
  </div>`;
}
