// Owns the dialogs that change what runs: scale and update an actor, and the labels of a host.
import { html, useState } from "../../vendor/htm-preact.js";
import { api, apiPath, post, put } from "../api.js";
import { plural, shortKey } from "../format.js";
import { GLOSSARY } from "../glossary.js";
import { noteOperation, useResource } from "../live.js";
import { Facts, Key, Labels, Note } from "../ui/basic.js";
import { KeyValueEditor, mapOf, NumberField, SelectField } from "../ui/form.js";
import { SourcePicker, useSource } from "./artifact.js";
import { ActionDialog } from "./progress.js";

/** The name of a thing for people: its own, or the short form of its key. */
export const nameOf = (name, id) => name || shortKey(id);

/** Where an actor runs: on the host that the target names, or on one to choose where it names none. */
export function usePlace(target) {
  const { data: actor } = useResource(apiPath("actors", target.actor_id), ["actors"]);
  const [chosen, choose] = useState(target.host_id || "");
  const places = actor?.placements || [];
  const host_id = chosen || places[0]?.host_id || "";
  const place = places.find((each) => each.host_id === host_id);
  const field = !target.host_id && places.length > 0 && html`<${SelectField} label="Host" value=${host_id}
    onInput=${choose} options=${places.map((each) => [each.host_id,
      `${each.host_name}, ${plural(each.replicas, "replica")}`])} />`;
  return { actor, place, places, field, host_id, elsewhere: places.filter((each) => each.host_id !== host_id),
    host: place?.host_name || target.host_name || (host_id && shortKey(host_id)),
    name: nameOf(target.actor_name || actor?.name, target.actor_id) };
}

const groupText = (group) => {
  const notes = Object.entries(group.annotations).map(([key, value]) => `${key}=${value}`).join(", ");
  return `${notes || "without annotations"} (${group.max})`;
};

export function ScaleActor({ target, close }) {
  const { place, field, host_id, host, name, elsewhere } = usePlace(target);
  const groups = place?.groups || [];
  const [at, setAt] = useState(null);
  const [max, setMax] = useState(target.max ?? null);
  const preset = groups.findIndex((each) => JSON.stringify(each.annotations)
    === JSON.stringify(target.annotations ?? {}));
  const group = groups[at ?? Math.max(0, preset)];
  const annotations = (at === null && target.annotations) || group?.annotations || {};
  const before = group?.max ?? target.max ?? 1;
  const wanted = max ?? before;
  const run = () => post(apiPath("actors", target.actor_id, "scale"), { host_id, max: wanted, annotations });
  return html`<${ActionDialog} title=${`Scale ${name}`} close=${close} run=${run} danger=${wanted === 0}
    submitText=${wanted === 0 ? "Stop" : `Scale to ${wanted}`} isReady=${host_id !== ""}>
    ${field}
    ${groups.length > 1 && html`<${SelectField} label="Replicas with these annotations" value=${String(at
      ?? Math.max(0, preset))} onInput=${(text) => {
        setAt(Number(text));
        setMax(groups[Number(text)].max);
      }} options=${groups.map((each, n) => [String(n), groupText(each)])} />`}
    <${NumberField} label="Replicas" value=${wanted} onInput=${setMax} data-autofocus
      hint=${`${GLOSSARY.replica} Now ${before}${host ? ` on ${host}` : ""}; 0 stops it there.`} />
    ${wanted === 0 ? html`<${Note} tone="warning">The actor stops on ${host || "this host"} after it has finished the
        calls in work. ${elsewhere.length ? `It goes on on ${plural(elsewhere.length, "other host")}.`
        : "It runs on no other host: calls fail until it is started again."}</>`
      : wanted < before && html`<p class="hint">Fewer than now: calls in work are finished first.</p>`}
  </>`;
}

/** Whether an uploaded module can take the place of the one that runs, in words; null if it can. */
function objection(artifact, target, claims) {
  if (!artifact) return null;
  if (artifact.public_key !== target.actor_id) {
    return "This module is another actor: its public key differs. Start it as an actor of its own instead.";
  }
  if (claims && artifact.revision <= claims.revision) {
    return `Revision ${claims.revision} runs already. Sign the new module with a higher revision than that.`;
  }
  return null;
}

export function UpdateActor({ target, close }) {
  const { actor, place, field, host_id, host, name } = usePlace(target);
  const source = useSource("actor", "");
  const claims = actor?.claims;
  const running = place?.reference || target.reference;
  const problem = objection(source.artifact, target, claims);
  const isSame = source.reference !== "" && source.reference === running;
  const run = () => post(apiPath("actors", target.actor_id, "update"), { host_id, reference: source.reference });
  const next = source.artifact;
  return html`<${ActionDialog} title=${`Update ${name}`} close=${close} run=${run} submitText="Update" class="roomy"
    isReady=${source.reference !== "" && host_id !== "" && !problem}>
    ${field}
    <${Facts} items=${[
      !field && ["Host", host], running && ["Runs now", html`<span class="mono">${running}</span>`],
      claims && ["Version", html`${claims.version || "–"}, revision ${claims.revision}${next && !problem
        && html` <b>→ ${next.version || "–"}, revision ${next.revision}</b>`}`],
      ["Public key", html`<${Key} id=${target.actor_id} />`]]} />
    <${SourcePicker} source=${source} label="Where the new module comes from" />
    ${problem ? html`<div role="alert"><${Note} tone="error">${problem}</></div>`
      : isSame ? html`<${Note} tone="warning">This is the reference that runs now. Name another tag.</>`
      : html`<p class="hint">The new module must have the same public key and a higher revision. Calls in work are
        finished by the old one. Other hosts that run the actor are not touched.</p>`}
  </>`;
}

const isFixed = (key) => key.startsWith("hostcore.");

export function EditLabels({ host, close }) {
  const before = Object.entries(host.labels || {});
  const [rows, setRows] = useState(before.filter(([key]) => !isFixed(key)));
  const old = Object.fromEntries(before);
  const keys = rows.map(([key]) => key.trim()).filter(Boolean);
  const twice = keys.find((key, at) => keys.indexOf(key) !== at);
  const fixed = keys.find(isFixed);
  const error = twice ? `The label ${twice} is there twice. Remove one of its rows.`
    : fixed ? `The host sets ${fixed} itself. Choose another name.` : "";
  const next = mapOf(rows);
  const puts = Object.entries(next).filter(([key, value]) => old[key] !== value);
  const deletes = before.map(([key]) => key).filter((key) => !isFixed(key) && !(key in next));
  const count = puts.length + deletes.length;
  const run = async () => {
    const began = [];
    const begin = async (asked) => {
      const operation = await asked;
      noteOperation(operation);
      began.push(operation);
    };
    for (const key of deletes) await begin(api(apiPath("hosts", host.id, "labels", key), { method: "DELETE" }));
    for (const [key, value] of puts) await begin(put(apiPath("hosts", host.id, "labels", key), { value }));
    return began;
  };
  const fixedLabels = Object.fromEntries(before.filter(([key]) => isFixed(key)));
  return html`<${ActionDialog} title=${`Labels of ${nameOf(host.name, host.id)}`} close=${close} run=${run}
    submitText=${count ? `Save ${plural(count, "change")}` : "Save"} isReady=${!error && count > 0}>
    <${KeyValueEditor} label="Labels" rows=${rows} onInput=${setRows} error=${error} keyName="Name"
      addText="Add a label" hint="Auctions choose hosts by their labels: what is started with constraints runs on hosts
      that have all of them. What runs already stays." />
    <div class="field"><h3>Set by the host</h3><${Labels} labels=${fixedLabels} empty="none" /></div>
    <p class="hint">Labels that are set here last until the host stops. Set them in its configuration to keep them.</p>
  </>`;
}
