// Owns the list of what an operator can do. Every function opens a dialog and resolves to its result: the operation
// that was started (it is in the store `operations` then), or undefined where the operator left the dialog. Whoever is not
// logged in sees the dialog that logs in first.
import { Bulk, PLANS } from "./bulk.js";
import { ActOnRollout, DeleteApplication, DeployVersion, UndeployApplication } from "./application.js";
import { ApplyManifests, readFiles } from "./apply.js";
import { EditLabels, ScaleActor, UpdateActor } from "./change.js";
import { PutLink, undoLink } from "./link.js";
import { openChange } from "./login.js";
import { DrainHost, ForgetHost, StartElsewhere, UndrainHost } from "./lost.js";
import { StartActor, StartProvider } from "./start.js";
import { DeleteLink, StopActor, StopHost, StopProvider } from "./stop.js";

export { isLoggedIn, leave, openLogin } from "./login.js";

export { useDrop } from "./apply.js";

export { undoLink };

/** Opens the dialog with files that were dropped, or without any. */
export async function applyManifests(files) {
  return openChange(ApplyManifests, { preset: files ? await readFiles(files) : {} });
}

/** target: {name, version, deployed, isOlder} */
export const deployVersion = (target) => openChange(DeployVersion, { target });

export const undeployApplication = (name) => openChange(UndeployApplication, { name });

/**
 * Begins a change of several things. plan: a name in PLANS; rows: items of its list; host: of which the list is, or "";
 * done is called when it has begun.
 */
export const changeMany = (plan, rows, host, done) => openChange(Bulk, { plan: PLANS[plan](rows, host), done });

/** Without a version the whole application. */
export const deleteApplication = (name, version) => openChange(DeleteApplication, { name, version });

/** target: {name, action, rollout: the rollout of an ApplicationDetail} */
export const actOnRollout = (target) => openChange(ActOnRollout, { target });

/** preset: {reference?, host_id?, max?, constraints?, annotations?} */
export const startActor = (preset = {}) => openChange(StartActor, { preset });

/** preset: {reference?, link_name?, host_id?, constraints?, annotations?} */
export const startProvider = (preset = {}) => openChange(StartProvider, { preset, putLink });

/** target: {actor_id, actor_name, host_id, host_name, max, annotations}; without a host it is chosen in the dialog. */
export const scaleActor = (target) => openChange(ScaleActor, { target });

/** target: {actor_id, actor_name, host_id, host_name, reference}; without a host it is chosen in the dialog. */
export const updateActor = (target) => openChange(UpdateActor, { target });

/** target: {actor_id, actor_name, host_id, host_name, replicas}; without a host it is chosen in the dialog. */
export const stopActor = (target) => openChange(StopActor, { target });

/** target: {provider_id, provider_name, link_name, host_id, host_name}; without a host it is chosen in the dialog. */
export const stopProvider = (target) => openChange(StopProvider, { target });

/** preset: a Link of the API, or some members of one; with `values` it is an edit. */
export const putLink = (preset = {}) => openChange(PutLink, { preset });

/** link: a Link of the API */
export const deleteLink = (link) => openChange(DeleteLink, { link });

/** host: a Host of the API */
export const editLabels = (host) => openChange(EditLabels, { host });

export { RunsNowhere } from "./lost.js";

/** host: a Host of the API */
export const drainHost = (host) => openChange(DrainHost, { host });

/** host: a Host of the API that was drained */
export const undrainHost = (host) => openChange(UndrainHost, { host });

/** host: a lost Host of the API, or its id and name */
export const startElsewhere = (host) => openChange(StartElsewhere, { host });

/** host: a lost Host of the API */
export const forgetHost = (host) => openChange(ForgetHost, { host });

/** host: a Host of the API */
export const stopHost = (host) => openChange(StopHost, { host });
