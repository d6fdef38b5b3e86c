// Owns the view that calls an operation of an actor and shows the reply and how the call was decided.
import {
  apiPath, Badge, Button, Card, Combobox, CopyButton, EmptyState, ErrorNote, ExternalLink, formatBytes, formatMicros,
  href, html, Icon, Note, PageHeader, post, RelativeTime, safeUrl, Segmented, setQuery, shortKey, TextArea,
  useEffect, useMemo, useRef, useResource, useRoute, useState,
} from "../ui/index.js";
import { isLoggedIn, openLogin } from "../actions/index.js";
import { searchActors } from "../actions/link.js";
import { jsonError } from "../json.js";
import { ANY, formOf, formsOf } from "./call-forms.js";

const KEPT = 20;
const STORED = "host.calls";

// Operations that actors of a contract answer, with a payload to begin from.
const WELL_KNOWN = {
  "wasmcloud:httpserver": ["HttpServer.HandleRequest",
    { method: "GET", path: "/", queryString: "", header: {}, body: [] }],
  "wasmcloud:messaging": ["MessageSubscriber.HandleMessage", { subject: "test", replyTo: null, body: [] }],
  "wasmcloud:blobstore": ["ChunkReceiver.ReceiveChunk", { containerId: "box", objectId: "thing", bytes: [], offset: 0,
    isLast: true }],
};
const TEMPLATES = Object.fromEntries(Object.values(WELL_KNOWN));

const STEPS = {
  known: "Is the target known?", link: "Is there a link?", claim: "Do the claims allow it?",
    check: "Is the call signed?",
  policy: "Does the policy allow it?", replica: "Is there a replica?", path: "Which way does it go?",
  deadline: "Is there time?", repeat: "May it be repeated?",
};
const OUTCOMES = { ok: ["good", "ok"], fails: ["error", "fails"], unknown: ["muted", "not known"] };

function loadCalls() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(STORED) || "[]");
    return Array.isArray(kept) ? kept.slice(0, KEPT) : [];
  } catch {
    return [];
  }
}

/** The last calls of this page; the newest first. */
function useCalls() {
  const [calls, setCalls] = useState(loadCalls);
  const store = (next) => {
    setCalls(next);
    try {
      sessionStorage.setItem(STORED, JSON.stringify(next));
    } catch { /* They last as long as the view. */ }
  };
  return [calls, (call) => store([call, ...loadCalls()].slice(0, KEPT)), () => store([])];
}

/** The body of an HTTP response among the reply, as text; null where there is none. */
function bodyOf(reply) {
  const body = reply && typeof reply === "object" ? reply.body : undefined;
  if (typeof body === "string" && body) return body;
  if (!Array.isArray(body) || !body.length || !body.every((each) => Number.isInteger(each) && each >= 0
    && each < 256)) {
    return null;
  }
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array(body));
  } catch {
    return null;
  }
}

/** Indented JSON with lists of numbers (bytes, mostly) on one line. */
const pretty = (value) => JSON.stringify(value, null, 2).replace(/\[\s+(-?[\d.e+-]+(?:,\s+-?[\d.e+-]+)*)\s+\]/g,
  (_, numbers) => `[${numbers.replace(/\s+/g, " ")}]`);

function urlsOf(...texts) {
  const found = texts.filter(Boolean).flatMap((text) => text.match(/https?:\/\/[^\s"'<>\\)\]}]+/g) || []);
  return [...new Set(found.map((each) => each.replace(/[.,;:!?]+$/, "")))].filter(safeUrl).slice(0, 50);
}

function Trace({ trace }) {
  return html`<${Card} title="How it was decided" level=${3}>
    <p class="hint">As the host <a href=${href.host(trace.host_id)}>${trace.host_name}</a> decides such a call.</p>
    <ol class="trace">${trace.steps.map((step, at) => {
      const [tone, word] = OUTCOMES[step.outcome] || OUTCOMES.unknown;
      return html`<li key=${at} class=${`trace-step tone-${tone}`}><span class="trace-icon"><${Icon} name=${tone
        === "muted" ? "unknown" : tone} size=${16} /></span><div><b>${STEPS[step.step] || step.step}</b>${" "}
        <span class="trace-word">${word}</span><p class="trace-why">${step.why}</p>
        ${step.fix && html`<p class="trace-fix"><b>To do:</b> ${step.fix}</p>`}</div></li>`;
    })}</ol>
    ${trace.conclusion && html`<p>${trace.conclusion}</p>`}</>`;
}

function Result({ result }) {
  const [chosen, choose] = useState("");
  const json = result.reply === null || result.reply === undefined ? null : pretty(result.reply);
  const body = bodyOf(result.reply);
  const shapes = [["body", "Body", body], ["json", "JSON", json], ["text", "Text", result.text]].filter(([, , text]) =>
    text !== null && text !== undefined);
  const shape = shapes.find(([id]) => id === chosen) || shapes.find(([id]) => id === "json") || shapes[0];
  const urls = urlsOf(body, json, result.text);
  return html`<${Card} title="Reply" class="reply" actions=${html`<span role="status"><${Badge} tone=${result.ok
    ? "good"
      : "error"}>${result.ok ? "ok" : "failed"}</></span><span class="num">${formatMicros(result.took_us)}</span>
      <span class="num muted">${formatBytes(result.bytes)}</span>`}>
    <div class="stack-8">
      ${result.error && html`<div role="alert"><${Note} tone="error" action=${html`<${CopyButton} text=${result.error}
        label="Copy the error" />`}>${result.error}</></div>`}
      ${shape ? html`<div class="reply-bar">${shapes.length > 1 && html`<${Segmented} label="Show the reply as"
          value=${shape[0]} onInput=${choose} options=${shapes} />`}<span class="grow"></span><${CopyButton}
          text=${shape[2]} label="Copy the reply" /></div>
        <pre class="code" tabindex="0" aria-label="Reply">${shape[2] || "(an empty text)"}</pre>`
        : result.ok && html`<p class="muted">The reply is empty: the actor answered with nothing, and that is all right
          for operations that return nothing.</p>`}
      ${urls.length > 0 && html`<div><h3>URLs in the reply</h3><ul class="url-list">${urls.map((url) =>
        html`<li key=${url}><${ExternalLink} url=${url} /></li>`)}</ul></div>`}
    </div></>
    ${result.trace && html`<${Trace} trace=${result.trace} />`}`;
}

function Payload({ value, onInput, error, send }) {
  const box = useRef(null);
  const jump = () => {
    const area = box.current.querySelector("textarea");
    area.focus();
    area.setSelectionRange(error.at, error.at + 1);
  };
  return html`<div ref=${box} class="stack-8" onKeyDown=${(event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      send();
    }
  }}><${TextArea} label="Payload, as JSON" value=${value} onInput=${onInput} mono rows=${10} error=${error
    && `Line ${error.line}, column ${error.column}: ${error.why}.`}
    hint="It becomes MessagePack. Empty is no payload. Ctrl Enter calls." />
    ${error && html`<${Button} size="small" class="start" onClick=${jump}>Go to the error</>`}</div>`;
}

export function Call() {
  const { query } = useRoute();
  const id = query.actor || "";
  const [actor, setActor] = useState(id ? { value: id, text: shortKey(id) } : null);
  const [operation, setOperation] = useState(query.operation || "");
  const [payload, setPayload] = useState(() => (TEMPLATES[query.operation]
    ? JSON.stringify(TEMPLATES[query.operation], null, 2) : ""));
  const [chosen, choose] = useState("");
  const [fields, setFields] = useState({});
  const [state, setState] = useState({ isBusy: false, result: null, error: null });
  const [calls, addCall, clearCalls] = useCalls();
  const turn = useRef(0);
  const answer = useRef(null);
  const { data: detail, error: unknown } = useResource(actor ? apiPath("actors", actor.value) : null, ["actors"]);
  const shown = actor && detail?.name ? { ...actor, text: detail.name } : actor;
  useEffect(() => () => {
    turn.current = -1;
  }, []);
  const known = useMemo(() => [...new Set([...(detail?.operations || []).map((each) => each.operation),
    ...(detail?.caps || []).flatMap((cap) => (WELL_KNOWN[cap] ? [WELL_KNOWN[cap][0]] : [])),
    ...(detail ? [] : Object.keys(TEMPLATES))])], [detail]);
  const searchOperations = useMemo(() => async (q) => known.filter((each) => each.toLowerCase().includes(
    q.toLowerCase())).map((each) => {
    const seen = detail?.operations.find((one) => one.operation === each);
    return { value: each, text: each, sub: seen ? `called ${seen.calls} times` : "by its contract" };
  }), [known, detail]);
  const problem = payload.trim() ? jsonError(payload) : null;
  const forms = formsOf(detail);
  const form = formOf(forms, chosen, query.operation);
  const filled = { ...form.fields, ...fields[form.id] };
  const hindrance = form !== ANY ? form.problem(filled) : !operation.trim() ? "Name the operation."
    : problem ? "Correct the payload first." : "";
  const pickActor = (picked) => {
    setActor(picked);
    setQuery({ actor: picked?.value || "" });
  };
  const pickOperation = (picked) => {
    const name = picked?.value || "";
    setOperation(name);
    setQuery({ operation: name });
    if (TEMPLATES[name] && !payload.trim()) setPayload(JSON.stringify(TEMPLATES[name], null, 2));
  };
  const isReady = actor && !hindrance && !state.isBusy;
  const send = async () => {
    if (!isReady || (!isLoggedIn() && !(await openLogin(true)))) return;
    const mine = ++turn.current;
    setState({ isBusy: true, result: null, error: null });
    const call = { actor_id: actor.value, actor_name: shown.text, operation: form.operation || operation.trim(),
      form: form.id, payload: form === ANY ? payload : "", fields: filled, at_ms: Date.now() };
    try {
      const made = form !== ANY ? form.call(filled) : { operation: operation.trim(),
        payload: payload.trim() ? JSON.parse(payload) : null };
      call.operation = made.operation;
      const result = await post("/call", { actor_id: call.actor_id, ...made });
      addCall({ ...call, ok: result.ok, took_us: result.took_us });
      if (turn.current === mine) setState({ isBusy: false, result, error: null });
    } catch (error) {
      addCall({ ...call, ok: false, took_us: null });
      if (turn.current === mine) setState({ isBusy: false, result: null, error });
    }
    // Below the form on narrow windows: then it must come into view.
    requestAnimationFrame(() => {
      const top = answer.current?.getBoundingClientRect().top ?? 0;
      if (top > innerHeight - 160) document.getElementById("main").scrollBy({ top: top - 66 });
    });
  };
  const load = (call) => {
    setActor({ value: call.actor_id, text: call.actor_name });
    setOperation(call.operation);
    setPayload(call.payload);
    choose(call.form || ANY.id);
    setFields({ ...fields, [call.form]: call.fields });
    setQuery({ actor: call.actor_id, operation: call.operation });
    setState({ isBusy: false, result: null, error: null });
  };
  const template = TEMPLATES[operation.trim()];
  return html`<div class="view"><${PageHeader} title="Call"
      sub="Calls an operation of an actor, signed by this host, as an actor or a provider would." />
    <div class="call-grid">
      <div class="stack">
        <${Card} title="What to call"><form class="stack-16" onSubmit=${(event) => {
          event.preventDefault();
          send();
        }}>
          <${Combobox} label="Actor" value=${shown} onPick=${pickActor} search=${searchActors}
            placeholder="Search by name or key" none="No such actor is known. Paste its public key (M…)."
            free=${(text) => (/^M[A-Z2-7]{55}$/.test(text) ? { value: text, text: shortKey(text) } : null)}
            hint=${shown && html`<a href=${href.actor(shown.value)}>Show the actor</a>`} />
          ${unknown && html`<${Note} tone="warning">${unknown.message} A call to it fails unless a host of another make
            runs it.</>`}
          ${forms.length > 1 && html`<${Segmented} label="How to call it" value=${form.id} onInput=${choose}
            options=${forms.map((each) => [each.id, each.text])} />`}
          ${form !== ANY ? html`<div class="stack-16" key=${form.id}>${form.render(filled, (part) =>
            setFields({ ...fields, [form.id]: { ...filled, ...part } }))}</div>` : html`
          <${Combobox} label="Operation" mono value=${operation ? { value: operation, text: operation } : null}
            onPick=${pickOperation} search=${searchOperations} placeholder="HttpServer.HandleRequest"
            none="Type the name of the operation." free=${(text) => ({ value: text, text, sub: "as it is" })} />
          ${template && html`<${Button} size="small" icon="edit" class="start"
            onClick=${() => setPayload(JSON.stringify(template, null, 2))}>Payload of ${operation}</>`}
          <${Payload} value=${payload} onInput=${setPayload} error=${problem} send=${send} />`}
          <div class="reply-bar"><button type="submit" class="button primary" disabled=${!isReady}>
            <${Icon} name="play" /><span>${state.isBusy ? "Calling …" : "Call"}</span></button>
            ${!isReady && !state.isBusy && html`<span class="hint">${!actor ? "Choose an actor first."
              : hindrance}</span>`}</div>
        </form></>
      </div>
      <div class="stack" ref=${answer} aria-busy=${state.isBusy}>
        ${state.isBusy ? html`<${Card} title="Reply"><p class="calm" role="status"><span class="spinner"
            aria-hidden="true"></span> The actor is called; it has 10 s to answer.</p></>`
          : state.error ? html`<${ErrorNote} error=${state.error} retry=${send} />`
          : state.result ? html`<${Result} key=${turn.current} result=${state.result} />`
          : html`<${Card} title="Reply"><${EmptyState} small title="No call yet">Choose an actor and an operation, then
            press Call. The reply is shown here, with each step of how the call was decided.</></>`}
        ${calls.length > 0 && html`<${Card} title="Last calls" count=${calls.length} flush actions=${html`<${Button}
          size="small" onClick=${clearCalls}>Clear</>`}><ul class="call-list">${calls.map((call) => html`<li
          key=${call.at_ms}><button type="button" class="call-item" onClick=${() => load(call)}>
            <span class=${`state-icon tone-${call.ok ? "good" : "error"}`}><${Icon} name=${call.ok ? "good" : "error"}
              size=${14} /><span class="sr-only">${call.ok ? "ok" : "failed"}</span></span>
            <span class="call-what"><b>${call.actor_name}</b><span class="mono small">${call.operation}</span></span>
            <span class="muted small num">${call.took_us === null ? "" : formatMicros(call.took_us)}</span>
            <span class="muted small"><${RelativeTime} at=${call.at_ms} /></span></button></li>`)}</ul></>`}
      </div>
    </div></div>`;
}
