// Owns changes of many things at once: one dialog that names all of them, and then tells of each how it went.
import { html, useEffect, useState } from "../../vendor/htm-preact.js";
import { apiPath, del, post, withQuery } from "../api.js";
import { plural } from "../format.js";
import { useResource } from "../live.js";
import { createStore, useStore } from "../store.js";
import { Button, ErrorNote, Note, Skeleton } from "../ui/basic.js";
import { Dialog } from "../ui/dialog.js";
import { SelectField } from "../ui/form.js";
import { muteToasts, toast } from "../ui/toast.js";
import { nameOf } from "./change.js";
import { instancesOfActors, instancesOfProviders, moveInstance, stopInstance, through } from "./instances.js";
import { StateIcon } from "./progress.js";

const LANES = 4;
/** The key of what is said at the end; the dialog tells it itself while it is open. */
const TOAST = "bulk";

/**
 * Runs items, so many at a time, those with `isLast` after all others. It goes on when the dialog is closed.
 * @param {{name: string, place: string, isLast?: boolean, run: (tell: Function) => Promise<void>}[]} items
 * @returns a store of {items: {name, place, state: "waiting" | "running" | "done" | "failed", text}[]}
 */
function runAll(items, lanes, verb) {
  const store = createStore({ items: items.map((item) => ({ ...item, state: "waiting", text: "" })) });
  const set = (at, patch) => store.set({ items: store.get().items.map((item, n) => (n === at ? { ...item, ...patch }
    : item)) });
  const one = async (at) => {
    set(at, { state: "running" });
    try {
      await items[at].run((text) => set(at, { text }));
      set(at, { state: "done", text: "" });
    } catch (error) {
      set(at, { state: "failed", text: error.message });
    }
  };
  const round = async (places) => {
    const next = places.values();
    await Promise.all(Array.from({ length: lanes }, async () => {
      for (const at of next) await one(at);
    }));
  };
  const places = [...items.keys()];
  round(places.filter((at) => !items[at].isLast)).then(() => round(places.filter((at) => items[at].isLast))).then(() => {
    const failed = store.get().items.filter((item) => item.state === "failed").length;
    toast(failed ? { text: `${failed} of ${items.length} not ${verb}.`, tone: "error", key: TOAST }
      : { text: `${plural(items.length, "thing")} ${verb}.`, tone: "good", key: TOAST });
  });
  return store;
}

function Progress({ store }) {
  const { items } = useStore(store);
  const count = (state) => items.filter((item) => item.state === state).length;
  return html`<p role="status">${count("done")} of ${items.length} done${count("failed") > 0
    && html`, <span class="text-error">${count("failed")} failed</span>`}</p>
    <ul class="bulk-list" tabindex="0" aria-label="How each went">${items.map((item, at) => html`<li key=${at}>
      ${item.state === "waiting" ? html`<span class="bulk-wait" aria-hidden="true"></span>` : html`<${StateIcon}
        state=${item.state} />`}<span><b>${item.name}</b> <span class="muted">${item.place}</span>
        <span class="sr-only">: ${item.state}</span></span>${item.text && html`<p class=${item.state === "failed"
        ? "text-error" : "muted"}>${item.text}</p>`}</li>`)}</ul>`;
}

/** The items to change: {items, error}, asked once. */
function useItems(load) {
  const [state, setState] = useState({ items: null, error: null });
  useEffect(() => {
    load().then((items) => setState({ items, error: null }), (error) => setState({ items: null, error }));
  }, []);
  return state;
}

/**
 * @param {{title: (n: number) => string, text: string, submitText: string, verb: string, lanes?: number,
 *   load: () => Promise<object[]>, item: (found, target: string) => object, isMove?: boolean}} plan
 *   `load` finds what is meant, `item` makes an item to run of each; `isMove` asks for a host.
 */
export function Bulk({ plan, close, done }) {
  const { items: found, error } = useItems(plan.load);
  const [target, setTarget] = useState("");
  const [store, setStore] = useState(null);
  useEffect(() => muteToasts(TOAST), []);
  const { data: hosts } = useResource(plan.isMove ? "/hosts?limit=1000&sort=name" : null, ["hosts"]);
  const begin = (items) => setStore(runAll(items, plan.lanes ?? LANES, plan.verb));
  const submit = async () => {
    begin(found.map((each) => plan.item(each, target)));
    done?.();
    return false;
  };
  const now = useStore(store || EMPTY).items;
  const isRunning = now.some((item) => item.state === "waiting" || item.state === "running");
  const failed = now.filter((item) => item.state === "failed");
  const footer = html`${isRunning && html`<span class="muted small">It goes on when this is closed, as long as the page
    is open.</span>`}<span class="grow"></span>${!isRunning && failed.length > 0 && html`<${Button} icon="refresh"
    onClick=${() => begin(failed)}>Try the failed again</>`}
    <${Button} kind=${isRunning ? "" : "primary"} onClick=${() => close()}>Close</>`;
  const shown = found?.map((each) => plan.item(each, target));
  return html`<${Dialog} title=${plan.title(found?.length ?? 0)} close=${close} onSubmit=${submit} danger=${!plan.isMove}
    submitText=${plan.submitText} isReady=${found?.length > 0} class="roomy" stage=${store && html`<${Progress}
    store=${store} />`} stageFooter=${footer}>
    <p>${plan.text}</p>
    ${plan.isMove && html`<${SelectField} label="To" value=${target} onInput=${setTarget} options=${[["",
      "Any other host that offers"], ...(hosts?.items || []).filter((host) => host.state === "ok").map((host) =>
      [host.id, `${host.name}${host.is_this ? " (this host)" : ""}`])]} />`}
    ${error ? html`<${ErrorNote} error=${error} />` : !shown ? html`<${Skeleton} lines=${3} />`
      : !shown.length ? html`<${Note}>Nothing of it runs.</>` : html`<ul class="bulk-list" tabindex="0"
        aria-label="What is meant">${shown.map((item, at) => html`<li key=${at}><span class="bulk-wait"
        aria-hidden="true"></span><span><b>${item.name}</b> <span class="muted">${item.place}</span></span></li>`)}</ul>`}
    ${plan.isMove && found?.some((each) => each.kind === "provider") && html`<p class="hint">What a provider was given as
      configuration when it was started is not moved with it: hosts do not tell it. Link definitions hold wherever it
      runs.</p>`}
  </>`;
}

const EMPTY = createStore({ items: [] });

const stopPlan = (load) => ({ title: (n) => `Stop ${plural(n, "instance")}`, submitText: "Stop all of them",
  verb: "stopped", load, text: "Each stops on the host named beside it, after it has finished the calls in work.",
  item: (each) => ({ name: each.name, place: `on ${each.host_name}`, run: () => stopInstance(each) }) });

const movePlan = (load) => ({ title: (n) => `Move ${plural(n, "instance")}`, submitText: "Move all of them",
  verb: "moved", load, isMove: true, lanes: 1,
  text: "Each is started on the other host first and then stopped where it is, so that none is missed meanwhile.",
  item: (each, target) => ({ name: each.name, place: `from ${each.host_name}`,
    run: (tell) => moveInstance(each, target, tell) }) });

/** The changes of chosen rows, by the kind of the list. Each gets the rows, and the host that the list is of. */
export const PLANS = {
  stopActors: (actors, host) => stopPlan(() => instancesOfActors(actors, host)),
  moveActors: (actors, host) => movePlan(() => instancesOfActors(actors, host)),
  stopProviders: (providers, host) => stopPlan(() => instancesOfProviders(providers, host)),
  moveProviders: (providers, host) => movePlan(() => instancesOfProviders(providers, host)),
  drainHosts: (hosts) => ({ title: (n) => `Drain ${plural(n, "host")}`, submitText: "Drain all of them", verb: "drained",
    load: async () => hosts, lanes: 1, text: `What runs on each is started on other hosts first, and stopped there then. They
      take nothing new until they may again.`,
    item: (host) => ({ name: host.name, place: `${plural(host.actors, "actor")}, ${plural(host.providers, "provider")}`,
      run: () => through(post(apiPath("hosts", host.id, "drain"), {})) }) }),
  stopHosts: (hosts) => ({ title: (n) => `Stop ${plural(n, "host")}`, submitText: "Stop all of them", verb: "stopped",
    load: async () => hosts, text: `Each finishes its calls, stops everything that it runs, and ends. Drain them first
      if what runs there must not be missed.`,
    item: (host) => ({ name: host.name, place: `${plural(host.actors, "actor")}, ${plural(host.providers, "provider")}${
      host.is_this ? ", serves this page" : ""}`, isLast: host.is_this,
    run: () => through(post(apiPath("hosts", host.id, "stop"), { timeout_ms: null })) }) }),
  deleteLinks: (links) => ({ title: (n) => `Delete ${plural(n, "link definition")}`, submitText: "Delete all of them",
    verb: "deleted", load: async () => links, text: `The actors can no longer use these providers, and the values of the
      links are lost.`,
    item: (link) => ({ name: nameOf(link.actor_name, link.actor_id), place: `for ${link.contract_id}, by ${nameOf(
      link.provider_name, link.provider_id)}`,
    run: () => through(del(withQuery("/links", { actor_id: link.actor_id, link_name: link.link_name,
      contract_id: link.contract_id }))) }) }),
};
