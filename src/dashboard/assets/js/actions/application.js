// Owns the dialogs that change an application: deploy one of its versions, take it down, delete it, and act on a rollout.
import { html, useState } from "../../vendor/htm-preact.js";
import { apiPath, del, post, withQuery } from "../api.js";
import { formatCount, plural } from "../format.js";
import { useResource } from "../live.js";
import { Note, Skeleton } from "../ui/basic.js";
import { Diff } from "../ui/diff.js";
import { RadioCards } from "../ui/form.js";
import { ActionDialog } from "./progress.js";

const path = (name, ...rest) => apiPath("applications", name, ...rest);
/** At most so many hosts are written out. */
const HOSTS_MAX = 6;

/** The lines in which two versions differ. */
export function Compare({ name, from, to }) {
  const { data, error } = useResource(from === to ? null : withQuery(path(name, "difference"), { from, to }));
  if (from === to) return html`<p class="muted">These are the same version.</p>`;
  if (error) return html`<${Note} tone="error">${error.message}</>`;
  if (!data) return html`<${Skeleton} height="120px" />`;
  return html`<div class="stack-8">${data.text ? html`<${Diff} text=${data.text}
      label=${from ? `From ${from} to ${to}` : `All of ${to}`} />` : !data.hides && html`<p class="muted">The two versions
      have the same content.</p>`}
    ${data.hides && html`<p class="hint">Values that are secret differ as well; they are not shown.</p>`}</div>`;
}

/** target: {name, version, deployed, isOlder} */
export function DeployVersion({ target, close }) {
  const { name, version, deployed, isOlder } = target;
  const run = () => post(path(name, "deploy"), { version });
  return html`<${ActionDialog} title=${isOlder ? `Roll ${name} back to ${version}` : `Deploy ${name} ${version}`}
    close=${close} run=${run} wide submitText=${isOlder ? "Roll back" : "Deploy"} busyText="Deploying …">
    <p>${deployed ? html`<b>${version}</b> takes the place of <b>${deployed}</b>. Instances are replaced host by host; calls
      in work are finished first.` : html`<b>${name}</b> is not deployed now. Hosts start what this version asks for, and
      keep it so.`}</p>
    ${deployed && html`<h3>What changes</h3><${Compare} name=${name} from=${deployed} to=${version} />`}
  </>`;
}

/** What runs by a component, and is not of somebody else: [text, hosts]. */
function running(part) {
  const rules = part.scalers.flatMap((scaler) => scaler.rules);
  const places = rules.flatMap((rule) => rule.places).filter((place) => place.running && place.shared_with === null);
  const count = places.reduce((sum, place) => sum + place.running, 0);
  return { count, hosts: [...new Set(places.map((place) => place.host_name))], isShared: rules.some((rule) =>
    rule.places.some((place) => place.shared_with !== null)) };
}

/** The list of what stops with an application. */
function WhatStops({ application }) {
  const rows = application.parts.map((part) => ({ part, ...running(part) }));
  const stops = rows.filter((row) => row.count);
  const shared = rows.filter((row) => row.isShared);
  if (!stops.length) return html`<${Note} tone="good">Nothing runs for it now, so nothing stops.</>`;
  return html`<div class="field"><h3>This stops</h3><ul class="plain stops">${stops.map(({ part, count, hosts }) =>
    html`<li key=${part.name}><b>${part.name}</b>: ${part.kind === "actor" ? plural(count, "instance")
      : plural(count, "provider")} on ${hosts.slice(0, HOSTS_MAX).join(", ")}${hosts.length > HOSTS_MAX
      && ` and ${hosts.length - HOSTS_MAX} more`}</li>`)}
    ${application.links.length > 0 && html`<li>${plural(application.links.length, "link")} of its actors</li>`}</ul>
    ${shared.length > 0 && html`<p class="hint">${shared.map((row) => row.part.name).join(", ")} also run${
      shared.length === 1 ? "s" : ""} for somebody else; that goes on.</p>`}</div>`;
}

/** application: the ApplicationDetail of the API */
export function UndeployApplication({ name, close }) {
  const { data } = useResource(path(name), ["applications", "hosts"]);
  const [mode, setMode] = useState("stop");
  const run = () => post(path(name, "undeploy"), { keep_running: mode === "keep" });
  return html`<${ActionDialog} title=${`Undeploy ${name}`} close=${close} run=${run} danger isReady=${!!data}
    submitText=${mode === "keep" ? "Undeploy, keep it running" : "Undeploy and stop it"} busyText="Undeploying …">
    <${RadioCards} label="What becomes of what runs" value=${mode} onInput=${setMode} options=${[
      { value: "stop", text: "Stop it", sub: "Links first, then actors, then providers. Calls in work are finished." },
      { value: "keep", text: "Leave it running", sub: "Nobody keeps it so any more: what ends is not started again." }]} />
    ${!data ? html`<${Skeleton} height="80px" />` : mode === "stop" && html`<${WhatStops} application=${data} />`}
    <p class="hint">Its versions stay, so that it can be deployed again.</p>
  </>`;
}

export function DeleteApplication({ name, version, close }) {
  const { data } = useResource(path(name), ["applications", "hosts"]);
  const stops = data && data.deployed && (!version || version === data.deployed);
  const isLast = version && data?.versions.length === 1;
  const run = () => del(withQuery(path(name), { version }));
  return html`<${ActionDialog} title=${`Delete ${name}${version ? ` ${version}` : ""}`} close=${close} run=${run} danger
    submitText=${version ? "Delete the version" : "Delete the application"} busyText="Deleting …" isReady=${!!data}>
    ${!data ? html`<${Skeleton} height="80px" />` : html`<p>${version && !isLast ? html`Version <b>${version}</b> is lost: it
      cannot be deployed any more.` : html`${plural(data.versions.length, "version")} of <b>${name}</b>
      ${data.versions.length === 1 ? " is" : " are"} lost. To deploy it again somebody has to have its manifest.`}</p>
      ${stops ? html`<${Note} tone="warning">It is deployed.</><${WhatStops} application=${data} />`
        : html`<${Note} tone="good">${version ? "This version is not deployed" : "It is not deployed"}, so nothing
          stops.</>`}`}
  </>`;
}

const WISHES = {
  pause: ["Pause", "Pausing …", (r) => html`<b>${r.to}</b> stays at ${r.share} % of the calls until somebody goes on.`],
  resume: ["Resume", "Resuming …", (r) => html`<b>${r.to}</b> is judged again by its calls, and goes on by itself.`],
  continue: ["Go on", "Going on …", (r) => html`${r.step + 1 < r.steps.length
    ? html`<b>${r.to}</b> gets ${r.steps[r.step + 1].percent} % of the calls` : html`<b>${r.to}</b> takes all calls`} at
    once, without waiting for the verdict about this step.`],
  abort: ["Abort", "Aborting …", (r) => html`<b>${r.from}</b> takes all calls again. To try once more, deploy ${r.to}
    again.`],
};

/** target: {name, action, rollout} */
export function ActOnRollout({ target, close }) {
  const { name, action, rollout } = target;
  const [text, busy, about] = WISHES[action];
  const run = () => post(path(name, "rollout"), { action });
  return html`<${ActionDialog} title=${`${text}${action === "continue" ? " with" : ""} the rollout of ${name}`} close=${close} run=${run} submitText=${text}
    busyText=${busy} danger=${action === "abort"}><p>${about(rollout)}</p>
    ${action === "continue" && rollout.newer.calls < rollout.calls_wanted && html`<${Note} tone="warning">It has
      ${" "}${formatCount(rollout.newer.calls)} of the ${formatCount(rollout.calls_wanted)} calls that the step waits for.</>`}</>`;
}
