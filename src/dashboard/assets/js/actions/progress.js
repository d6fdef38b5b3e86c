// Owns how an operation is shown while it runs and after it, and the dialogs that begin operations and then show them.
import { html, useEffect, useState } from "../../vendor/htm-preact.js";
import { useClock } from "../clock.js";
import { formatBytes, formatClock, formatDuration } from "../format.js";
import { noteOperation, operations, useResource } from "../live.js";
import { href } from "../router.js";
import { useStore } from "../store.js";
import { Button, classes, CopyButton, Note } from "../ui/basic.js";
import { Meter } from "../ui/chart.js";
import { Dialog } from "../ui/dialog.js";
import { Icon } from "../ui/icons.js";
import { muteToasts } from "../ui/toast.js";

/** Stages in words. */
export const STAGES = {
  auction: "Ask the hosts", move: "Move what runs there", command: "Command the host", pull: "Pull",
  verify: "Verify claims and signature", compile: "Compile", unpack: "Unpack", start: "Start",
  wait: "Wait for the host", deploy: "Store and deploy", settle: "Wait until it runs",
};

/** States of operations: tone and words. */
export const STATES = {
  running: ["info", "running"], done: ["good", "done"], failed: ["error", "failed"], unknown: ["warning", "not known"],
};

// What to do after a failure, by the stage that failed.
const ADVICE = {
  auction: "No host took it. Loosen the constraints or give a host the labels that they name; the form tells why " +
    "each host declines.",
  command: "Look at the host: its page shows its state, its settings and what failed on it.",
  pull: "Check the reference and its tag, and whether the host reaches the registry and is allowed to read from it.",
  verify: "Sign the artifact again. The host must trust its issuer, and the claims must not have expired.",
  compile: "The file is no module that this host can run. Build it for wasm32 and sign what the build wrote.",
  unpack: "The archive holds nothing for the machine of this host. Build the provider for its system and processor.",
  deploy: "Nothing was deployed by this step. What was deployed before it goes on as it did.",
  settle: "Hosts go on with it by themselves. The page of the application shows which part is missing, and where.",
  start: "The host began to start it and gave up. Its page shows what failed, and the log says more.",
};

/** What to do about an operation that did not end well, or null. */
export function adviceOf(operation) {
  if (operation.state === "unknown") {
    return "Nobody told in time how it ended. Look at the events and at what runs now before you try again.";
  }
  return operation.state === "failed" ? ADVICE[operation.stages.at(-1)?.name] || null : null;
}

/** The text of an operation, to copy into a report. */
export const textOf = (operation) => [
  `${operation.title}: ${operation.state}`,
  ...operation.stages.map((stage) => `${formatClock(stage.at_ms)} ${stage.name}: ${stage.detail}`),
  operation.text,
].filter(Boolean).join("\n");

/** Consecutive stages of the same name are one; its time is that of the first. */
function mergedStages(stages) {
  const merged = [];
  for (const stage of stages) {
    const last = merged.at(-1);
    if (last?.name === stage.name) merged[merged.length - 1] = { ...stage, at_ms: last.at_ms };
    else merged.push(stage);
  }
  return merged;
}

const seconds = (ms) => (ms < 10e3 ? `${(Math.max(0, ms) / 1000).toFixed(1)} s` : formatDuration(ms));

/** How long from a moment to another, or to now. */
export function Took({ from, to }) {
  const text = useClock((now) => (to === null ? formatDuration(now - from) : seconds(to - from)));
  return html`<span class="num muted small">${text}</span>`;
}

/** The state of an operation as an icon: turning while it runs. */
export function StateIcon({ state, size = 16 }) {
  return state === "running" ? html`<span class="spinner" aria-hidden="true"></span>`
    : html`<span class="state-icon tone-${(STATES[state] || STATES.unknown)[0]}"><${Icon}
      name=${STATES[state]?.[0] || "unknown"} size=${size} /></span>`;
}

function useHostName(id) {
  const { data } = useResource(id ? `/hosts?q=${id}&limit=1` : null);
  return data?.items[0]?.name || "its host";
}

/** Where to look at what an operation made. */
function Results({ operation }) {
  const host = useHostName(operation.host_id);
  const { kind, host_id, target_id, link_name } = operation;
  const hostLink = host_id && kind !== "stop_host" && html`<a href=${href.host(host_id)}>${host}</a>`;
  const what = target_id[0] === "M" ? html`<a href=${href.actor(target_id)}>the actor</a>`
    : target_id[0] === "V" && html`<a href=${href.provider(target_id, link_name || "default")}>the provider</a>`;
  if (/^(apply|deploy|rollout)$/.test(kind)) return html`<p>Show <a href="/applications">the applications</a>.</p>`;
  if (!hostLink && !what) return null;
  const runs = /^(start|scale|update)/.test(kind);
  return html`<p>${runs && hostLink ? html`Runs on ${hostLink}. ${what && html`Show ${what}.`}`
    : html`Show ${what}${what && hostLink && " or "}${hostLink}.`}</p>`;
}

function Stage({ stage, until, isLast, state }) {
  const mine = isLast ? state : "done";
  return html`<li class=${classes("op-stage", isLast && "now")}>
    <${StateIcon} state=${mine} size=${14} />
    <div class="op-stage-text"><span>${STAGES[stage.name] || stage.name}</span>
      ${stage.detail && html`<span class="muted small">${stage.detail}</span>`}
      ${(stage.bytes > 0 || stage.of > 0) && (mine === "running"
        ? html`<${Meter} value=${stage.bytes} of=${stage.of} text=${stage.of ? `${formatBytes(stage.bytes)} of ${
          formatBytes(stage.of)}` : formatBytes(stage.bytes)} />`
        : html`<span class="muted small">${formatBytes(mine === "done" ? stage.of || stage.bytes : stage.bytes)}
          </span>`)}</div>
    <${Took} key=${until === null} from=${stage.at_ms} to=${until} /></li>`;
}

/** An operation with its stages, times, and how it ended; `problem` is in the way of one that went well. */
export function OperationProgress({ operation, bare, problem }) {
  const stages = mergedStages(operation.stages);
  const advice = adviceOf(operation);
  const isMarred = operation.state === "done" && !!problem;
  const [tone] = isMarred ? ["warning"] : STATES[operation.state] || STATES.unknown;
  const last = stages.at(-1);
  return html`<div class="op">
    ${!bare && html`<div class="op-head"><${StateIcon} state=${isMarred ? "unknown" : operation.state} /><b>
      ${operation.title}</b>
      <${Took} key=${operation.state} from=${operation.began_ms} to=${operation.ended_ms} /></div>`}
    ${stages.length > 0 && html`<ol class="op-stages">${stages.map((stage, at) => html`<${Stage} key=${at}
      stage=${stage} until=${stages[at + 1]?.at_ms ?? operation.ended_ms} isLast=${at === stages.length - 1}
      state=${isMarred ? "unknown" : operation.state} />`)}</ol>`}
    ${operation.state === "running"
      ? html`<p class="sr-only" role="status">${last ? STAGES[last.name] || last.name : "Running"}</p>`
      : html`<div role=${tone === "good" ? "status" : "alert"}><${Note} tone=${tone}
          action=${tone !== "good" && html`<${CopyButton} text=${textOf(operation)} label="Copy what happened" />`}>
          <p>${operation.text || `Its state is ${STATES[operation.state]?.[1] || operation.state}.`}</p>
          ${isMarred && html`<p>${problem}</p>`}
          ${advice && html`<p class="op-advice">${advice}</p>`}
          ${operation.state === "done" && html`<${Results} operation=${operation} />`}</></div>`}
  </div>`;
}

/**
 * The frame of a dialog that begins operations: a form, then how they go. After a failure there is a way back.
 * `run` resolves to the operation or the operations that began. `after(operation)` is shown below what went well, and
 * `next(operation, leave)` is more buttons then. `problem` is what stands in the way of what went well, and `undo()`
 * begins to take a change back.
 */
export function ActionDialog({ close, run, after, next, problem, undo, children, ...rest }) {
  const [ids, setIds] = useState(null);
  const all = useStore(operations).items;
  const shown = ids?.map((id) => all.find((item) => item.id === id));
  useEffect(() => {
    const ends = (ids || []).map(muteToasts);
    return () => ends.forEach((end) => end());
  }, [ids]);
  const submit = async () => {
    const began = [].concat(await run());
    began.forEach(noteOperation);
    if (!began.length) return true;
    setIds(began.map((each) => each.id));
    return false;
  };
  const leave = () => close(shown?.[0]);
  const isRunning = shown?.some((each) => each?.state === "running");
  const isBad = shown?.some((each) => each && each.state !== "running" && each.state !== "done");
  const isDone = shown?.every((each) => each?.state === "done");
  const stage = shown && html`${shown.map((each, at) => (each
    ? html`<${OperationProgress} key=${each.id} operation=${each} problem=${problem} />`
    : html`<${Note} key=${at} tone="warning">The host was started again and knows nothing of this operation any more.
      Look at the events for what became of it.</>`))}
    ${isDone && !problem && after?.(shown[0])}`;
  const startUndo = () => {
    leave();
    undo();
  };
  const footer = html`${isRunning && html`<span class="muted small">It goes on when this is closed.</span>`}
    <span class="grow"></span>
    ${undo && !isRunning && shown?.[0]?.can_undo && html`<${Button} icon="undo" onClick=${startUndo}>Undo</>`}
    ${isBad && !isRunning && html`<${Button} onClick=${() => setIds(null)}>Back</>`}
    ${isDone && next?.(shown[0], leave)}
    <${Button} kind=${isRunning ? "" : "primary"} onClick=${leave}>${isRunning ? "Close (goes on)" : "Close"}</>`;
  return html`<${Dialog} ...${rest} close=${leave} onSubmit=${submit} stage=${stage} stageFooter=${footer}>${children}
    </>`;
}
