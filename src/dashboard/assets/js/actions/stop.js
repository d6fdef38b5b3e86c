// Owns the dialogs that stop actors, providers and hosts, and delete link definitions: each says what will happen.
import { html, useState } from "../../vendor/htm-preact.js";
import { apiPath, del, post, withQuery } from "../api.js";
import { formatCount, plural, shortKey } from "../format.js";
import { useResource } from "../live.js";
import { Badge, Facts, Note, Skeleton } from "../ui/basic.js";
import { nameOf, usePlace } from "./change.js";
import { undoLink } from "./link.js";
import { ActionDialog } from "./progress.js";

/** At most so many names are written out. */
const NAMES_MAX = 12;

export function StopActor({ target, close }) {
  const { actor, place, field, host_id, host, name, elsewhere } = usePlace(target);
  const replicas = place?.replicas ?? target.replicas;
  const run = () => post(apiPath("actors", target.actor_id, "stop"), { host_id });
  return html`<${ActionDialog} title=${`Stop ${name}`} close=${close} run=${run} submitText="Stop the actor" danger
    busyText="Stopping …" isReady=${host_id !== ""}>
    ${field}
    <p>${replicas ? plural(replicas, "replica") : "All replicas"} of <b>${name}</b> on <b>${host || "this host"}</b>
      ${" "}${replicas === 1 ? "stops" : "stop"}. Calls in work are finished first.</p>
    ${actor && (elsewhere.length
      ? html`<${Note}>It goes on on ${elsewhere.slice(0, 3).map((each) => each.host_name).join(", ")}${
        elsewhere.length > 3 && ` and ${elsewhere.length - 3} more`}: they take its calls over.</>`
      : html`<${Note} tone="warning">No other host runs it: calls to it fail until it is started again.</>`)}
  </>`;
}

export function StopProvider({ target, close }) {
  const { provider_id, link_name, host_id } = target;
  const { data } = useResource(apiPath("providers", provider_id, link_name), ["providers"]);
  const [chosen, choose] = useState(host_id || "");
  const instances = data?.instances || [];
  const mine = chosen || instances[0]?.host_id || "";
  const host = instances.find((each) => each.host_id === mine)?.host_name || target.host_name || shortKey(mine);
  const elsewhere = instances.filter((each) => each.host_id !== mine);
  const name = nameOf(target.provider_name || data?.name, provider_id);
  const run = () => post(apiPath("providers", provider_id, link_name, "stop"), { host_id: mine });
  const links = data?.links_to.length;
  return html`<${ActionDialog} title=${`Stop ${name}`} close=${close} run=${run} submitText="Stop the provider" danger
    busyText="Stopping …" isReady=${mine !== ""}>
    ${!host_id && instances.length > 1 && html`<div class="field"><label for="stop-host">Host</label><select
      id="stop-host" class="input" onChange=${(event) => choose(event.target.value)}>${instances.map((each) =>
        html`<option key=${each.host_id} value=${each.host_id} selected=${each.host_id === mine}>${each.host_name}
          </option>`)}</select></div>`}
    <p><b>${name}</b> (${link_name}) on <b>${host}</b> stops. Calls in work are finished first.</p>
    ${data && (elsewhere.length
      ? html`<${Note}>It goes on on ${elsewhere.map((each) => each.host_name).join(", ")}.</>`
      : html`<${Note} tone="warning">It runs nowhere else. ${links ? `${plural(links, "link definition")} to it
        stay${links === 1 ? "s" : ""}, and work${links === 1 ? "s" : ""} again once the provider is started again.`
        : "No link definition names it."}</>`)}
  </>`;
}

/** The names of things that run only here, or how many there are. */
function Names({ items }) {
  return html`<ul class="chips">${items.slice(0, NAMES_MAX).map((each) => html`<li key=${each.id + each.link_name}
    class="chip"><span class="chip-value">${nameOf(each.name, each.id)}</span></li>`)}
    ${items.length > NAMES_MAX && html`<li class="chip more">+${items.length - NAMES_MAX}</li>`}</ul>`;
}

const hostsOf = (each) => (Array.isArray(each.hosts) ? each.hosts.length : each.hosts);

export function StopHost({ host, close }) {
  const { data } = useResource(apiPath("hosts", host.id), ["hosts"]);
  const { data: actors } = useResource(withQuery("/actors", { host: host.id, limit: 1000 }), ["actors"]);
  const { data: providers } = useResource(withQuery("/providers", { host: host.id, limit: 1000 }), ["providers"]);
  const run = () => post(apiPath("hosts", host.id, "stop"), { timeout_ms: null });
  const only = (page) => page?.items.filter((each) => hostsOf(each) <= 1) || [];
  const lonely = [...only(actors), ...only(providers)];
  const isKnown = actors && providers;
  const runsNothing = isKnown && !actors.total && !providers.total;
  return html`<${ActionDialog} title=${`Stop ${nameOf(host.name, host.id)}`} close=${close} run=${run} danger
    submitText="Stop the host" busyText="Stopping …">
    <p>The host finishes the calls in work, stops everything that it runs, and ends. It comes back only when its machine
      starts it again.</p>
    ${host.is_this && html`<${Note} tone="warning">This host serves the page you look at. It will be gone; go on with
      the dashboard of another host.</>`}
    <${Facts} items=${[
      ["Actors", data ? `${formatCount(data.actors)} (${plural(data.replicas, "replica")})` : html`<${Skeleton}
        width="6em" />`],
      ["Providers", data ? formatCount(data.providers) : html`<${Skeleton} width="3em" />`]]} />
    ${isKnown && !runsNothing && (lonely.length
      ? html`<div class="field"><div class="offers-head"><h3>Only this host runs these</h3><${Badge} tone="warning">
          ${lonely.length} will be missing</></div><${Names} items=${lonely} />
          <p class="hint">Start them on another host first if they must not be missed.</p></div>`
      : html`<${Note} tone="good">Everything that it runs has replicas on other hosts, which take over.</>`)}
    ${runsNothing && html`<${Note} tone="good">It runs nothing now, so nothing is missed.</>`}
  </>`;
}

export function DeleteLink({ link, close }) {
  const actor = nameOf(link.actor_name, link.actor_id);
  const provider = nameOf(link.provider_name, link.provider_id);
  const run = () => del(withQuery("/links", { actor_id: link.actor_id, link_name: link.link_name,
    contract_id: link.contract_id }));
  return html`<${ActionDialog} title="Delete the link definition" close=${close} run=${run} submitText="Delete the link"
    danger busyText="Deleting …" undo=${() => undoLink(link)}>
    <p><b>${actor}</b> can no longer call <b>${provider}</b>, and gets nothing from it. An undo puts the link again,
      with its values.</p>
    <${Facts} items=${[["Contract", html`<span class="mono">${link.contract_id}</span>`], ["Link name", link.link_name],
      ["Values", Object.keys(link.values || {}).join(", ") || "none"]]} />
    ${link.urls?.length > 0 && html`<${Note} tone="warning">Nobody answers at ${link.urls.join(", ")} after this.</>`}
  </>`;
}
