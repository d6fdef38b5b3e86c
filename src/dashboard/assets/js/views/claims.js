// Owns the list of claims, and how claims are shown elsewhere.
import {
  ActorLink, Button, Chips, CopyButton, Dialog, EmptyState, ErrorNote, Facts, formatCount, formatDuration, formatTime, href,
  html, Key, now, openDialog, PageHeader, SearchBox, Segmented, setQuery, shortKey, Skeleton, StatusDot, Term, useListQuery,
  useResource, useRoute, useState, VirtualTable, withQuery,
} from "../ui/index.js";

const NONE = html`<span class="muted">none</span>`;
const version = (claims) => html`<span class="num">${claims.version || "–"}${claims.revision !== "" &&
  html` <span class="muted">rev ${claims.revision}</span>`}</span>`;
/** When claims cease to count, red when they are over and yellow in the two weeks before. */
function Expires({ at }) {
  if (at === null) return html`<span class="muted">–</span>`;
  const left = at - now();
  const tone = left < 0 ? "error" : left < 14 * 86400e3 ? "warning" : "";
  const text = left < 0 ? "expired" : `in ${formatDuration(left)}`;
  return html`<span title=${formatTime(at)}>${tone ? html`<${StatusDot} tone=${tone} text=${text} />` : text}</span>`;
}

const Running = ({ on }) => html`<${StatusDot} tone=${on ? "good" : "muted"} text=${on ? "running" : "not running"} />`;

/** What claims say, as facts, after `first`. `caps` renders the contracts; without it they are chips. */
export function ClaimsFacts({ claims, caps, first = [] }) {
  return html`<${Facts} items=${[
    ...first,
    ["Issuer", html`<${Key} id=${claims.issuer} />`],
    ["Version", version(claims)],
    claims.kind === "actor" && ["Call alias", claims.call_alias ? html`<span class="mono">${claims.call_alias}</span>
      <${CopyButton} text=${claims.call_alias} label="Copy the call alias" />` : NONE],
    ["Expires", html`<${Expires} at=${claims.expires_ms} />`],
    ["Tags", html`<${Chips} items=${claims.tags} />`],
    claims.kind === "provider" ? ["Contract", html`<span class="mono">${claims.contract_id || "–"}</span>`]
      : [html`<${Term} of="contract">May use</>`, caps || html`<${Chips} items=${claims.caps} empty="no contract" />`],
  ]} />`;
}

/** All of one claims, and where the thing is. */
function ClaimsDialog({ close, claims }) {
  const isProvider = claims.kind === "provider";
  // The claims do not tell the link names that a provider runs under.
  const { data, error } = useResource(isProvider ? withQuery("/providers", { q: claims.id }) : null, ["providers"]);
  const found = data?.items || [];
  const places = found.length ? html`<ul class="plain">${found.map((each) => html`<li key=${each.link_name}>
      <a href=${href.provider(each.id, each.link_name)}>${`${each.name || claims.name} under link name
      ${each.link_name}`}</a></li>`)}</ul>` : data ? NONE : html`<${Skeleton} width="12rem" />`;
  return html`<${Dialog} title=${`Claims of ${claims.name || shortKey(claims.id)}`} close=${close}>
    ${error && html`<${ErrorNote} error=${error} />`}
    <${Facts} items=${[["Kind", claims.kind], ["Id", html`<${Key} id=${claims.id} full />`],
      ["State", html`<${Running} on=${claims.is_running} />`],
      isProvider ? ["Runs as", places] : ["Actor", html`<${ActorLink} id=${claims.id}
        name=${claims.name || "open the actor"} />`]]} />
    <${ClaimsFacts} claims=${claims} /></>`;
}

const COLUMNS = [
  { key: "name", title: "Name", sort: "name", min: "180px", render: (claims) => html`<b>${claims.kind === "actor"
    ? html`<${ActorLink} id=${claims.id} name=${claims.name} />` : html`<a title=${claims.id}
    href=${`/providers?q=${claims.id}`}>${claims.name || shortKey(claims.id)}</a>`}</b>` },
  { key: "kind", title: "Kind", sort: "kind", width: "92px", phoneLabel: false, render: (claims) => claims.kind },
  { key: "running", title: "State", sort: "is_running", down: true, width: "120px", phoneLabel: false,
    render: (claims) => html`<${Running} on=${claims.is_running} />` },
  { key: "expires", title: "Expires", sort: "expires", width: "128px", phoneLabel: false,
    hint: "When the claims of what runs cease to count", render: (claims) => html`<${Expires}
      at=${claims.expires_ms} />` },
  { key: "id", title: "Id", width: "132px", from: 1180, phone: false, render: (claims) => html`<${Key} id=${claims.id}
    />` },
  { key: "issuer", title: "Issuer", sort: "issuer", width: "132px", phone: false, render: (claims) => html`<${Key}
    id=${claims.issuer} />` },
  { key: "version", title: "Version", sort: "version", width: "128px", phoneLabel: false,
    render: version },
  { key: "caps", title: "Contracts", hint: "What an actor may use, what a provider provides", min: "200px",
    phone: false, render: (claims) => html`<${Chips} items=${claims.kind === "provider" && claims.contract_id
      ? [claims.contract_id] : claims.caps} max=${2} empty="–" />` },
  { key: "tags", title: "Tags", width: "130px", from: 1300, phone: false, render: (claims) => html`<${Chips}
    items=${claims.tags} empty="–" />` },
  { key: "alias", title: "Call alias", width: "150px", from: 1080, phone: false, render: (claims) => (claims.call_alias
    ? html`<span class="mono">${claims.call_alias}</span>` : html`<span class="muted">–</span>`) },
];

const KINDS = [["", "All"], ["actor", "Actors"], ["provider", "Providers"]];

export function Claims() {
  const [q, setQ] = useListQuery();
  const { query } = useRoute();
  const kind = query.kind || "";
  const [total, setTotal] = useState(null);
  return html`<div class="view view-fill">
    <${PageHeader} title="Claims" status=${html`${total !== null && html`<span class="count">${formatCount(total)}</span>`}
      <${Term} of="claim" />`}
      sub="Who signed what, and for which contracts: of all actors and providers that ever ran in this lattice."
      actions=${html`<${SearchBox} label="Search claims" placeholder="Name, key, contract or tag" value=${q}
        onInput=${setQ} /><${Segmented} label="Kind" value=${kind} options=${KINDS}
        onInput=${(value) => setQuery({ kind: value })} />`} />
    <${VirtualTable} label="Claims" url="/claims" collections=${["claims"]} columns=${COLUMNS} query=${{ q, kind }}
      onTotal=${setTotal} rowKey=${(claims) => claims.id} onOpen=${(claims) => openDialog(ClaimsDialog, { claims })}
      empty=${q || kind ? html`<${EmptyState} icon="search" title="No claims fit"
          action=${html`<${Button} onClick=${() => setQuery({ q: "", kind: "" })}>Show all claims</>`}>
          ${q ? `Nothing has “${q}” in its name, keys, contracts or tags.` : `No ${kind} has run here yet.`}</>`
        : html`<${EmptyState} icon="claim" title="No claims are known yet"
          command="host claims sign FILE --cap CONTRACT">Claims come with the actors and providers that hosts start.
          Sign an actor's file with the command below, then start it.</>`} />
  </div>`;
}
