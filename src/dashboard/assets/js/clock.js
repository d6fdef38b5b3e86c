// Owns the page's one clock: the host's time (its offset to the browser's comes with the stream), a tick a second.
import { useEffect, useState } from "../vendor/htm-preact.js";

let offset = 0;
const listeners = new Set();
let timer = 0;

/** Corrects the clock; differences below a second are not worth a jump. */
export function noteServerTime(now_ms) {
  if (!Number.isFinite(now_ms)) return;
  const next = now_ms - Date.now();
  if (Math.abs(next - offset) > 1000) offset = next;
}

/** Milliseconds since 1970 by the host's clock. */
export const now = () => Date.now() + offset;

/** Calls the listener every second; one timer serves all. */
export function onSecond(listener) {
  listeners.add(listener);
  if (!timer) timer = setInterval(() => listeners.forEach((each) => each()), 1000);
  return () => {
    listeners.delete(listener);
    if (!listeners.size) {
      clearInterval(timer);
      timer = 0;
    }
  };
}

/** A value computed from the clock; renders again only when it changes. */
export function useClock(compute) {
  const [, render] = useState("");
  const value = compute(now());
  useEffect(() => onSecond(() => render(compute(now()))), [compute]);
  return value;
}
