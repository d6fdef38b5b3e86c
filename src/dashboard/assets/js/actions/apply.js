// Owns the dialog that applies manifests: files that are dropped or chosen, or a text that is pasted; what they would
// change; and then the change itself.
import { html, useEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { api, post } from "../api.js";
import { formatBytes, plural } from "../format.js";
import { useLive } from "../live.js";
import { Badge, classes, IconButton, Note, Skeleton } from "../ui/basic.js";
import { Diff } from "../ui/diff.js";
import { Segmented, TextArea } from "../ui/form.js";
import { Icon } from "../ui/icons.js";
import { ActionDialog } from "./progress.js";

const BYTES_MAX = 2 ** 20;
const FILES_MAX = 64;
const ACCEPT = ".yaml,.yml,.json";
const TYPING_MS = 400;

const ACTIONS = {
  create: ["good", "new"], update: ["info", "new version"], deploy: ["info", "deploy"], unchanged: ["muted", "unchanged"],
  refuse: ["error", "refused"],
};

/** Reads files as text: {texts: {name, text}[], error}. */
export async function readFiles(files) {
  const all = [...files];
  const bytes = all.reduce((sum, file) => sum + file.size, 0);
  if (all.length > FILES_MAX) return { texts: [], error: `These are ${all.length} files; a host takes ${FILES_MAX}.` };
  if (bytes > BYTES_MAX) {
    return { texts: [], error: `The files have ${formatBytes(bytes)}; a host takes ${formatBytes(BYTES_MAX)} at most.` };
  }
  const texts = await Promise.all(all.map(async (file) => ({ name: file.name, text: await file.text() })));
  const binary = texts.find(({ text }) => text.includes("\u0000"));
  return binary ? { texts: [], error: `${binary.name} is no text, so no manifest.` } : { texts, error: "" };
}

/** Takes files that are dropped on something: [isOver, listeners]. */
export function useDrop(take) {
  const [depth, setDepth] = useState(0);
  const has = (event) => [...event.dataTransfer?.types || []].includes("Files");
  return [depth > 0, {
    onDragEnter(event) {
      if (!has(event)) return;
      event.preventDefault();
      setDepth((n) => n + 1);
    },
    onDragOver: (event) => has(event) && event.preventDefault(),
    onDragLeave: (event) => has(event) && setDepth((n) => Math.max(0, n - 1)),
    onDrop(event) {
      if (!has(event)) return;
      event.preventDefault();
      event.stopPropagation();
      setDepth(0);
      take(event.dataTransfer.files);
    },
  }];
}

function Picker({ texts, setTexts, error, setError }) {
  const input = useRef(null);
  const take = async (files) => {
    const read = await readFiles(files);
    setError(read.error);
    if (!read.error) {
      const names = read.texts.map((each) => each.name);
      setTexts([...texts.filter((each) => !names.includes(each.name)), ...read.texts]);
    }
  };
  const [isOver, listeners] = useDrop(take);
  return html`<div class="stack-8">
    <label class=${classes("drop", isOver && "over")} ...${listeners}>
      <input type="file" class="sr-only" accept=${ACCEPT} multiple ref=${input} onChange=${(event) => {
        take(event.target.files);
        event.target.value = "";
      }} />
      <${Icon} name="upload" size=${20} /><span><b>Choose files</b> or drop them here</span>
      <span class="muted small">Manifests in YAML or JSON, also several in a file, 1 MiB at most</span></label>
    ${error && html`<div role="alert"><${Note} tone="error">${error}</></div>`}
    ${texts.length > 0 && html`<ul class="file-list" aria-label="Files">${texts.map((each) => html`<li key=${each.name}>
      <${Icon} name="application" /><span class="clip">${each.name}</span><span class="grow"></span>
      <span class="muted small num">${formatBytes(new Blob([each.text]).size)}</span>
      <${IconButton} icon="cross" size="small" label=${`Leave out ${each.name}`} onClick=${() => setTexts(
        texts.filter((other) => other !== each))} /></li>`)}</ul>`}
  </div>`;
}

/** What texts would change: {plan, error, isBusy}; asked again when applications change. */
function usePreview(texts) {
  const [state, setState] = useState({ plan: null, error: null, of: "" });
  const revision = useLive((live) => live.revisions.applications);
  const key = JSON.stringify(texts);
  const isEmpty = !texts.some((each) => each.text.trim());
  useEffect(() => {
    if (isEmpty) {
      setState({ plan: null, error: null, of: key });
      return undefined;
    }
    const abort = new AbortController();
    const timer = setTimeout(() => api("/apply/preview", { method: "POST", body: { texts }, signal: abort.signal })
      .then((plan) => setState({ plan, error: null, of: key }), (error) => {
        if (error.name !== "AbortError") setState({ plan: null, error, of: key });
      }), TYPING_MS);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [key, revision]);
  return { ...state, isBusy: !isEmpty && state.of !== key, isEmpty };
}

function Planned({ item }) {
  const [tone, word] = ACTIONS[item.action] || ACTIONS.update;
  const { text, hides } = item.difference;
  const isLeft = item.action === "unchanged";
  return html`<section class="planned" aria-label=${item.name}>
    <div class="planned-head"><h3>${item.name}</h3><${Badge} tone=${tone}>${word}</><span class="grow"></span>
      <span class="mono muted small">${item.deployed && item.deployed !== item.version
        ? `${item.deployed} → ${item.version}` : item.version}</span></div>
    ${isLeft ? html`<p class="muted small">It is deployed like this, so nothing is done.</p>`
      : text ? html`<${Diff} text=${text} label=${`What changes of ${item.name}`} />`
      : !hides && html`<p class="muted small">Nothing differs but its version.</p>`}
    ${hides && !isLeft && html`<p class="hint">Values that are secret differ as well; they are not shown.</p>`}
  </section>`;
}

/** Mistakes by the file and the document they are in: [place, lines][]. */
function byPlace(mistakes) {
  const places = new Map();
  for (const text of mistakes) {
    const [, place, line] = /^(.*?, (?:document|line) \d+): (.*)$/s.exec(text) || [null, "", text];
    places.set(place, [...places.get(place) || [], line]);
  }
  return [...places];
}

function Plan({ preview }) {
  const { plan, error, isBusy, isEmpty } = preview;
  if (isEmpty) return html`<p class="hint">What the manifests would change is shown here first.</p>`;
  if (error) return html`<div role="alert"><${Note} tone="error">${error.message}</></div>`;
  if (!plan) return html`<${Skeleton} height="120px" />`;
  return html`<div class="stack-8" aria-busy=${isBusy}>
    ${plan.mistakes.length > 0 && html`<div role="alert"><${Note} tone="error">
      <p><b>Nothing can be applied</b></p>
      <ul class="mistakes">${byPlace(plan.mistakes).map(([place, lines]) => html`<li key=${place}>${place && html`<b>${place}
        </b>`}<pre class="mono">${lines.join("\n")}</pre></li>`)}</ul></></div>`}
    ${plan.notes.map((text, at) => html`<${Note} key=${at} tone="warning">${text}</>`)}
    ${plan.items.length > 0 && html`<h3>What changes</h3>`}
    ${plan.items.map((item) => html`<${Planned} key=${item.name} item=${item} />`)}
  </div>`;
}

/** preset: {texts?: {name, text}[], error?} of files that were dropped somewhere else */
export function ApplyManifests({ preset = {}, close }) {
  const [mode, setMode] = useState("files");
  const [texts, setTexts] = useState(preset.texts || []);
  const [error, setError] = useState(preset.error || "");
  const [pasted, setPasted] = useState("");
  const wanted = mode === "files" ? texts : pasted.trim() ? [{ name: "the pasted text", text: pasted }] : [];
  const isLarge = pasted.length > BYTES_MAX;
  const preview = usePreview(isLarge ? [] : wanted);
  const { plan } = preview;
  const changes = plan?.items.filter((item) => !["unchanged", "refuse"].includes(item.action)).length ?? 0;
  const run = () => post("/apply", { texts: wanted, seen: plan.seen });
  return html`<${ActionDialog} title="Apply manifests" close=${close} run=${run} wide busyText="Applying …"
    submitText=${changes ? `Apply ${plural(changes, "application")}` : "Apply"}
    isReady=${changes > 0 && !preview.isBusy && !plan.mistakes.length}>
    <${Segmented} label="Where the manifests come from" value=${mode} onInput=${setMode}
      options=${[["files", "Files"], ["paste", "Paste a text"]]} />
    ${mode === "files" ? html`<${Picker} texts=${texts} setTexts=${setTexts} error=${error} setError=${setError} />`
      : html`<${TextArea} label="Manifest" value=${pasted} onInput=${setPasted} mono rows=${10}
          error=${isLarge ? "The text is too long; a host takes 1 MiB at most." : ""}
          hint="YAML or JSON; several documents are cut at lines with ---." />`}
    <${Plan} preview=${preview} />
  </>`;
}
