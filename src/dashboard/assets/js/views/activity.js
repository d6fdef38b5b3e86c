// Owns the view of what goes on: operations that run, pulls, and operations that have ended.
import {
  Button, Card, classes, CopyButton, EmptyState, formatBytes, href, html, Icon, Meter, operations, PageHeader, plural,
  RelativeTime, Segmented, useResource, useState, useStore,
} from "../ui/index.js";
import { OperationProgress, STAGES, StateIcon, STATES, textOf, Took } from "../actions/progress.js";
import { startActor, startProvider, undoLink } from "../actions/index.js";

/** Ended operations that are shown at first, and how many more at a time. */
const STEP = 50;

function Pull({ pull }) {
  const share = pull.of > 0 ? `${formatBytes(pull.bytes)} of ${formatBytes(pull.of)}`
    : pull.bytes > 0 ? formatBytes(pull.bytes) : "size not known";
  return html`<li class="pull"><div class="op-head"><b class="mono clip" title=${pull.reference}>${pull.reference}</b>
    <span class="muted small">on <a href=${href.host(pull.host_id)}>${pull.host_name}</a>, <${RelativeTime}
      at=${pull.began_ms} /></span></div>
    <${Meter} value=${pull.bytes} of=${pull.of} text=${`${STAGES[pull.stage] || pull.stage}, ${share}`} /></li>`;
}

const linkOf = ({ target_id, contract_id, link_name }) => contract_id && `${target_id} ${contract_id} ${link_name}`;

/** Takes the change of a link back, if no later one of this page is known. */
function Undo({ operation, items }) {
  const last = items.find((each) => linkOf(each) === linkOf(operation) && each.can_undo);
  return operation.can_undo && last === operation && html`<${Button} size="small" icon="undo" onClick=${() =>
    undoLink({ actor_id: operation.target_id, contract_id: operation.contract_id,
      link_name: operation.link_name })}>Undo</>`;
}

function Ended({ operation, items }) {
  const [isOpen, setOpen] = useState(false);
  const [tone, word] = STATES[operation.state] || STATES.unknown;
  return html`<li><details class="ended" open=${isOpen} onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary><${Icon} name="chevronRight" size=${14} /><${StateIcon} state=${operation.state} /><span
      class="ended-title">${operation.title}</span>
      <span class=${classes("ended-text", tone === "error" ? "text-error" : "muted")}>${tone === "good" ? operation.text
        || word : operation.text || word}</span>
      <${Took} from=${operation.began_ms} to=${operation.ended_ms ?? operation.began_ms} />
      <span class="ended-at muted small"><${RelativeTime} at=${operation.began_ms} /></span></summary>
    ${isOpen && html`<div class="ended-body"><${OperationProgress} operation=${operation} bare />
      <${Undo} operation=${operation} items=${items} />
      ${operation.state === "done" && html`<span class="inline-label"><${CopyButton} text=${textOf(operation)}
        label="Copy what happened" /> Copy what happened</span>`}</div>`}</details></li>`;
}

export function Activity() {
  const { items } = useStore(operations);
  const { data } = useResource("/pulls", ["pulls"]);
  const [filter, setFilter] = useState("all");
  const [limit, setLimit] = useState(STEP);
  const running = items.filter((each) => each.state === "running");
  const ended = items.filter((each) => each.state !== "running");
  const failed = ended.filter((each) => each.state !== "done");
  const shown = filter === "failed" ? failed : ended;
  const pulls = data?.items || [];
  const start = html`<${Button} icon="plus" onClick=${() => startActor()}>Start an actor</>
    <${Button} icon="plus" onClick=${() => startProvider()}>Start a provider</>`;
  return html`<div class="view"><${PageHeader} title="Activity"
      sub="What was started, changed and stopped on the dashboard of this host, and what hosts fetch now." />
    ${running.length > 0 && html`<${Card} title="Running" count=${running.length}><div class="op-grid">
      ${running.map((each) => html`<${OperationProgress} key=${each.id} operation=${each} />`)}</div></>`}
    ${pulls.length > 0 && html`<${Card} title="Pulls" count=${pulls.length}><ul class="op-grid">${pulls.map((pull) =>
      html`<${Pull} key=${`${pull.host_id} ${pull.reference}`} pull=${pull} />`)}</ul></>`}
    <${Card} title="Ended" count=${ended.length} flush=${shown.length > 0} actions=${ended.length > 0
      && html`<${Segmented}
      label="Which operations" value=${filter} onInput=${setFilter} options=${[["all", "All"], ["failed",
        `Not well (${failed.length})`]]} />`}>
      ${shown.length ? html`<ul class="ended-list">${shown.slice(0, limit).map((each) => html`<${Ended} key=${each.id}
          operation=${each} items=${items} />`)}</ul>
          ${shown.length > limit && html`<div class="pad"><${Button} onClick=${() => setLimit(limit + STEP)}>Show ${
            plural(Math.min(STEP, shown.length - limit), "more", "more")}</></div>`}`
        : ended.length ? html`<${EmptyState} icon="good" title="Nothing failed">All operations that this host remembers
            went well.</>`
        : html`<${EmptyState} icon="activity" title=${running.length ? "Nothing has ended yet" : "Nothing was done yet"}
            action=${start}>Every start, scale, update, stop and link that is begun on a dashboard of this host appears
            here with its stages. What others do is among the <a href="/events">events</a>.</>`}
    </></div>`;
}
