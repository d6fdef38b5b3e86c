// Owns the list of applications.
import {
  ApplicationState, Button, classes, EmptyState, formatCount, href, html, Icon, Menu, Note, PageHeader, RelativeTime,
  SearchBox, setQuery, useListQuery, useResource, useState, VirtualTable,
} from "../ui/index.js";
import { applyManifests, deleteApplication, deployVersion, undeployApplication, useDrop } from "../actions/index.js";

/** Why nothing can be changed; nothing where hosts keep the applications. */
export function KeepingNote({ keeping }) {
  if (!keeping?.text) return null;
  const tone = keeping.keeper === "manager" ? "warning" : "error";
  return html`<div role="status"><${Note} tone=${tone}><p>${keeping.text}</p>
    ${keeping.advice && html`<p class="op-advice">${keeping.advice}</p>`}</></div>`;
}

export const canChange = (keeping) => !!keeping && ["hosts", "unknown"].includes(keeping.keeper);

/** A place that takes manifests that are dropped on it; it says so while a file is held over it. */
export function DropZone({ isOpen, class: extra, children }) {
  const [isOver, listeners] = useDrop(applyManifests);
  if (!isOpen) return html`<div class=${extra}>${children}</div>`;
  return html`<div class=${classes(extra, isOver && "drop-over")} ...${listeners}>${children}
    ${isOver && html`<div class="drop-veil" aria-hidden="true"><span><${Icon} name="upload" size=${22} />Drop it to see what
      it would change</span></div>`}</div>`;
}

/** The items of a menu of an application. */
export function menuOf(application) {
  const { name, deployed, newest } = application;
  return [
    deployed !== newest && newest && { text: `Deploy ${newest}`, icon: "play", onSelect: () => deployVersion({ name,
      version: newest, deployed }) },
    deployed && { text: "Undeploy", icon: "stop", danger: true, onSelect: () => undeployApplication(name) },
    { text: "Delete", icon: "trash", danger: true, onSelect: () => deleteApplication(name) },
  ];
}

export const Running = ({ of }) => (of.deployed || of.running ? html`<span class=${classes("num", of.running < of.wanted
  && "text-warning")}>${formatCount(of.running)} of ${formatCount(of.wanted)}</span>` : html`<span class="muted">–</span>`);

const Versions = ({ of }) => html`<span title=${of.newest ? `Newest version: ${of.newest}` : ""}><span
  class=${of.deployed ? "mono" : "muted"}>${of.deployed || "not deployed"}</span>${of.newest && of.newest !== of.deployed
  && html` <span class="muted small">newest <span class="mono">${of.newest}</span></span>`}</span>`;

const columns = (isOpen) => [
  { key: "name", title: "Application", sort: "name", width: "160px", render: (each) => html`<b><a
    href=${href.application(each.name)} title=${each.description || each.name}>${each.name}</a></b>` },
  { key: "state", title: "State", sort: "state", width: "140px", phoneLabel: false, render: (each) => html`<${
    ApplicationState} state=${each.state} message=${each.message} />` },
  { key: "running", title: "Running", sort: "running", down: true, width: "100px", align: "right",
    hint: "Instances of actors and providers that run, of those that are to", render: (each) => html`<${Running}
    of=${each} />` },
  { key: "versions", title: "Version", width: "204px", phoneLabel: false, render: (each) => html`<${Versions} of=${each}
    />` },
  { key: "components", title: "Components", width: "110px", align: "right", from: 1320, phone: false,
    render: (each) => html`<span class="num">${formatCount(each.components)}</span>` },
  { key: "message", title: "Reason", min: "180px", from: 860, phone: false, render: (each) => (each.message
    ? html`<span title=${each.message} class=${each.state === "failed" ? "text-error" : ""}>${each.message}</span>`
    : html`<span class="muted">–</span>`) },
  { key: "owner", title: "Kept by", sort: "owner", width: "156px", from: 1140, phone: false,
    hint: "The host that acts for it", render: (each) => (each.owner_id ? html`<a href=${href.host(each.owner_id)}
    title=${each.owner_id}>${each.owner_name}</a>` : html`<span class="muted">–</span>`) },
  { key: "changed", title: "Changed", sort: "changed", down: true, width: "116px", phone: false, hint: "When somebody last deployed or "
    + "undeployed it", render: (each) => html`<${RelativeTime} at=${each.changed_ms} />` },
  isOpen && { key: "menu", title: "", width: "56px", phone: false, render: (each) => html`<${Menu}
    label=${`Actions of ${each.name}`} items=${menuOf(each)} />` },
].filter(Boolean);

export function Applications() {
  const [q, setQ] = useListQuery();
  const [total, setTotal] = useState(null);
  const { data: keeping } = useResource("/keeping", ["applications"]);
  const isOpen = canChange(keeping);
  const apply = isOpen && html`<${Button} kind="primary" icon="upload" onClick=${() => applyManifests()}>Apply
    manifests</>`;
  return html`<${DropZone} isOpen=${isOpen} class="view view-fill">
    <${PageHeader} title="Applications" status=${total !== null && html`<span class="count">${formatCount(total)}</span>`}
      actions=${html`<${SearchBox} label="Search applications" placeholder="Name, version or reason" value=${q}
        onInput=${setQ} />${apply}`} />
    <${KeepingNote} keeping=${keeping} />
    <${VirtualTable} label="Applications" url="/applications" collections=${["applications", "hosts"]}
      columns=${columns(isOpen)} query=${{ q }} phoneLines=${3} onTotal=${setTotal} rowKey=${(each) => each.name}
      rowHref=${(each) => href.application(each.name)}
      empty=${q ? html`<${EmptyState} icon="search" title="No application fits"
          action=${html`<${Button} onClick=${() => setQuery({ q: "" })}>Show all applications</>`}>Nothing has “${q}” in its
          name, version or reason.</>`
        : keeping && !isOpen && keeping.keeper !== "manager" ? html`<${EmptyState} icon="application"
          title="It is not known which applications there are">Why is said above.</>`
        : html`<${EmptyState} icon="application" title="There are no applications yet"
          command=${isOpen ? "host apply -f app.yaml" : ""} action=${apply}>A manifest says what is to run, how often and
          where, and hosts keep it so. ${isOpen && "Drop one here, choose it with the button, or apply it with the command:"}
          </>`} />
  </>`;
}
