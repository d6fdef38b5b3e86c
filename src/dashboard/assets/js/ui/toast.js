// Owns what is said to the operator in passing: toasts, and the two live regions that screen readers hear.
import { html } from "../../vendor/htm-preact.js";
import { createStore, useStore } from "../store.js";
import { Icon } from "./icons.js";

const toasts = createStore({ items: [] });
const spoken = createStore({ text: "", n: 0 });
// Modal dialogs make the rest of the page inert: the one on top holds the messages, else the page ("") does.
const holders = createStore({ items: [] });
const muted = new Set();
let count = 0;

/** Moves the messages into a dialog that renders <${Toasts} holder=… />; returns the function to end this. */
export function holdToasts(holder) {
  holders.set({ items: [...holders.get().items, holder] });
  return () => holders.set({ items: holders.get().items.filter((item) => item !== holder) });
}

/** Drops toasts with this key, as what they say is on the screen already; returns the function to end this. */
export function muteToasts(key) {
  muted.add(key);
  return () => muted.delete(key);
}

/**
 * Shows a toast. Errors stay until they are closed; the others go after 6 s.
 * @param {{text: string, tone?: "good"|"info"|"warning"|"error", href?: string, hrefText?: string, key?: string}} toast
 *   a toast with the `key` of one that is shown takes its place.
 */
export function toast({ text, tone = "info", href, hrefText = "Show", key }) {
  if (muted.has(key)) return 0;
  const id = ++count;
  const rest = toasts.get().items.filter((item) => !key || item.key !== key);
  toasts.set({ items: [...rest, { id, text, tone, href, hrefText, key }].slice(-5) });
  if (tone !== "error") setTimeout(() => closeToast(id), 6000);
  return id;
}

export function closeToast(id) {
  toasts.set({ items: toasts.get().items.filter((item) => item.id !== id) });
}

/** Says a short text to screen readers only ("Copied"). */
export function announce(text) {
  spoken.set({ text, n: spoken.get().n + 1 });
}

/** Rendered by the shell, and by every dialog with its own `holder`. */
export function Toasts({ holder = "" }) {
  const isMine = useStore(holders, (state) => (state.items.at(-1) ?? "") === holder);
  const { items } = useStore(toasts);
  const { text, n } = useStore(spoken);
  return html`
    <div class="toasts" role=${holder ? "log" : "region"} aria-label="Messages" aria-live="polite">
      ${isMine && items.map((item) => html`<div key=${item.id} class="toast tone-${item.tone}">
        <${Icon} name=${item.tone} />
        <div class="toast-text">${item.text}${item.href && html` <a href=${item.href}>${item.hrefText}</a>`}</div>
        <button type="button" class="icon-button small" aria-label="Close the message"
          onClick=${() => closeToast(item.id)}><${Icon} name="cross" size=${14} /></button>
      </div>`)}
    </div>
    <div class="sr-only" role="status">${isMine && html`${text}${n % 2 ? "\u00a0" : ""}`}</div>`;
}
