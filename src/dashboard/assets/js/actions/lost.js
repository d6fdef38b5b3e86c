// Owns the dialogs of hosts whose work goes elsewhere: of those that vanished, and of those that are to be emptied.
import { html } from "../../vendor/htm-preact.js";
import { apiPath, post } from "../api.js";
import { plural } from "../format.js";
import { useResource } from "../live.js";
import { Note, Skeleton } from "../ui/basic.js";
import { nameOf } from "./change.js";
import { ActionDialog } from "./progress.js";

/** What ran only on a lost host, by name. */
export function RunsNowhere({ items }) {
  return html`<ul class="chips">${items.map((each) => html`<li key=${`${each.id} ${each.link_name || ""}`} class="chip"
    title=${each.reference}><span class="chip-key">${each.kind}</span><span class="chip-value">
    ${nameOf(each.name, each.id)}</span></li>`)}</ul>`;
}

export function StartElsewhere({ host, close }) {
  const { data } = useResource(apiPath("hosts", host.id), ["hosts", "actors", "providers"]);
  const all = data?.missing || [];
  const kept = all.filter((each) => each.application);
  const run = () => post(apiPath("hosts", host.id, "start-elsewhere"), {});
  return html`<${ActionDialog} title=${`Start elsewhere what ran on ${nameOf(host.name, host.id)}`} close=${close}
    run=${run} submitText="Start elsewhere" busyText="Starting …" isReady=${all.length > kept.length}>
    ${!data ? html`<${Skeleton} lines=${2} />` : !all.length ? html`<${Note} tone="good">All that it ran runs
      elsewhere.</>` : html`<p>${plural(all.length, "thing")} that ran only there ${all.length === 1 ? "runs" : "run"}
      nowhere now. Each is started on the first host that offers.</p><${RunsNowhere} items=${all} />`}
    ${kept.length > 0 && html`<${Note}>${kept.map((each) => nameOf(each.name, each.id)).join(", ")} ${kept.length === 1
      ? "belongs" : "belong"} to applications, whose hosts start them again by themselves.</>`}
  </>`;
}

export function ForgetHost({ host, close }) {
  const run = () => post(apiPath("hosts", host.id, "forget"), {});
  return html`<${ActionDialog} title=${`Forget ${nameOf(host.name, host.id)}`} close=${close} run=${run}
    submitText="Forget the host" busyText="Forgetting …">
    <p>The host vanished. It is taken off the list of every host, with what ran there. If it comes back, it is in the
      lattice again.</p>
  </>`;
}

export function DrainHost({ host, close }) {
  const run = () => post(apiPath("hosts", host.id, "drain"), {});
  return html`<${ActionDialog} title=${`Drain ${nameOf(host.name, host.id)}`} close=${close} run=${run}
    submitText="Drain the host" busyText="Moving what runs there …">
    <p>What runs there is started on other hosts first, and stopped there then. The host takes nothing new until it may
      again, or starts again. What can go nowhere else runs on.</p>
  </>`;
}

export function UndrainHost({ host, close }) {
  const run = () => post(apiPath("hosts", host.id, "undrain"), {});
  return html`<${ActionDialog} title=${`Let ${nameOf(host.name, host.id)} take work again`} close=${close} run=${run}
    submitText="Let it take work" busyText="Telling it …">
    <p>The host offers to run things again. What was moved away stays where it is.</p>
  </>`;
}
