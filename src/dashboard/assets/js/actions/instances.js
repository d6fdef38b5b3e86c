// Owns what runs where, one thing on one host at a time, and the steps that stop it there or move it to another host.
// An instance is {kind, id, name, link_name, host_id, host_name, reference, groups | annotations}.
import { apiPath, get, post } from "../api.js";
import { noteOperation, operations } from "../live.js";
import { muteToasts } from "../ui/toast.js";
import { nameOf } from "./change.js";

const UNBOUNDED = 4294967295;

const same = (a, b) => JSON.stringify(Object.entries(a).sort()) === JSON.stringify(Object.entries(b).sort());

const ofActor = (actor, place) => ({ kind: "actor", id: actor.id, name: nameOf(actor.name, actor.id), link_name: "",
  host_id: place.host_id, host_name: place.host_name, reference: place.reference,
  groups: place.groups.length ? place.groups : [{ annotations: {}, max: place.replicas }] });

const ofProvider = (provider, place) => ({ kind: "provider", id: provider.id,
  name: nameOf(provider.name, provider.id), link_name: provider.link_name, host_id: place.host_id,
  host_name: place.host_name, reference: place.reference, annotations: place.annotations });

const actorPath = (id) => `${apiPath("actors", id)}?brief=true`;

/** The instances of actors of a list; with a host only those on it. */
export async function instancesOfActors(actors, host) {
  const details = await Promise.all(actors.map((actor) => get(actorPath(actor.id))));
  return details.flatMap((actor) => actor.placements.filter((place) => !host || place.host_id === host)
    .map((place) => ofActor(actor, place)));
}

/** The instances of providers of a list; with a host only those on it. */
export async function instancesOfProviders(providers, host) {
  const details = await Promise.all(providers.map((each) => get(apiPath("providers", each.id, each.link_name))));
  return details.flatMap((provider) => provider.instances.filter((place) => !host || place.host_id === host)
    .map((place) => ofProvider(provider, place)));
}

/** Waits until an operation has ended; throws what it says where it did not go well. */
export async function through(asked) {
  const { id } = await asked.then((operation) => {
    noteOperation(operation);
    return operation;
  });
  const unmute = muteToasts(id);
  const operation = await new Promise((resolve) => {
    let stop = () => {};
    const look = () => {
      const found = operations.get().items.find((each) => each.id === id);
      if (found?.state === "running") return;
      stop();
      resolve(found);
    };
    stop = operations.subscribe(look);
    look();
  });
  unmute();
  if (operation?.state !== "done") throw new Error(operation?.text || "It is not known how it ended. Look at the events.");
}

/** Stops an instance on its host. */
export const stopInstance = ({ kind, id, link_name, host_id }) => through(post(kind === "actor"
  ? apiPath("actors", id, "stop") : apiPath("providers", id, link_name, "stop"), { host_id }));

/** The first other host that offers to run an instance. */
async function anyHost({ kind, reference, link_name, host_id }) {
  const { hosts } = await post("/auctions", { kind, reference, link_name, constraints: {} });
  const others = hosts.filter((each) => each.host_id !== host_id);
  const found = others.find((each) => each.offers);
  const why = others.find((each) => !each.offers && each.why)?.why;
  if (!found) throw new Error(`No other host takes it${why ? `: ${why}` : ""}. It goes on where it is.`);
  return found.host_id;
}

async function startActor(instance, host_id) {
  const { placements } = await get(actorPath(instance.id));
  const there = placements.find((place) => place.host_id === host_id)?.groups || [];
  for (const { annotations, max } of instance.groups) {
    const before = there.find((group) => same(group.annotations, annotations));
    const wanted = Math.min(UNBOUNDED, max + (before?.max ?? 0));
    await through(before ? post(apiPath("actors", instance.id, "scale"), { host_id, max: wanted, annotations })
      : post("/actors", { reference: instance.reference, max: wanted, host_id, constraints: {}, annotations }));
  }
}

async function startProvider(instance, host_id) {
  const { reference, link_name, annotations } = instance;
  const { instances } = await get(apiPath("providers", instance.id, link_name));
  const isThere = instances.some((each) => (host_id ? each.host_id === host_id : each.host_id !== instance.host_id));
  if (isThere) return;
  const to = host_id || await anyHost(instance);
  await through(post("/providers", { reference, link_name, host_id: to, constraints: {}, annotations,
    configuration: null }));
}

/**
 * Starts an instance on another host and then stops it where it is, so that it is never missed.
 * @param {string} target the host, or "" for any other
 * @param {(text: string) => void} tell hears what is done now
 */
export async function moveInstance(instance, target, tell) {
  if (target === instance.host_id) throw new Error("It runs there already.");
  tell("Starting it there");
  if (instance.kind === "actor") await startActor(instance, target || await anyHost(instance));
  else await startProvider(instance, target);
  tell("Stopping it here");
  await stopInstance(instance);
}
