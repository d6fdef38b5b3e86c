// Owns the view of one application: what is wanted beside what runs, its rollout, its links and its versions.
import {
  apiPath, ApplicationState, Badge, Button, Card, classes, Dialog, EmptyState, ErrorNote, formatCount,
  formatMicros, formatTime, href, html, Icon, Labels, Menu, Note, openDialog, PageHeader, plural, RelativeTime,
  SelectField, setQuery, Skeleton, Stat, StatusDot, Table, Tabs, useClock, useResource, useRoute, withQuery,
} from "../ui/index.js";
import { actOnRollout, applyManifests, deleteApplication, deployVersion } from "../actions/index.js";
import { Compare } from "../actions/application.js";
import { useTitle } from "../title.js";
import { Reference } from "./actors.js";
import { canChange, DropZone, KeepingNote, menuOf, Running } from "./applications.js";
import { Values } from "./links.js";

/** When the next attempt is made, in words. */
function NextAttempt({ at }) {
  const text = useClock((now) => (at > now + 999 ? `Next attempt in ${Math.ceil((at - now) / 1000)} s.`
    : "The next attempt is being made."));
  return html`<span aria-hidden="true"> ${text}</span>`;
}

function Place({ place }) {
  const { running, wanted, shared_with: shared } = place;
  const isShort = wanted !== null && running < wanted;
  const note = shared === null ? !place.fits && "no longer fits" : shared === "" ? "started by hand" : `shared with ${shared}`;
  return html`<li class="place"><a href=${href.host(place.host_id)} title=${place.host_id}>${place.host_name}</a>
    <span class=${classes("num", isShort ? "text-warning" : "muted")}>${wanted === null ? formatCount(running)
      : `${formatCount(running)} of ${formatCount(wanted)}`}</span>
    ${place.host_state !== "ok" && html`<${StatusDot} tone="warning" text=${place.host_state} />`}
    ${note && html`<span class="this" title=${shared === null ? "The labels of the host are not those of the rule"
      : "It counts, and is left alone when the application goes"}>${note}</span>`}</li>`;
}

const RULES = [
  { key: "rule", title: "Rule", width: "190px", render: (rule) => html`<span class="rule"><b>${rule.name}</b>
    <${Labels} labels=${rule.requirements} empty="" /></span>` },
  { key: "wanted", title: "Wanted", align: "right", width: "80px", render: (rule) => html`<span
    class="num">${formatCount(rule.wanted)}</span>` },
  { key: "running", title: "Running", align: "right", width: "80px", render: (rule) => html`<b class=${classes("num",
    rule.running !== rule.wanted && "text-warning")}>${formatCount(rule.running)}</b>` },
  { key: "fitting", title: "Hosts that fit", align: "right", width: "110px", render: (rule) => html`<span
    class=${classes("num", !rule.fitting && "text-error")}>${formatCount(rule.fitting)}</span>` },
  { key: "where", title: "Where", render: (rule) => (rule.places.length ? html`<ul class="places">${rule.places.map(
    (place) => html`<${Place} key=${place.host_id} place=${place} />`)}${rule.more > 0 && html`<li class="muted">and
    ${plural(rule.more, "more host")}</li>`}</ul>` : html`<span class="muted">nowhere</span>`) },
];

const MODES = { spread: "on all hosts together", daemon: "on each host that fits" };

function Part({ part, isDeployed }) {
  const { scalers } = part;
  const said = scalers.filter((scaler) => scaler.message);
  const only = said.length ? said : [part];
  const kind = part.kind === "actor" ? "actor" : "provider";
  return html`<${Card} flush class="part" title=${part.name} actions=${isDeployed && html`<${ApplicationState}
    state=${part.state} message=${part.message} />`}>
    <div class="part-head"><span class="inline-label"><${Icon} name=${kind} size=${14} />${kind}${part.link_name
      && part.link_name !== "default" && `, link name ${part.link_name}`}</span>
      ${part.id ? html`<a href=${kind === "actor" ? href.actor(part.id) : href.provider(part.id, part.link_name)}><${Reference}
        text=${part.image} /></a>` : html`<${Reference} text=${part.image} />`}</div>
    ${isDeployed && only.map((one, at) => one.message && html`<div key=${at} class="part-note"><${Note}
      tone=${one.state === "failed" ? "error" : "info"}>${one.message}${one.next_at_ms && html`<${NextAttempt}
        at=${one.next_at_ms} />`}</></div>`)}
    ${scalers.map((scaler, at) => html`<div key=${at}>${scalers.length > 1 && html`<p class="pad muted small">
      ${MODES[scaler.mode]}</p>`}<${Table} label=${`${part.name}, ${MODES[scaler.mode]}`} items=${scaler.rules}
      rowKey=${(rule) => rule.name} columns=${RULES} /></div>`)}
    ${!scalers.length && html`<p class="pad muted">${isDeployed ? "It is to run nowhere." : "Nothing of it is to run now."}
      </p>`}
  </>`;
}

const LEFT = [
  { key: "what", title: "What", render: (each) => html`<span class="inline-label"><${Icon} name=${each.kind} size=${14}
    />${each.kind}</span>` },
  { key: "image", title: "Reference", render: (each) => html`<${Reference} text=${each.image} />` },
  { key: "host", title: "Host", render: (each) => html`<a href=${href.host(each.host_id)}
    title=${each.host_id}>${each.host_name}</a>` },
  { key: "running", title: "Running", align: "right", width: "90px", render: (each) => html`<span
    class="num">${formatCount(each.running)}</span>` },
];

function Components({ application }) {
  const { parts, leftovers, deployed } = application;
  return html`<div class="stack">
    ${parts.map((part) => html`<${Part} key=${part.name} part=${part} isDeployed=${!!deployed} />`)}
    ${!parts.length && html`<${EmptyState} icon="application" title="Its manifest cannot be read here">Another manager stored
      it in a form that this host does not know.</>`}
    ${leftovers.length > 0 && html`<${Card} flush class="part" title="Still runs, and is not asked for" count=${leftovers.length}>
      <p class="part-head muted small">${deployed ? "Of an earlier version: it goes when its successor runs."
        : "It is being stopped, unless the application was undeployed to leave it running."}</p>
      <${Table} label="What still runs" items=${leftovers} rowKey=${(each) => `${each.host_id} ${each.id} ${each.image}`}
        columns=${LEFT} /></>`}
  </div>`;
}

function Links({ links, isDeployed }) {
  return html`<${Table} label="Links" items=${links} rowKey=${(each) => `${each.component} ${each.target}`}
    empty=${html`<${EmptyState} icon="link" title="It declares no links">A trait <span class="mono">linkdef</span> of an actor
      links it to a capability of the same manifest.</>`} columns=${[
      { key: "from", title: "From", render: (each) => html`<b>${each.component}</b>` },
      { key: "to", title: "To", render: (each) => html`<b>${each.target}</b>` },
      { key: "contract", title: "Contract", render: (each) => html`<span class="mono">${each.contract_id || "–"}</span>` },
      { key: "link", title: "Link name", render: (each) => each.link_name },
      { key: "values", title: "Values", render: (each) => html`<${Values} values=${each.values} />` },
      { key: "state", title: "State", width: "140px", render: (each) => (isDeployed ? html`<${ApplicationState}
        state=${each.state} message=${each.message} />` : html`<span class="muted">–</span>`) },
      { key: "why", title: "Reason", render: (each) => (isDeployed && each.message ? html`<span
        class="wrap">${each.message}</span>` : html`<span class="muted">–</span>`) },
    ]} />`;
}

function ManifestDialog({ name, version, close }) {
  const { data, error } = useResource(withQuery(apiPath("applications", name, "manifest"), { version }));
  return html`<${Dialog} title=${`${name} ${version}`} close=${close} wide>${error ? html`<${Note}
    tone="error">${error.message}</>` : data ? html`<pre class="code" tabindex="0" role="group"
    aria-label="Manifest">${data.text}</pre>` : html`<${Skeleton} height="240px" />`}</>`;
}

/** The index of a version; the list is newest first. */
const ageOf = (versions, version) => versions.findIndex((each) => each.version === version);

function Versions({ application, isOpen }) {
  const { name, versions, deployed } = application;
  const { query } = useRoute();
  const all = versions.map((each) => each.version);
  const to = all.includes(query.to) ? query.to : all[0] || "";
  const from = all.includes(query.from) ? query.from : deployed && deployed !== to ? deployed : all[1] || to;
  const deploy = (version) => deployVersion({ name, version, deployed, isOlder: !!deployed && ageOf(versions, version)
    > ageOf(versions, deployed) });
  const options = versions.map((each) => [each.version, `${each.version}${each.is_deployed ? " (deployed)" : ""}`]);
  return html`<div class="stack">
    <${Table} label="Versions" items=${versions} rowKey=${(each) => each.version} columns=${[
      { key: "version", title: "Version", render: (each) => html`<span class="thing"><b class="mono">${each.version}</b>
        ${each.is_deployed && html`<${Badge} tone="good">deployed</>`}</span>` },
      { key: "at", title: "Stored", width: "220px", render: (each) => (each.at_ms ? html`<span
        class="num">${formatTime(each.at_ms)}</span>` : html`<span class="muted"
        title="Another manager stored it">not known</span>`) },
      { key: "do", title: "", align: "right", width: "230px", render: (each) => html`<span class="row-actions">
        ${isOpen && !each.is_deployed && html`<${Button} size="small" onClick=${() => deploy(each.version)}>${deployed
          && ageOf(versions, each.version) > ageOf(versions, deployed) ? "Roll back to it" : "Deploy"}</>`}
        <${Menu} label=${`More about ${each.version}`} items=${[
          { text: "Show the manifest", icon: "claim", onSelect: () => openDialog(ManifestDialog, { name,
            version: each.version }) },
          deployed && !each.is_deployed && { text: "Compare with the deployed one", icon: "event",
            onSelect: () => setQuery({ from: deployed, to: each.version }) },
          isOpen && { text: "Delete this version", icon: "trash", danger: true, onSelect: () => deleteApplication(name,
            each.version) }]} /></span>` },
    ]} />
    ${versions.length > 1 && html`<${Card} title="Compare two versions"><div class="compare">
      <${SelectField} label="From" value=${from} options=${options} onInput=${(value) => setQuery({ from: value })} />
      <${SelectField} label="To" value=${to} options=${options} onInput=${(value) => setQuery({ to: value })} /></div>
      <${Compare} name=${name} from=${from} to=${to} /></>`}
  </div>`;
}

const ROLLOUT_STATES = { running: ["info", "running"], paused: ["warning", "paused"], takenback: ["error", "taken back"],
  done: ["good", "done"] };

const VERBS = { running: " takes over from ", paused: " stands still beside ", takenback: " did not take over from ",
  done: " has taken over from " };

function Steps({ rollout }) {
  const isOver = rollout.state === "takenback";
  const isDone = rollout.state === "done";
  return html`<ol class="steps" aria-label="Steps">${[...rollout.steps, { percent: 100, requirements: {}, isLast: true }].map(
    (step, at) => {
      const isHere = !isOver && (isDone ? step.isLast : at === rollout.step);
      const isPast = isDone ? !step.isLast : at < rollout.step;
      const labels = Object.entries(step.requirements).map(([key, value]) => `${key}=${value}`).join(", ");
      return html`<li key=${at} class=${classes("step", isHere && "here", isPast && "past")} aria-current=${isHere ? "step"
        : null}><b class="num">${step.isLast ? "all" : `${step.percent} %`}</b><span class="muted small">${step.isLast
        ? "takes over" : labels || `step ${at + 1}`}</span></li>`;
    })}</ol>`;
}

const figures = (version, share, of, isNewer) => ({ version, share, of, isNewer });

/** The rules by which a step is judged, in a sentence. */
function Judged({ rollout }) {
  const { newer, calls_wanted: wanted, max_errors_percent: errors, max_p99_percent: p99 } = rollout;
  const missing = wanted - newer.calls;
  return html`<p class="muted">${missing > 0 ? html`The step is judged after ${plural(wanted, "call")} of
      ${" "}${rollout.to}; ${plural(missing, "call is", "calls are")} missing.` : "The step has the calls that it waits for."}
    ${errors !== null && ` It goes on if at most ${errors} more of 100 calls fail than with ${rollout.from}, and if the `
      + `slowest of 100 takes at most ${formatCount(p99)} % of the time.`}</p>`;
}

function Rollout({ application, isOpen }) {
  const { name, rollout } = application;
  const [tone, word] = ROLLOUT_STATES[rollout.state];
  const act = (action) => () => actOnRollout({ name, action, rollout });
  const isOn = rollout.state === "running" || rollout.state === "paused";
  const rows = [figures(rollout.to, rollout.share, rollout.newer, true), figures(rollout.from, 100 - rollout.share,
    rollout.stable, false)];
  const buttons = isOpen && (isOn ? html`
    ${rollout.state === "running" ? html`<${Button} size="small" icon="pause" onClick=${act("pause")}>Pause</>`
      : html`<${Button} size="small" icon="play" onClick=${act("resume")}>Resume</>`}
    <${Button} size="small" icon="chevronRight" onClick=${act("continue")}>Go on now</>
    <${Button} size="small" kind="danger" onClick=${act("abort")}>Abort</>`
    : rollout.state === "takenback" && html`<${Button} size="small" icon="refresh" onClick=${() => deployVersion({ name,
      version: rollout.to, deployed: rollout.from })}>Try ${rollout.to} again</>`);
  return html`<${Card} title="Rollout" actions=${buttons}>
    <div class="stack-16"><p class="rollout-line"><${Badge} tone=${tone}>${word}</> <span><b>${rollout.to}</b>
      ${VERBS[rollout.state]}<b>${rollout.from}</b>${rollout.components.length > 0 && html`<span class="muted">, component
      ${" "}${rollout.components.join(", ")}</span>`}</span></p>
    ${rollout.why && html`<${Note} tone="error">${rollout.from} takes all calls: ${rollout.why}</>`}
    <${Steps} rollout=${rollout} />
    <${Table} label="Calls of both versions in this step" items=${rows} rowKey=${(row) => row.version} columns=${[
      { key: "version", title: "Version", render: (row) => html`<b class="mono">${row.version}</b> <span
        class="muted small">${row.isNewer ? "new" : "old"}</span>` },
      { key: "share", title: "Share", align: "right", render: (row) => html`<span class="num">${row.share} %</span>` },
      { key: "calls", title: "Calls", align: "right", render: (row) => html`<span
        class="num">${formatCount(row.of.calls)}</span>` },
      { key: "failed", title: "Failed", align: "right", render: (row) => html`<span class=${classes("num", row.of.failed
        && "text-error")}>${formatCount(row.of.failed)}</span>` },
      { key: "p99", title: "p99", align: "right", hint: "The slowest of 100 calls", render: (row) => html`<span
        class="num">${formatMicros(row.of.p99_us)}</span>` },
    ]} />
    ${isOn && html`<${Judged} rollout=${rollout} />`}</div></>`;
}

/** A text that may be cut; the whole of it is its title. */
const whole = (text) => html`<span title=${text || ""}>${text || "–"}</span>`;

function Figures({ application }) {
  const { deployed, newest, owner_id: owner, parts } = application;
  const failed = parts.filter((part) => part.state === "failed").length;
  return html`<div class="stats">
    <${Stat} label="Deployed" value=${whole(deployed)} sub=${deployed ? deployed === newest ? "the newest version"
      : "there is a newer one" : "nothing is to run"} />
    <${Stat} label="Newest" value=${whole(newest)} sub=${plural(application.versions.length, "version")} />
    <${Stat} label="Running" value=${html`<${Running} of=${application} />`} sub="instances" />
    <${Stat} label="Components" value=${formatCount(parts.length)} tone=${failed ? "error" : ""} sub=${failed
      ? `${failed} failed` : plural(application.links.length, "link")} />
    <${Stat} label="Kept by" value=${whole(owner && application.owner_name)} href=${owner && href.host(owner)}
      sub=${owner ? "acts for it" : "nobody acts for it"} />
    <${Stat} label="Changed" value=${html`<${RelativeTime} at=${application.changed_ms} />`} sub=${application.set
      ? `set ${application.set}` : "last deployment"} /></div>`;
}

export function ApplicationDetail({ name }) {
  const { data: application, error, loading, refresh } = useResource(apiPath("applications", name), ["applications",
    "hosts"]);
  useTitle(name, "Applications");
  const crumbs = [{ text: "Applications", href: "/applications" }];
  if (!application || (error && error.status === 404)) {
    return html`<div class="view"><${PageHeader} title=${name} crumbs=${crumbs} />
      ${error ? html`<${ErrorNote} error=${error} retry=${refresh} />` : loading && html`<${Skeleton} height="92px" />
        <${Skeleton} height="420px" />`}</div>`;
  }
  const { keeping, state, message, deployed } = application;
  const isOpen = canChange(keeping);
  const isTried = application.parts.some((part) => part.scalers.some((scaler) => scaler.next_at_ms !== null));
  const items = menuOf(application).filter(Boolean);
  return html`<${DropZone} isOpen=${isOpen} class="view">
    <${PageHeader} title=${name} crumbs=${crumbs} status=${html`<${ApplicationState} state=${state} message=${message} />`}
      sub=${application.description} actions=${isOpen && html`<${Button} kind="primary" icon="upload"
        onClick=${() => applyManifests()}>Apply a new version</><${Menu} label="Actions" text="Actions" items=${items} />`} />
    <${KeepingNote} keeping=${keeping} />
    ${error && html`<${ErrorNote} error=${error} retry=${refresh} />`}
    ${message && (deployed || state === "failed") && state !== "deployed" && html`<${Note} tone=${state === "failed" ? "error"
      : "info"}><b>${state === "failed" ? "Why not" : "Now"}</b>: ${message}${isTried && " Hosts try again by themselves, "
      + "with pauses that grow to a minute."}</>`}
    ${message && !deployed && state === "undeployed" && html`<${Note} tone="warning">${message}</>`}
    <${Figures} application=${application} />
    ${application.rollout && html`<${Rollout} application=${application} isOpen=${isOpen} />`}
    <${Tabs} label="Parts of the application" tabs=${[
      { id: "components", text: "Components", count: application.parts.length, render: () => html`<${Components}
        application=${application} />` },
      { id: "links", text: "Links", count: application.links.length, render: () => html`<${Links}
        links=${application.links} isDeployed=${!!deployed} />` },
      { id: "versions", text: "Versions", count: application.versions.length, render: () => html`<${Versions}
        application=${application} isOpen=${isOpen} />` },
    ]} />
  </>`;
}
