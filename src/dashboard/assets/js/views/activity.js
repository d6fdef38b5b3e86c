// Owns the view of what is done: operations that run, pulls, the commands that hosts took, by whomever, and what was
// done on this dashboard.
import {
  Button, Card, classes, CopyButton, EmptyState, ErrorNote, formatBytes, formatTime, href, html, Icon, Meter, Note,
  operations, PageHeader, plural, RelativeTime, SearchBox, Segmented, Select, setQuery, shortKey, Skeleton,
  useListQuery, useMemo, useResource, useRoute, useState, useStore, withQuery,
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

const OUTCOMES = [["", "All outcomes"], ["accepted", "Accepted"], ["refused", "Refused"], ["unknown", "Not known"]];
const RANGES = [["1", "Last hour"], ["6", "Last 6 hours"], ["24", "Last 24 hours"]];
const TONES = { accepted: "good", refused: "error", unknown: "warning" };

/** A command that a host took or refused. */
function Command({ command }) {
  const { verb, subject, who, from, outcome, reason } = command;
  return html`<li class=${`command-row tone-${TONES[outcome] || "info"}`}>
    <${Icon} name=${TONES[outcome] || "info"} size=${14} />
    <span class="command-text"><b>${verb}</b> <span class="mono" title=${subject}>${subject}</span>
      ${outcome !== "accepted" && html` <span class=${outcome === "refused" ? "text-error" : "muted"}>${outcome}${reason
        && `: ${reason}`}</span>`}</span>
    <span class="command-who muted">${who}${from && ` from ${from}`}</span>
    <span class="command-host"><a href=${href.host(command.host_id)} title=${command.host_id}>${command.host_name
      || shortKey(command.host_id)}</a></span>
    <span class="command-at muted small" title=${formatTime(command.at_ms)}><${RelativeTime} at=${command.at_ms} /></span>
  </li>`;
}

/** The commands of the lattice, from whatever client, newest first. */
function Commands() {
  const [q, setQ] = useListQuery();
  const { query: { outcome = "", hours = "24" } } = useRoute();
  const [limit, setLimit] = useState(STEP);
  const since = useMemo(() => (hours === "24" ? undefined : Date.now() - Number(hours) * 3600e3), [hours]);
  const { data, error, refresh } = useResource(withQuery("/audit", { q, outcome, since, limit }), ["audit"]);
  const isFiltered = !!(q || outcome || hours !== "24");
  return html`<${Card} title="Commands" flush=${!!data?.items.length} actions=${html`<${SearchBox} label="Search commands"
      placeholder="Who, what or where" value=${q} onInput=${setQ} /><span class="filters"><${Select} label="Outcome"
      value=${outcome} options=${OUTCOMES} onInput=${(value) => setQuery({ outcome: value })} /><${Select}
      label="Range of time" value=${hours} options=${RANGES} onInput=${(value) => setQuery({ hours: value === "24" ? ""
        : value })} /></span>`}>
    ${error && html`<${ErrorNote} error=${error} retry=${refresh} />`}
    ${data && !data.keeping.is_kept && html`<${Note} tone="warning">The history of the lattice is not kept, so nobody
      knows who did what: ${data.keeping.reason}</>`}
    ${!data ? !error && html`<${Skeleton} lines=${6} />` : data.items.length ? html`<ul class="command-list">
      ${data.items.map((command) => html`<${Command} key=${command.id} command=${command} />`)}</ul>
      ${data.is_more && html`<div class="pad"><${Button} onClick=${() => setLimit(limit + 4 * STEP)}>Show more</></div>`}`
      : isFiltered ? html`<${EmptyState} icon="search" title="No command fits" />`
      : html`<${EmptyState} icon="activity" title="No command was given yet" command="host audit">What is started, stopped,
        linked or changed, on a page, at a prompt or by an application, appears here with who did it.</>`}
  </>`;
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
      sub="What was started, changed and stopped in the lattice, and by whom; and what hosts fetch now." />
    ${running.length > 0 && html`<${Card} title="Running" count=${running.length}><div class="op-grid">
      ${running.map((each) => html`<${OperationProgress} key=${each.id} operation=${each} />`)}</div></>`}
    ${pulls.length > 0 && html`<${Card} title="Pulls" count=${pulls.length}><ul class="op-grid">${pulls.map((pull) =>
      html`<${Pull} key=${`${pull.host_id} ${pull.reference}`} pull=${pull} />`)}</ul></>`}
    <${Commands} />
    <${Card} title="Done on this dashboard" count=${ended.length} flush=${shown.length > 0} actions=${ended.length > 0
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
            here with its stages.</>`}
    </></div>`;
}
