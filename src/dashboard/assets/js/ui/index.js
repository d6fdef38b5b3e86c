// Owns nothing: gathers the components and hooks that views use, so that a view imports them from one place.
export {
  html, useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState,
} from "../../vendor/htm-preact.js";
export * from "./basic.js";
export * from "./diff.js";
export * from "./chart.js";
export * from "./dialog.js";
export * from "./domain.js";
export * from "./form.js";
export * from "./icons.js";
export * from "./menu.js";
export * from "./table.js";
export * from "./tabs.js";
export * from "./term.js";
export * from "./toast.js";
export * from "../format.js";
export { api, apiPath, del, get, post, put, withQuery } from "../api.js";
export { noteOperation, onEvent, onOperation, operations, useChanges, useLive, usePoll, useResource } from "../live.js";
export { href, navigate, setQuery, useRoute } from "../router.js";
export { recall, remember, useRemembered, useStore } from "../store.js";
export { now, useClock } from "../clock.js";
