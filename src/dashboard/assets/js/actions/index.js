// Owns the list of what an operator can do. Every function opens a dialog and resolves to its result: the operation
// that was started (it is in the store `operations` then), or undefined where the operator left the dialog. Whoever is not
// logged in sees the dialog that logs in first.
import { EditLabels, ScaleActor, UpdateActor } from "./change.js";
import { PutLink } from "./link.js";
import { openChange } from "./login.js";
import { StartActor, StartProvider } from "./start.js";
import { DeleteLink, StopActor, StopHost, StopProvider } from "./stop.js";

export { isLoggedIn, leave, openLogin } from "./login.js";

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

/** host: a Host of the API */
export const stopHost = (host) => openChange(StopHost, { host });
