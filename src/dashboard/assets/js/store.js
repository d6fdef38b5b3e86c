// Owns the two small pieces of state handling that every module shares: observable stores and remembered settings.
import { useEffect, useReducer, useState } from "../vendor/htm-preact.js";

/**
 * An observable value. `set` takes a patch (objects are merged) and tells every subscriber.
 * @template T
 * @param {T} initial
 */
export function createStore(initial) {
  let state = initial;
  const listeners = new Set();
  return {
    get: () => state,
    set(patch) {
      const isObject = state !== null && typeof state === "object" && !Array.isArray(state);
      state = isObject ? { ...state, ...patch } : patch;
      for (const listener of [...listeners]) listener(state);
    },
    subscribe(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
}

/** Renders again when the selected part of a store changes (compared with Object.is). */
export function useStore(store, select = (state) => state) {
  const selected = select(store.get());
  const [, render] = useReducer((n) => n + 1, 0);
  useEffect(() => {
    let last = selected;
    const check = (state) => {
      const next = select(state);
      if (!Object.is(next, last)) {
        last = next;
        render();
      }
    };
    check(store.get());
    return store.subscribe(check);
  }, [store]);
  return selected;
}

/** Reads a setting of this browser; the fallback where none is stored or storage is not allowed. */
export function recall(name, fallback) {
  try {
    const text = localStorage.getItem(`host.${name}`);
    return text === null ? fallback : text;
  } catch {
    return fallback;
  }
}

/** Stores a setting of this browser; null removes it. */
export function remember(name, value) {
  try {
    if (value === null) localStorage.removeItem(`host.${name}`);
    else localStorage.setItem(`host.${name}`, value);
  } catch { /* The setting lasts as long as the page. */ }
}

/** A useState whose value (a text) is remembered by this browser. */
export function useRemembered(name, fallback) {
  const [value, set] = useState(() => recall(name, fallback));
  return [value, (next) => {
    set(next);
    remember(name, next);
  }];
}
