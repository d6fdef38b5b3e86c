// Owns the small building blocks of every view: headers, cards, badges, keys, labels, times, empty and loading states.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { useClock } from "../clock.js";
import { formatAgo, formatDuration, formatTime, safeUrl, shortKey } from "../format.js";
import { Icon } from "./icons.js";
import { announce } from "./toast.js";

/** Joins class names; falsy ones are dropped. */
export const classes = (...names) => names.filter(Boolean).join(" ");

/** What is in sight of a scrolling element: {top, width, height}, kept up to date; and the function that sets it. */
export function useSight(ref, initial) {
  const [sight, setSight] = useState(initial);
  useLayoutEffect(() => {
    const node = ref.current;
    const measure = () => setSight({ top: node.scrollTop, width: node.clientWidth, height: node.clientHeight });
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(node);
    node.addEventListener("scroll", measure, { passive: true });
    return () => {
      observer.disconnect();
      node.removeEventListener("scroll", measure);
    };
  }, []);
  return [sight, setSight];
}

/**
 * The head of a view.
 * @param {{title: any, crumbs?: {text: string, href: string}[], status?: any, sub?: any, actions?: any}} props
 */
export function PageHeader({ title, crumbs = [], status, sub, actions }) {
  return html`<header class="page-header">
    <div class="page-title">
      ${crumbs.length > 0 && html`<nav aria-label="Breadcrumbs" class="crumbs"><ol>
        ${crumbs.map((crumb) => html`<li key=${crumb.href}><a href=${crumb.href}>${crumb.text}</a></li>`)}
      </ol></nav>`}
      <div class="title-line"><h1>${title}</h1>${status}</div>
      ${sub && html`<div class="page-sub">${sub}</div>`}
    </div>
    ${actions && html`<div class="page-actions">${actions}</div>`}
  </header>`;
}

/** A titled section. `flush` lets a table or list reach its edges. */
export function Card({ title, count, actions, flush, class: extra, children, level = 2 }) {
  return html`<section class=${classes("card", flush && "flush", extra)} aria-label=${title}>
    ${title && html`<div class="card-head">
      <${`h${level}`}>${title}${count !== undefined && html` <span class="count">${count}</span>`}</>
      ${actions && html`<div class="card-actions">${actions}</div>`}
    </div>`}
    <div class="card-body">${children}</div>
  </section>`;
}

/** A button. kind: "" | "primary" | "danger" | "ghost". `why` says why it cannot be pressed now; it is empty if it can. */
export function Button({ kind, icon, size, why, children, class: extra, ...rest }) {
  // Not "disabled": who comes by with the keyboard hears the reason.
  const more = why ? { "aria-disabled": "true", title: why, onClick: null } : {};
  return html`<button type="button" class=${classes("button", kind, size, extra)} ...${rest} ...${more}>
    ${icon && html`<${Icon} name=${icon} />`}<span>${children}</span>${why && html`<span class="sr-only">: ${why}</span>`}
  </button>`;
}

/** A button with an icon only; `label` names it for everybody (as tooltip and for screen readers). */
export function IconButton({ icon, label, class: extra, size, ...rest }) {
  return html`<button type="button" class=${classes("icon-button", size, extra)} aria-label=${label} title=${label}
    ...${rest}><${Icon} name=${icon} size=${size === "small" ? 14 : 16} /></button>`;
}

const TONE_ICONS = { good: "good", warning: "warning", error: "error", info: "info", muted: "unknown" };

/** A state in words with its icon. tone: good | warning | error | info | muted. */
export function Badge({ tone = "muted", icon, title, children }) {
  return html`<span class="badge tone-${tone}" title=${title || ""}>
    ${icon !== null && html`<${Icon} name=${icon || TONE_ICONS[tone]} size=${13} />`}<span>${children}</span>
  </span>`;
}

/** A dot with its word beside it (with `quiet` for screen readers only: then another sign must be beside it). */
export function StatusDot({ tone = "muted", text, quiet }) {
  return html`<span class="status tone-${tone}"><span class="dot" aria-hidden="true"></span>
    <span class=${quiet ? "sr-only" : ""}>${text}</span></span>`;
}

/** Copies a text and says so. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages of plain http have no clipboard API.
    const area = document.createElement("textarea");
    area.value = text;
    area.className = "sr-only";
    (document.querySelector("dialog[open]") || document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
}

/** A button that copies a text and turns into a tick for a moment. */
export function CopyButton({ text, label = "Copy" }) {
  const [isDone, setDone] = useState(false);
  const timer = useRef(0);
  useEffect(() => () => clearTimeout(timer.current), []);
  const copy = async (event) => {
    event.stopPropagation();
    await copyText(text);
    setDone(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setDone(false), 1500);
  };
  return html`<button type="button" class=${classes("icon-button small copy", isDone && "done")}
    aria-label=${label} title=${isDone ? "Copied" : label} onClick=${copy}>
    <${Icon} name=${isDone ? "check" : "copy"} size=${14} /></button>`;
}

/** A public key, shortened in the middle, with a copy button; the whole of it is its title. */
export function Key({ id, href, full }) {
  if (!id) return html`<span class="muted">–</span>`;
  const text = full ? id : shortKey(id);
  return html`<span class="key">
    ${href ? html`<a class="mono" href=${href} title=${id}>${text}</a>` : html`<span class="mono" title=${id}>
      ${text}</span>`}
    <${CopyButton} text=${id} label=${`Copy ${shortKey(id)}`} />
  </span>`;
}

/** Labels, annotations or constraints as chips; beyond `max` only their number is told. */
export function Labels({ labels, max = Infinity, empty = "none" }) {
  const entries = Object.entries(labels || {}).sort(([a], [b]) => (a < b ? -1 : 1));
  if (!entries.length) return empty ? html`<span class="muted">${empty}</span>` : null;
  const rest = entries.slice(max);
  return html`<ul class="chips">
    ${entries.slice(0, max).map(([name, value]) => html`<li key=${name} class="chip" title=${`${name}=${value}`}>
      <span class="chip-key">${name}</span><span class="chip-value">${value}</span></li>`)}
    ${rest.length > 0 && html`<li class="chip more" title=${rest.map(([k, v]) => `${k}=${v}`).join("\n")}>
      +${rest.length}</li>`}
  </ul>`;
}

/**
 * A text that loses its beginning where there is no room, since its end is what differs: "wasmcloud:httpserver" becomes
 * "was…:httpserver". `at` is where the end begins.
 */
export function Cut({ text, at = text.lastIndexOf(":") }) {
  const from = at > 0 ? at : Math.max(0, text.length - 12);
  return html`<span class="cut" title=${text}>${from > 0 && html`<span class="cut-head">${text.slice(0, from)}</span>`}<span
    class="cut-tail">${text.slice(from)}</span></span>`;
}

/** Plain words as chips (capabilities, tags); beyond `max` only their number is told. */
export function Chips({ items, max = Infinity, empty = "none" }) {
  if (!items?.length) return empty ? html`<span class="muted">${empty}</span>` : null;
  const rest = items.slice(max);
  return html`<ul class="chips">${items.slice(0, max).map((item) => html`<li key=${item} class="chip"><span
    class="chip-value"><${Cut} text=${item} /></span></li>`)}${rest.length > 0 && html`<li class="chip more"
    title=${rest.join("\n")}>+${rest.length}</li>`}</ul>`;
}

/** "3 s ago"; the absolute time is its title. */
export function RelativeTime({ at }) {
  const text = useClock((now) => formatAgo(at, now));
  if (at === null || at === undefined) return html`<span class="muted">–</span>`;
  return html`<time class="time" dateTime=${new Date(at).toISOString()} title=${formatTime(at)}>${text}</time>`;
}

/** How long something has lasted: "5 h 12 min". */
export function Since({ at }) {
  const text = useClock((now) => (at === null || at === undefined ? "–" : formatDuration(now - at)));
  return html`<span class="time" title=${at ? `Since ${formatTime(at)}` : ""}>${text}</span>`;
}

/** A link to another site: only http and https become links. */
export function ExternalLink({ url, children }) {
  const checked = safeUrl(url);
  if (!checked) return html`<span>${children || url}</span>`;
  return html`<a class="external" href=${checked} target="_blank" rel="noopener noreferrer">${children || url}
    <${Icon} name="external" size=${12} /><span class="sr-only"> (opens in a new tab)</span></a>`;
}

/** Nothing is there: says so and what to do next. `command` is shown as a line to copy. */
export function EmptyState({ icon = "info", title, children, command, action, small }) {
  return html`<div class=${classes("empty", small && "small")}>
    ${!small && html`<div class="empty-icon"><${Icon} name=${icon} size=${22} /></div>`}
    <p class="empty-title">${title}</p>
    ${children && html`<div class="empty-text">${children}</div>`}
    ${command && html`<${Command} text=${command} />`}
    ${action && html`<div class="empty-action">${action}</div>`}
  </div>`;
}

/** A sentence whose parts between backticks are lines for the shell, to copy. */
export const WithCommands = ({ text }) => text.split("`").map((part, at) => (at % 2
  ? html`<${Command} key=${at} text=${part} />` : at ? part.replace(/^[.;,]\s*/, " ") : part));

/** A line for the shell, to copy. */
export function Command({ text }) {
  return html`<span class="command"><code>${text}</code><${CopyButton} text=${text} label="Copy the command" /></span>`;
}

/** A placeholder of fixed size while something loads. Sizes are CSS lengths. */
export function Skeleton({ width = "100%", height = "1em", lines = 1 }) {
  return html`<span class="skeletons" aria-hidden="true">${Array.from({ length: lines }, (_, at) =>
    html`<span key=${at} class="skeleton" style=${{ width: lines > 1 && at === lines - 1 ? "60%" : width, height }}>
      </span>`)}
  </span>`;
}

/** An error of a request, with a way to try again. */
export function ErrorNote({ error, retry }) {
  return html`<div class="note tone-error" role="alert"><${Icon} name="error" />
    <div>${error.message}</div>${retry && html`<${Button} size="small" onClick=${retry}>Try again</>`}</div>`;
}

/** A sentence that stands out: tone good | info | warning | error. */
export function Note({ tone = "info", children, action }) {
  return html`<div class="note tone-${tone}"><${Icon} name=${TONE_ICONS[tone]} /><div>${children}</div>${action}</div>`;
}

/** A term and its value in a list of facts. Falsy items are dropped. items: [term, value][] */
export function Facts({ items, columns }) {
  return html`<dl class=${classes("facts", columns && "columns")}>
    ${items.filter(Boolean).map(([term, value], at) => html`<div key=${typeof term === "string" ? term : at}
      class="fact"><dt>${term}</dt><dd>${value}</dd></div>`)}
  </dl>`;
}

/** One figure. `spark` takes a Sparkline; tone colours the figure. */
export function Stat({ label, value, unit, sub, spark, tone, href }) {
  const body = html`
    <span class="stat-label">${label}</span>
    <span class="stat-value">${value ?? html`<${Skeleton} width="3.5ch" height="1.4rem" />`}
      ${unit && html`<span class="stat-unit"> ${unit}</span>`}</span>
    <span class="stat-sub">${sub || "\u00a0"}</span>
    ${spark && html`<span class="stat-spark">${spark}</span>`}`;
  const name = classes("stat", tone && `tone-${tone}`, spark && "with-spark");
  return href ? html`<a class=${name} href=${href}>${body}</a>` : html`<div class=${name}>${body}</div>`;
}
