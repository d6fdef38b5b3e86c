// Owns the event stream: its connection state, the revisions of the collections, and the live parts of the overview.
// useResource keeps a view's data in step with them.
import { useEffect, useReducer, useRef, useState } from "../vendor/htm-preact.js";
import { get, goToLogin, listen } from "./api.js";
import { forgetSession, hasSession } from "./session.js";
import { createStore, useStore } from "./store.js";
import { noteServerTime, now } from "./clock.js";

const STALE_AFTER_MS = 8000;
/** A page that is hidden for so long lets its stream go, and takes it up again when it is seen. */
const REST_AFTER_MS = 20000;
const POINTS = 300;
const FETCH_GAP_MS = 250;
const CACHE_SIZE = 40;

/**
 * connection: "connecting" | "live" | "stopping" (live, and soon no more) | "stale" | "disconnected"; since_ms: of when
 * the data are where they are not of now; cause: why not.
 * epoch grows with every new connection; revisions has one number per collection; pageVersion is the version of the
 * host that the page was loaded from.
 */
export const live = createStore({
  connection: "connecting", since_ms: null, cause: "", retry_ms: null, hello: null, overview: null, points: [],
  revisions: {}, epoch: 0, pageVersion: null,
});

/** Operations by id, newest kept; fed by /operations and by the stream. */
export const operations = createStore({ items: [] });

const eventListeners = new Set();
const operationListeners = new Set();

/** Calls the listener with every event of the lattice that the stream brings; returns the function that ends this. */
export function onEvent(listener) {
  eventListeners.add(listener);
  return () => eventListeners.delete(listener);
}

/** Calls the listener with (operation, the operation before or null) on every change; returns the function to end. */
export function onOperation(listener) {
  operationListeners.add(listener);
  return () => operationListeners.delete(listener);
}

export const useLive = (select) => useStore(live, select);

/** Takes an operation (an answer of the API, or of the stream) into the store. */
export function noteOperation(operation) {
  const items = operations.get().items;
  const before = items.find((item) => item.id === operation.id) || null;
  // The answer of a request may come after the stream told more; an ended operation never runs again.
  if (before && before.state !== "running" && operation.state === "running") return;
  const rest = items.filter((item) => item.id !== operation.id);
  const at = rest.findIndex((item) => item.began_ms <= operation.began_ms);
  rest.splice(at < 0 ? rest.length : at, 0, operation);
  operations.set({ items: rest.slice(0, 500) });
  for (const listener of operationListeners) listener(operation, before);
}

let source = null;
let backoff = 500;
let heard = 0;
let retryTimer = 0;
// The host's own word of itself in this connection, and whether its data came since.
let isHostConnected = true;
let isStopping = false;
let isFresh = false;

const isCurrent = (connection) => connection === "live" || connection === "stopping";

function setConnection(connection, cause = "") {
  const state = live.get();
  if (state.connection === connection && state.cause === cause) return;
  const since_ms = isCurrent(connection) ? null : state.since_ms ?? (heard || Date.now());
  live.set({ connection, cause, since_ms, retry_ms: null });
}

/** Takes a message in, and concludes how the connection is. A host that was lost is live again only with its data. */
function note(data, handle) {
  let message;
  try {
    message = JSON.parse(data);
  } catch {
    return;
  }
  handle(message);
  if (!isHostConnected) {
    setConnection("stale", "The host has lost its connection to NATS. The page shows what it knew then.");
  } else if (isFresh || live.get().since_ms === null) setConnection(isStopping ? "stopping" : "live");
  heard = Date.now();
}

const HANDLERS = {
  hello(hello) {
    isHostConnected = hello.is_connected ?? true;
    isStopping = hello.state === "stopping";
    isFresh = false;
    if (!isStopping) backoff = 500;
    const state = live.get();
    // A host that was started again knows nothing of the operations of before.
    if (state.hello && state.hello.life !== hello.life) operations.set({ items: [] });
    live.set({ hello, epoch: state.epoch + 1, points: [], pageVersion: state.pageVersion ?? hello.version });
    get("/operations").then(({ items }) => {
      for (const item of items.slice().reverse()) noteOperation(item);
    }, () => {});
  },
  change: (change) => live.set({ revisions: { ...live.get().revisions, ...change } }),
  overview(overview) {
    const points = overview.point ? [...live.get().points, overview.point].slice(-POINTS) : live.get().points;
    isFresh = true;
    live.set({ overview, points });
  },
  event: (event) => eventListeners.forEach((listener) => listener(event)),
  operation: (operation) => noteOperation(operation),
  tick(tick) {
    noteServerTime(tick.now_ms);
    isHostConnected = tick.is_connected !== false;
  },
  stopping() {
    isStopping = true;
  },
};

function lose(status) {
  source?.abort();
  if (status === 401) {
    // The session is over: what everybody may read is read without it.
    if (!hasSession()) {
      goToLogin();
      return;
    }
    forgetSession();
    connect();
    return;
  }
  setConnection("disconnected", isStopping ? "The host does not answer: it has stopped." : "The host does not answer.");
  live.set({ retry_ms: Date.now() + backoff });
  clearTimeout(retryTimer);
  retryTimer = setTimeout(connect, backoff);
  backoff = Math.min(5000, backoff * 2);
}

function connect() {
  clearTimeout(retryTimer);
  source?.abort();
  const mine = new AbortController();
  source = mine;
  const heed = (name, data) => source === mine && HANDLERS[name] && note(data, HANDLERS[name]);
  const end = (error) => source === mine && lose(error?.status);
  listen("/stream", heed, mine.signal).then(end, end);
}

/** Tries to connect at once. */
export function reconnect() {
  backoff = 500;
  connect();
}

/** Ends the stream of a page that nobody sees: browsers open six connections to a host, for all of its pages together. */
function rest() {
  clearTimeout(retryTimer);
  source?.abort();
  source = null;
}

/** Opens the stream; called once by main.js. */
export function startLive() {
  heard = Date.now();
  connect();
  setInterval(() => {
    if (!source) return;
    const { connection } = live.get();
    if (isCurrent(connection) && Date.now() - heard > STALE_AFTER_MS) {
      setConnection("stale", "Nothing was heard from the host for 8 seconds.");
    } else if (connection === "stale" && Date.now() - heard > 3 * STALE_AFTER_MS) {
      lose();
    }
  }, 1000);
  addEventListener("online", reconnect);
  let restTimer = 0;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(restTimer);
    if (document.hidden) restTimer = setTimeout(rest, REST_AFTER_MS);
    else if (!source || live.get().connection === "disconnected") reconnect();
  });
  addEventListener("pagehide", rest);
  addEventListener("pageshow", (event) => event.persisted && reconnect());
}

// The last answers, so that going back shows at once what was seen before.
const cache = new Map();

function remember(url, data) {
  cache.delete(url);
  cache.set(url, data);
  if (cache.size > CACHE_SIZE) cache.delete(cache.keys().next().value);
}

/** Calls `refresh` on mount, and when one of the collections changes or the stream is back: at most 4/s. */
export function useChanges(collections, refresh, key) {
  const latest = useRef(refresh);
  latest.current = refresh;
  useEffect(() => {
    let timer = 0;
    let last = 0;
    const signature = (state) => `${state.epoch} ${collections.map((name) => state.revisions[name] ?? 0).join(" ")}`;
    let seen = signature(live.get());
    const run = () => {
      timer = 0;
      last = Date.now();
      latest.current();
    };
    const wake = () => {
      if (!timer) timer = setTimeout(run, Math.max(0, last + FETCH_GAP_MS - Date.now()));
    };
    run();
    const stop = live.subscribe((state) => {
      const next = signature(state);
      if (next === seen) return;
      seen = next;
      wake();
    });
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, [key, collections.join(" ")]);
}

/**
 * Fetches a path of the API and fetches it again when one of the collections changes or after a reconnect. The data
 * of before stays until the new is there. A null url fetches nothing.
 * @param {string|null} url below /api/v1
 * @param {string[]} collections of applications, audit, hosts, actors, providers, links, claims, events, pulls, rates
 * @returns {{data: any, error: Error|null, loading: boolean, refresh: () => void, at_ms: number|null}}
 */
export function useResource(url, collections = []) {
  const [, render] = useReducer((n) => n + 1, 0);
  const state = useRef(null);
  if (!state.current || state.current.url !== url) {
    state.current?.abort?.abort();
    state.current = { url, data: cache.get(url) ?? null, error: null, loading: url !== null, at_ms: null, abort: null };
  }
  const mine = state.current;
  const refresh = async () => {
    if (mine.url === null || state.current !== mine) return;
    if (mine.abort) {
      mine.isDirty = true;
      return;
    }
    const abort = new AbortController();
    mine.abort = abort;
    try {
      mine.data = await get(mine.url, abort.signal);
      mine.error = null;
      mine.at_ms = now();
      remember(mine.url, mine.data);
    } catch (error) {
      if (error.name === "AbortError") return;
      mine.error = error;
    } finally {
      if (mine.abort === abort) mine.abort = null;
    }
    mine.loading = false;
    if (state.current !== mine) return;
    render();
    if (mine.isDirty) {
      mine.isDirty = false;
      setTimeout(refresh, FETCH_GAP_MS);
    }
  };
  useChanges(collections, refresh, url);
  useEffect(() => () => {
    const last = state.current;
    state.current = { url: Symbol("unmounted") };
    last?.abort?.abort();
  }, []);
  return { data: mine.data, error: mine.error, loading: mine.loading && mine.data === null, refresh,
    at_ms: mine.at_ms };
}

/**
 * Fetches a path of the API again and again, as long as the page is seen. Data stays until newer has come, also that
 * of another url; a null url fetches nothing and keeps it.
 * @param {string|null} url below /api/v1
 * @param {number} ms from an answer to the next question
 * @returns {{data: any, error: Error|null}}
 */
export function usePoll(url, ms) {
  const [state, set] = useState({ data: null, error: null });
  useEffect(() => {
    if (url === null) return undefined;
    const abort = new AbortController();
    let timer = 0;
    const poll = async () => {
      if (!document.hidden) {
        try {
          const data = await get(url, abort.signal);
          set({ data, error: null });
        } catch (error) {
          if (abort.signal.aborted) return;
          set((before) => ({ ...before, error }));
        }
      }
      if (!abort.signal.aborted) timer = setTimeout(poll, ms);
    };
    poll();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, [url, ms]);
  return state;
}
