// Owns the dialogs that start an actor and a provider.
import { html, useState } from "../../vendor/htm-preact.js";
import { post } from "../api.js";
import { GLOSSARY } from "../glossary.js";
import { Button } from "../ui/basic.js";
import { KeyValueEditor, mapOf, NumberField, rowsOf, TextArea, TextField } from "../ui/form.js";
import { SourcePicker, useSource } from "./artifact.js";
import { PlacementPicker, usePlacement } from "./placement.js";
import { ActionDialog } from "./progress.js";

function More({ title, isOpen, children }) {
  return html`<details class="more" open=${isOpen}><summary>${title}</summary><div class="more-body">${children}</div>
    </details>`;
}

function Annotations({ rows, setRows, noun }) {
  return html`<${More} title=${rows.length ? `Annotations (${rows.length})` : "Annotations"} isOpen=${rows.length > 0}>
    <${KeyValueEditor} label="Annotations" rows=${rows} onInput=${setRows} addText="Add an annotation"
      hint=${`Notes that the ${noun} carries, as tools set them to find again what they manage.`} /></>`;
}

export function StartActor({ preset = {}, close }) {
  const source = useSource("actor", preset.reference);
  const placement = usePlacement(preset);
  const [max, setMax] = useState(preset.max ?? 1);
  const [annotations, setAnnotations] = useState(rowsOf(preset.annotations));
  const run = () => post("/actors", { reference: source.reference, max, host_id: placement.host_id,
    constraints: placement.constraints, annotations: mapOf(annotations) });
  return html`<${ActionDialog} title="Start an actor" close=${close} run=${run} submitText="Start" busyText="Starting …"
    isReady=${source.reference !== "" && placement.isReady} class="roomy">
    <${SourcePicker} source=${source} />
    <${NumberField} label="Replicas" value=${max} onInput=${setMax} min=${1}
      hint=${GLOSSARY.replica} />
    <${PlacementPicker} placement=${placement} kind="actor" reference=${source.reference} />
    <${Annotations} rows=${annotations} setRows=${setAnnotations} noun="actor" />
  </>`;
}

export function StartProvider({ preset = {}, close, putLink }) {
  const source = useSource("provider", preset.reference, { builtins: true });
  const placement = usePlacement(preset);
  const [linkName, setLinkName] = useState(preset.link_name || "default");
  const [annotations, setAnnotations] = useState(rowsOf(preset.annotations));
  const [configuration, setConfiguration] = useState("");
  const name = linkName.trim();
  const error = name === "" ? "Give it a link name; most use default." : /[\s.*>]/.test(name)
    ? "A link name has no spaces and none of . * >" : "";
  const run = () => post("/providers", { reference: source.reference, link_name: name, host_id: placement.host_id,
    constraints: placement.constraints, annotations: mapOf(annotations), configuration: configuration || null });
  const builtin = source.builtins?.find((each) => each.reference === source.reference);
  const known = source.artifact || builtin;
  const link = (operation, leave) => html`<${Button} icon="link" onClick=${() => {
    leave();
    setTimeout(() => putLink({ provider_id: operation.target_id || known?.public_key, link_name: name,
      provider_name: known?.title || known?.name || "", contract_id: known?.contract_id || "" }));
  }}>Link an actor to it</>`;
  return html`<${ActionDialog} title="Start a provider" close=${close} run=${run} submitText="Start" next=${link}
    busyText="Starting …" isReady=${source.reference !== "" && placement.isReady && !error} class="roomy">
    <${SourcePicker} source=${source} />
    <${TextField} label="Link name" value=${linkName} onInput=${setLinkName} mono error=${error}
      hint="Link definitions name it, so that several providers of one contract can run side by side." />
    <${PlacementPicker} placement=${placement} kind="provider" reference=${source.reference} linkName=${name} />
    <${More} title="Configuration"><${TextArea} label="Configuration" value=${configuration} mono rows=${6} optional
      onInput=${setConfiguration} hint="The provider gets this text when it starts. Most are configured by the values of
      their links instead." /></>
    <${Annotations} rows=${annotations} setRows=${setAnnotations} noun="provider" />
  </>`;
}
