// Owns how the things of a lattice appear everywhere alike: states of hosts, health of providers, events, rates.
import { html } from "../../vendor/htm-preact.js";
import { formatMicros, formatRate } from "../format.js";
import { href } from "../router.js";
import { Badge, Key, RelativeTime, StatusDot } from "./basic.js";
import { Icon } from "./icons.js";

export const HOST_TONES = { ok: "good", silent: "warning", stopping: "warning", lost: "error" };
const HOST_TITLES = {
  ok: "The host is heard as it should be.",
  silent: "A heartbeat of the host is overdue.",
  stopping: "The host finishes its calls, and ends.",
  lost: "The host has not been heard for too long; what ran on it is not counted.",
};

/** The state of a host as a badge. */
export const HostState = ({ state }) =>
  html`<${Badge} tone=${HOST_TONES[state]} title=${HOST_TITLES[state]}>${state}</>`;

/** Why a host takes no commands; empty if it does. */
export const whyNot = (host) => ({ lost: "it is lost, and takes no commands", stopping: "it stops" })[host.state] || "";

const HEALTH_TONES = { healthy: "good", unhealthy: "error", unknown: "muted" };

/** The health of a provider as a badge; `runs` is false where it runs on no host. */
export const Health = ({ health, runs = true }) => html`<${Badge} tone=${HEALTH_TONES[health] || "muted"}>${runs
  ? health : "not running"}</>`;

const ACTOR_STATES = {
  running: ["good", "running", "It runs, and no call of it failed just now."],
  failing: ["error", "errors", "Calls of it fail now."],
  refused: ["error", "link refused", "A provider does not take one of its links on."],
  dangling: ["warning", "link not usable",
    "One of its links leads to a provider that runs nowhere or has another contract, or it was not signed for it."],
  not_running: ["muted", "not running", "No host that is heard runs it."],
};

/** How an actor is, as a badge: the worst that holds. */
export function ActorState({ state }) {
  const [tone, word, title] = ACTOR_STATES[state] || ["muted", state];
  return html`<${Badge} tone=${tone} title=${title}>${word}</>`;
}

/** The tone of a line of errors: without any error nothing is red. */
export const errorTone = (values) => (values?.some((value) => value > 0) ? "errors" : "quiet");

const APPLICATION_STATES = {
  failed: ["error", "failed"], rolling: ["info", "rolling out"], reconciling: ["warning", "reconciling"],
  deployed: ["good", "deployed"], undeployed: ["muted", "undeployed"],
};

/** The state of an application, or of a part of one, as a badge. */
export function ApplicationState({ state, message }) {
  const [tone, word] = APPLICATION_STATES[state] || ["muted", state];
  return html`<${Badge} tone=${tone} title=${message || ""}>${word}</>`;
}

const LINK_TONES = { ok: "good", not_running: "warning", not_signed: "error", wrong_contract: "error", refused: "error" };
/** The states of links, the worst last. */
export const LINK_STATES = Object.keys(LINK_TONES);
export const linkWord = (state) => state.replaceAll("_", " ");
export const LinkState = ({ state, problem }) =>
  html`<${Badge} tone=${LINK_TONES[state] || "muted"} title=${problem || ""}>${linkWord(state)}</>`;

/** A link to a host by its name, with its state where it is not well. */
export const HostLink = ({ id, name, state }) => html`<span class="thing">
  <a href=${href.host(id)} title=${id}>${name || id}</a>
  ${state && state !== "ok" && html` <${StatusDot} tone=${HOST_TONES[state]} text=${state} />`}</span>`;

/** The hosts of something: the first by its name, the others counted. hosts: {host_id, host_name, host_state}[] */
export function HostNames({ hosts, total = hosts.length }) {
  const [first, ...rest] = hosts;
  const lost = hosts.filter((host) => host.host_state === "lost").length;
  return html`<span class="thing">${first ? html`<a href=${href.host(first.host_id)}
    title=${first.host_id}>${first.host_name}</a>` : html`<span class="muted">none</span>`}
    ${total > 1 && html`<span class="muted" title=${rest.map((host) => host.host_name).join("\n")}>
    +${total - 1}</span>`}${lost > 0 && html`<span class="text-error">${lost} not heard</span>`}</span>`;
}

/** A link to an actor: its name (from its claims), or its key where no claims are known. */
export const ActorLink = ({ id, name }) =>
  name ? html`<a href=${href.actor(id)} title=${id}>${name}</a>` : html`<${Key} id=${id} href=${href.actor(id)} />`;

export const ProviderLink = ({ id, linkName, name }) =>
  name ? html`<a href=${href.provider(id, linkName)} title=${id}>${name}</a>`
    : html`<${Key} id=${id} href=${href.provider(id, linkName)} />`;

/** Calls per second with errors beside them where there are any. */
export function CallRate({ rates }) {
  if (!rates) return html`<span class="muted" title="The host is of another make, or does not answer.">–</span>`;
  return html`<span class="num">${formatRate(rates.calls_per_s)}/s${rates.errors_per_s > 0 &&
    html` <span class="text-error" title="Errors per second"><${Icon} name="error" size=${12} /><span
      class="sr-only">errors
      </span>${formatRate(rates.errors_per_s)}</span>`}</span>`;
}

/** The share of calls that end well, with an HTTP server's answers 4xx and 5xx a second. */
export function Success({ rates }) {
  if (!rates || rates.success_percent === null) return html`<span class="muted">–</span>`;
  const http = rates.http;
  return html`<span class=${rates.success_percent < 100 ? "num text-error" : "num"}>
    ${formatRate(rates.success_percent)} %</span>${http && html` <span class="num muted small">4xx
    ${` ${formatRate(http["4xx"])}`}/s, 5xx ${formatRate(http["5xx"])}/s</span>`}`;
}

export const Latency = ({ micros }) => html`<span class=${micros == null ? "num muted" : "num"}>
  ${formatMicros(micros)}</span>`;

/** One event as a line of a list. */
export function EventLine({ event }) {
  return html`<li class="event-line tone-${event.severity}">
    <${Icon} name=${event.severity} size=${14} />
    <span class="event-text">${event.text}</span>
    <span class="event-meta">${event.host_id && html`<a href=${href.host(event.host_id)} title=${event.host_id}>
      ${event.host_name || event.host_id.slice(0, 8)}</a>`}<${RelativeTime} at=${event.at_ms} /></span>
  </li>`;
}

/** The address of what an item of the attention list is about, or null. */
export function attentionHref(item) {
  if (!item.id) return item.kind === "link" ? href.links() : null;
  if (item.kind === "host") return href.host(item.id);
  if (item.kind === "application") return href.application(item.id);
  if (item.kind === "actor") return href.actor(item.id);
  if (item.kind === "provider") return href.provider(item.id, item.link_name || "default");
  return item.kind === "link" ? `/links?q=${encodeURIComponent(item.id)}` : null;
}
