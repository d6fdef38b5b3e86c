// Owns where an artifact comes from: a file that is uploaded, a reference, or a provider that the host brings with it.
import { html, useEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { authorization } from "../session.js";
import { formatBytes } from "../format.js";
import { useResource } from "../live.js";
import { Button, Chips, classes, Facts, IconButton, Key, Note, Skeleton } from "../ui/basic.js";
import { Meter } from "../ui/chart.js";
import { RadioCards, Segmented, TextField } from "../ui/form.js";
import { Icon } from "../ui/icons.js";

const BYTES_MAX = 64 * 2 ** 20;
const KINDS = {
  actor: { accept: ".wasm", file: "a signed module (.wasm)", noun: "an actor", example: "registry.example/echo:0.3.4" },
  provider: { accept: ".par,.gz", file: "a provider archive (.par or .par.gz)", noun: "a provider",
    example: "registry.example/redis:0.2.0" },
};

/** Sends a file. phase: "idle" | "sending" | "done" | "failed". */
function useUpload(kind) {
  const [state, setState] = useState({ phase: "idle" });
  const request = useRef(null);
  useEffect(() => () => request.current?.abort(), []);
  const reset = () => {
    request.current?.abort();
    setState({ phase: "idle" });
  };
  const send = (file) => {
    if (!file) return;
    request.current?.abort();
    const fail = (error) => setState({ phase: "failed", name: file.name, error });
    if (file.size > BYTES_MAX) {
      fail(`The file has ${formatBytes(file.size)}; a host takes 64 MiB at most. Push it to a registry and start it ` +
        "by its reference.");
      return;
    }
    if (!file.size) {
      fail("The file is empty. Choose the one that your build has signed.");
      return;
    }
    const xhr = new XMLHttpRequest();
    request.current = xhr;
    setState({ phase: "sending", name: file.name, sent: 0, of: file.size });
    xhr.open("POST", "/api/v1/uploads");
    xhr.setRequestHeader("content-type", "application/octet-stream");
    xhr.setRequestHeader("x-file-name", encodeURIComponent(file.name));
    for (const [name, value] of Object.entries(authorization())) xhr.setRequestHeader(name, value);
    xhr.responseType = "json";
    xhr.upload.onprogress = (event) => setState({ phase: "sending", name: file.name, sent: event.loaded,
      of: file.size });
    xhr.onerror = () => fail("The host stopped answering while the file was sent. Look whether it runs, try again.");
    xhr.onload = () => {
      const answer = xhr.response;
      if (xhr.status >= 300 || !answer) fail(answer?.error || `The host answered with status ${xhr.status}.`);
      else if (answer.kind !== kind) {
        fail(`This file is ${KINDS[answer.kind]?.noun || answer.kind}, not ${KINDS[kind].noun}. Choose another file.`);
      } else setState({ phase: "done", name: file.name, result: answer });
    };
    xhr.send(file);
  };
  return { ...state, send, reset };
}

/**
 * The state of a choice of an artifact; `reference` is empty until one is chosen.
 * @param {"actor"|"provider"} kind
 */
export function useSource(kind, preset, { builtins = false, first = builtins ? "builtin" : "upload" } = {}) {
  const isBuiltin = builtins && preset?.startsWith("builtin://");
  const [mode, setMode] = useState(preset ? isBuiltin ? "builtin" : "reference" : first);
  const [text, setText] = useState(isBuiltin ? "" : preset || "");
  const [builtin, setBuiltin] = useState(isBuiltin ? preset : "");
  const upload = useUpload(kind);
  const { data, error } = useResource(builtins ? "/builtins" : null);
  const chosen = { upload: upload.result?.reference || "", builtin, reference: text.trim() }[mode];
  return { kind, mode, setMode, text, setText, builtin, setBuiltin, upload, reference: chosen, builtins: data?.items,
    hasBuiltins: builtins, error,
    artifact: mode === "upload" ? upload.result || null : null };
}

/** What the claims of an uploaded artifact say. */
function ArtifactFacts({ artifact }) {
  return html`<${Facts} items=${[
    ["Name", html`<b>${artifact.name || "–"}</b>`],
    ["Public key", html`<${Key} id=${artifact.public_key} />`],
    ["Issuer", html`<${Key} id=${artifact.issuer} />`],
    artifact.kind === "provider" ? ["Contract", html`<span class="mono">${artifact.contract_id}</span>`]
      : ["Contracts", html`<${Chips} items=${artifact.caps} />`],
    ["Version", `${artifact.version || "–"}, revision ${artifact.revision}`],
    ["Size", formatBytes(artifact.bytes)]]} />`;
}

function FileDrop({ kind, upload }) {
  const [isOver, setOver] = useState(false);
  const input = useRef(null);
  const over = (on) => (event) => {
    event.preventDefault();
    setOver(on);
  };
  const drop = (event) => {
    over(false)(event);
    upload.send(event.dataTransfer?.files[0]);
  };
  if (upload.phase === "done") {
    return html`<div class="artifact"><div class="artifact-head"><${Icon} name="good" /><b>${upload.name}</b>
      <span class="grow"></span><${Button} size="small" onClick=${upload.reset}>Another file</></div>
      <${ArtifactFacts} artifact=${upload.result} /></div>`;
  }
  if (upload.phase === "sending") {
    const isSent = upload.sent >= upload.of;
    return html`<div class="artifact"><div class="artifact-head"><span class="spinner" aria-hidden="true"></span>
      <b>${upload.name}</b><span class="grow"></span>
      <${IconButton} icon="cross" size="small" label="Stop the upload" onClick=${upload.reset} /></div>
      <${Meter} value=${upload.sent} of=${isSent ? 0 : upload.of} text=${isSent ? "The host verifies its claims …"
        : `${formatBytes(upload.sent)} of ${formatBytes(upload.of)}`} /></div>`;
  }
  return html`<div class="stack-8">
    <label class=${classes("drop", isOver && "over")} onDragEnter=${over(true)} onDragOver=${over(true)}
      onDragLeave=${over(false)} onDrop=${drop}>
      <input type="file" class="sr-only" accept=${KINDS[kind].accept} ref=${input}
        onChange=${(event) => {
          upload.send(event.target.files[0]);
          event.target.value = "";
        }} />
      <${Icon} name="upload" size=${20} />
      <span><b>Choose a file</b> or drop it here</span>
      <span class="muted small">${KINDS[kind].file.replace(/^./, (c) => c.toUpperCase())}, 64 MiB at most</span>
    </label>
    ${upload.phase === "failed" && html`<div role="alert"><${Note} tone="error"><b>${upload.name}</b>: ${upload.error}
      </></div>`}
  </div>`;
}

/** The choice of an artifact. */
export function SourcePicker({ source, label = "Where it comes from" }) {
  const { kind, mode } = source;
  const options = [
    source.hasBuiltins && ["builtin", "Built-in"], ["upload", "Upload a file"],
    ["reference", html`<span class="wide-text">Registry or file reference</span><span
      class="phone-text">Reference</span>`],
  ].filter(Boolean);
  return html`<div class="stack-8">
    <${Segmented} label=${label} value=${mode} onInput=${source.setMode} options=${options} />
    ${mode === "upload" && html`<${FileDrop} kind=${kind} upload=${source.upload} />`}
    ${mode === "reference" && html`<${TextField} label="Reference" value=${source.text} onInput=${source.setText} mono
      placeholder=${KINDS[kind].example} required hint=${html`Of a registry, like <code>
        ${KINDS[kind].example}</code>, or
      a file of the host’s machine, like <code>file:///path/on/the/host${kind === "actor" ? ".wasm" : ".par.gz"}</code>
        ${" "}
      (the host must allow files).`} />`}
    ${mode === "builtin" && (source.builtins ? html`<${RadioCards} label="Provider" value=${source.builtin}
        onInput=${source.setBuiltin} options=${source.builtins.map((each) => ({ value: each.reference,
        text: each.title, note: each.contract_id, sub: each.about }))} />`
      : source.error ? html`<${Note} tone="error">${source.error.message}</>` : html`<${Skeleton} height="160px" />`)}
  </div>`;
}
