// Owns the view of link definitions (as a table and as a graph), and how links are shown elsewhere.
import {
  ActorLink, Button, CallRate, Command, Cut, Dialog, EmptyState, ErrorNote, ExternalLink, Facts, formatCount, html, Icon,
  Key, LinkState, Menu, Note, openDialog, PageHeader, ProviderLink, SearchBox, setQuery, shortKey, Skeleton, Success,
  Table, Tabs, Term, useListQuery, useMemo, useResource, useState, VirtualTable, withQuery,
} from "../ui/index.js";
import { LinkGraph } from "../ui/graph.js";
import { changeMany, deleteLink, isLoggedIn, putLink, undoLink } from "../actions/index.js";

const linkKey = (link) => `${link.actor_id} ${link.contract_id} ${link.link_name}`;

const hiddenBecause = () => (isLoggedIn() ? "a secret is not shown" : "log in to read it");

function Value({ name, value }) {
  const text = value === null ? "hidden" : value;
  return html`<li class="chip" title=${value === null ? `${name}: ${hiddenBecause()}` : `${name}=${value}`}>
    <span class="chip-key">${name}</span><span class=${value === null ? "chip-value muted" : "chip-value"}>
    ${text}</span></li>`;
}

/** The values of a link; secrets are told as hidden. Beyond two they are folded, and a button unfolds them. */
export function Values({ values, fixed }) {
  const [isOpen, setOpen] = useState(false);
  const entries = Object.entries(values);
  if (!entries.length) return html`<span class="muted">none</span>`;
  const shown = isOpen ? entries : entries.slice(0, 2);
  const rest = entries.length - 2;
  return html`<ul class="chips">${shown.map(([name, value]) => html`<${Value} key=${name} name=${name} value=${value}
    />`)}${rest > 0 && (fixed ? html`<li class="chip more" title=${`${rest} more: open the row`}>+${rest}</li>`
    : html`<li><button type="button" class="chip more" aria-expanded=${isOpen} onClick=${() => setOpen(!isOpen)}>
      ${isOpen ? "fewer" : `+${rest}`}<span class="sr-only"> values</span></button></li>`)}</ul>`;
}

/** Where the pages are that a link brings. */
function Urls({ urls, max = Infinity }) {
  if (!urls.length) return html`<span class="muted">–</span>`;
  return html`<span class="urls">${urls.slice(0, max).map((url) => html`<${ExternalLink} key=${url} url=${url}>
    ${url.replace(/^https?:\/\//, "")}</>`)}${urls.length > max && html`<span class="muted"
    title=${urls.join("\n")}>+${urls.length - max}</span>`}</span>`;
}

const LinkMenu = ({ link }) => html`<${Menu} label=${`Actions of the link of ${link.actor_name
  || shortKey(link.actor_id)} for ${link.contract_id}`} items=${[
  { text: "Edit", icon: "edit", onSelect: () => putLink(link) },
  { text: "Undo the last change", icon: "undo", onSelect: () => undoLink(link) },
  { text: "Delete", icon: "trash", danger: true, onSelect: () => deleteLink(link) }]} />`;

const ACTOR = { key: "actor", title: "Actor", sort: "actor_name", min: "150px", render: (link) => html`<${ActorLink}
  id=${link.actor_id} name=${link.actor_name} />` };
const PROVIDER = { key: "provider", title: "Provider", sort: "provider_name", min: "140px",
  render: (link) => html`<${ProviderLink} id=${link.provider_id} linkName=${link.link_name}
    name=${link.provider_name} />` };
const CONTRACT = { key: "contract", title: "Contract", sort: "contract_id", phoneLabel: false, width: "184px",
  render: (link) => html`<span class="mono"><${Cut} text=${link.contract_id} /></span>` };
const NAME = { key: "name", title: "Link name", sort: "link_name", width: "100px", phone: false,
  render: (link) => link.link_name };
const STATE = { key: "state", title: "State", sort: "state", width: "128px", phoneLabel: false,
  render: (link) => html`<${LinkState} state=${link.state} problem=${link.problem} />` };
const CALLS = { key: "calls", title: "Calls", sort: "calls", down: true, align: "right", width: "120px", phone: false,
  hint: "Calls by this link: of the actor, or of an HTTP server to it", render: (link) => html`<${CallRate}
    rates=${link.rates} />` };
const SUCCESS = { key: "success", title: "Success", sort: "errors", down: true, align: "right", width: "150px",
  phone: false, hint: "The share of its calls that end well; of an HTTP server with its answers 4xx and 5xx",
  render: (link) => html`<${Success} rates=${link.rates} />` };
const MENU = { key: "menu", title: "", width: "56px", align: "right", phone: false,
  render: (link) => html`<${LinkMenu} link=${link} />` };

const COLUMNS = [
  { ...ACTOR, render: (link) => html`<b>${ACTOR.render(link)}</b>` }, { ...PROVIDER, width: "146px" }, CONTRACT, NAME,
  { ...STATE, width: undefined, min: "210px", render: (link) => html`<span class="thing" title=${link.problem
    || ""}>${STATE.render(link)}${link.problem && html`<span class="clip muted">${link.problem}</span>`}</span>` },
  { ...CALLS, from: 980 }, { ...SUCCESS, from: 980 },
  { key: "values", title: "Values", width: "250px", phone: false, render: (link) => html`<${Values}
    values=${link.values} fixed />` },
  { key: "urls", title: "Pages", width: "150px", from: 1260, phone: false, render: (link) => html`<${Urls}
    urls=${link.urls} max=${1} />` },
  MENU,
];

/** The links of an actor or to a provider; `side` names the other end, which is shown. */
export function LinksTable({ links, side, empty }) {
  const columns = [side === "provider" ? PROVIDER : ACTOR, CONTRACT, NAME,
    { ...STATE, width: "260px", render: (link) => html`${STATE.render(link)}${link.problem && html`<p
      class="muted small">${link.problem}</p>`}` }, CALLS, SUCCESS,
    { key: "values", title: "Values", render: (link) => html`<${Values} values=${link.values} />` },
    { key: "urls", title: "Pages", render: (link) => html`<${Urls} urls=${link.urls} />` }, MENU];
  return html`<${Table} label="Links" columns=${columns} items=${links} rowKey=${linkKey} empty=${empty} />`;
}

/** All of one link definition. */
function LinkDialog({ close, link: first }) {
  // It stays in step while it is open; gone from the answer, it was deleted.
  const { data } = useResource(withQuery("/links", { q: first.actor_id, limit: 1000 }), ["links", "providers"]);
  const now = data?.items.find((each) => linkKey(each) === linkKey(first));
  const link = now || first;
  const values = Object.entries(link.values);
  const put = `host link put ${link.actor_id} ${link.provider_id} ${link.contract_id} --link-name ${link.link_name}`;
  const act = (run) => async () => {
    close();
    await run(link);
  };
  return html`<${Dialog} title="Link definition" close=${close} wide footer=${html`<${Button} kind="ghost" icon="trash"
      onClick=${act(deleteLink)}>Delete</><${Button} kind="ghost" icon="undo" onClick=${act(undoLink)}>Undo the last
      change</><span class="grow"></span><${Button} onClick=${() => close()}>Close</>
      <${Button} kind="primary" icon="edit" onClick=${act(putLink)}>Edit</>`}>
    ${data && !now && html`<${Note} tone="warning">This link was deleted meanwhile.</>`}
    ${link.problem && html`<${Note} tone=${link.state === "not_running" ? "warning" : "error"}>${link.problem}</>`}
    <${Facts} items=${[
      ["Actor", html`${ACTOR.render(link)} <${Key} id=${link.actor_id} />`],
      ["Provider", html`${PROVIDER.render(link)} <${Key} id=${link.provider_id} />`],
      ["Contract", html`<span class="mono">${link.contract_id}</span>`], ["Link name", link.link_name],
      ["State", STATE.render(link)], ["Calls", html`${CALLS.render(link)} ${SUCCESS.render(link)}`],
      ["Pages", html`<${Urls} urls=${link.urls} />`],
      ["Why it is so", html`<${Command} text=${`host explain ${link.actor_id} ${link.contract_id}`} />`]]} />
    <h3>Values</h3>
    ${values.length ? html`<${Facts} items=${values.map(([name, value]) => [name, value === null
      ? html`<span class="muted"><${Icon} name="lock" size=${13} /> hidden: ${hiddenBecause()}</span>`
      : html`<span class="mono">${value}</span>`])} />` : html`<p class="muted">None: the provider's defaults hold. Set
      some with <${Command} text=${`${put} KEY=VALUE`} /></p>`}</>`;
}

/** A list that fits the search; searched here while one request brings all of it, by the server otherwise. */
function useFound(path, sort, collections, q, texts) {
  const all = useResource(withQuery(path, { limit: 500, sort }), collections);
  const isPart = !!all.data && all.data.total > all.data.items.length;
  const found = useResource(isPart && q ? withQuery(path, { q, limit: 500, sort }) : null, collections);
  const items = useMemo(() => {
    if (!all.data) return null;
    if (isPart && q) return found.data?.items ?? [];
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    return all.data.items.filter((item) => {
      const text = texts(item).join(" ").toLowerCase();
      return words.every((word) => text.includes(word));
    });
  }, [all.data, found.data, isPart, q]);
  const rest = isPart ? (q ? found.data : all.data) : null;
  return { items, all: all.data?.items, isPart, rest: rest ? rest.total - rest.items.length : 0, error: all.error,
    refresh: all.refresh };
}

function Graph({ q, empty }) {
  const links = useFound("/links", "state", ["links", "actors", "providers"], q, (link) => [link.actor_id,
    link.actor_name, link.provider_id, link.provider_name, link.link_name, link.contract_id, link.problem || "",
    ...Object.entries(link.values).map((pair) => pair.join("="))]);
  const actors = useFound("/actors", "-calls_per_s", ["actors", "rates"], q, (actor) => [actor.id, actor.name,
    ...actor.references, ...actor.caps]);
  const providers = useFound("/providers", "name", ["providers", "rates"], q, (each) => [each.id, each.name,
    each.link_name, each.contract_id, ...each.references]);
  const error = links.error || actors.error || providers.error;
  if (error) return html`<${ErrorNote} error=${error} retry=${links.refresh} />`;
  if (!links.items || !actors.items || !providers.items) return html`<${Skeleton} height="420px" />`;
  if (!links.items.length && !actors.items.length && !providers.items.length) {
    return html`<div class="graph-card">${empty}</div>`;
  }
  return html`<${LinkGraph} links=${links.items} allLinks=${links.all} found=${actors.items} actors=${actors.all}
    foundProviders=${providers.items} providers=${providers.all} isPart=${actors.isPart || links.isPart}
    rest=${links.rest + actors.rest} />`;
}

const BULK = { name: (link) => `the link of ${link.actor_name || shortKey(link.actor_id)} for ${link.contract_id}`,
  actions: [{ text: "Delete", icon: "trash", run: (rows, done) => changeMany("deleteLinks", rows, "", done) }] };

export function Links() {
  const [q, setQ] = useListQuery();
  const count = useResource(withQuery("/links", { q, limit: 1 }), ["links"]).data?.total;
  const add = html`<${Button} kind="primary" icon="plus" onClick=${() => putLink()}>Link an actor</>`;
  const empty = q ? html`<${EmptyState} icon="search" title="No link fits the search"
      action=${html`<${Button} onClick=${() => setQuery({ q: "" })}>Show all links</>`}>
      No link definition has “${q}” in its actor, provider, contract, link name or values.</>`
    : html`<${EmptyState} icon="link" title="There are no link definitions yet"
      command="host link put ACTOR PROVIDER CONTRACT KEY=VALUE" action=${add}>A link definition allows an actor to use a
      provider for a contract, and holds the provider's settings for that actor. It may be put before either runs.</>`;
  return html`<div class="view view-fill">
    <${PageHeader} title="Links" status=${html`${count !== undefined && html`<span
      class="count">${formatCount(count)}</span>`}<${Term} of="link definition" />`}
      actions=${html`<${SearchBox} label="Search links" placeholder="Actor, provider, contract" value=${q}
        onInput=${setQ} />${add}`} />
    <${Tabs} label="Ways to look at links" tabs=${[
      { id: "table", text: "Table", render: () => html`<${VirtualTable} label="Links" url="/links"
        collections=${["links", "actors", "providers", "rates"]} columns=${COLUMNS} query=${{ q }} phoneLines=${3}
        defaultSort="actor_name" bulk=${BULK} rowKey=${linkKey} onOpen=${(link) => openDialog(LinkDialog, { link })}
        empty=${empty} />` },
      { id: "graph", text: "Graph", render: () => html`<${Graph} q=${q} empty=${empty} />` }]} />
  </div>`;
}
