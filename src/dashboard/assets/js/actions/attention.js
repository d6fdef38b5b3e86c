// Owns what is said about something that needs attention: acknowledging it, muting it, taking that back.
import { apiPath, del, put } from "../api.js";
import { formatDuration } from "../format.js";
import { Badge } from "../ui/basic.js";
import { Menu } from "../ui/menu.js";
import { Icon } from "../ui/icons.js";
import { useResource } from "../live.js";
import { toast } from "../ui/toast.js";
import { html, useState } from "../../vendor/htm-preact.js";
import { now } from "../clock.js";

const MUTES = [["1 hour", 3600], ["8 hours", 8 * 3600], ["1 day", 24 * 3600], ["7 days", 7 * 24 * 3600]];

/** Whether nobody looks after it yet. */
export const isOpen = (item) => !item.mark;

async function say(item, work, text) {
  try {
    await work(apiPath("attention", item.key));
    toast({ tone: "good", text });
  } catch (error) {
    toast({ tone: "error", text: error.message });
  }
}

const ack = (item) => say(item, (path) => put(path, { said: "ack" }), "Acknowledged on every page of the lattice");
const mute = (item, words, for_s) => say(item, (path) => put(path, { said: "mute", for_s }), `Muted for ${words}`);
const clear = (item) => say(item, del, "Taken back");

/** What somebody said about an item of the attention list, and the menu to say something; then `done` is called. */
export function AttentionActions({ item, done }) {
  const { mark } = item;
  if (!item.key) return null;
  const title = mark && `By ${mark.by || "somebody"}${mark.note ? `: ${mark.note}` : ""}. It ends by itself in ${
    formatDuration(mark.until_ms - now())}.`;
  return html`<span class="attention-actions">${mark && html`<${Badge} tone="muted" title=${title}>${mark.said === "ack"
    ? "acknowledged" : "muted"}</>`}
    <${Menu} label="What to say about it" items=${[
      !mark && { text: "Acknowledge", icon: "good", onSelect: () => ack(item).then(done) },
      mark?.said !== "mute" && { text: "Mute for", icon: "pause", items: MUTES.map(([words, seconds]) => ({ text: words,
        onSelect: () => mute(item, words, seconds).then(done) })) },
      mark && { text: "Take it back", icon: "refresh", onSelect: () => clear(item).then(done) }]} /></span>`;
}

/** What is muted, listed when it is asked for. */
export function MutedAttention() {
  const [isShown, setShown] = useState(false);
  const { data, refresh } = useResource(isShown ? "/attention" : null, ["hosts", "links"]);
  const items = data?.muted || [];
  return html`<details class="muted-attention" onToggle=${(event) => setShown(event.currentTarget.open)}>
    <summary class="muted small">What is muted</summary>
    ${data && (items.length ? html`<ul class="attention">${items.map((item) => html`<li key=${item.key}
      class="tone-muted"><${Icon} name=${item.severity} /><div><p>${item.text}</p></div>
      <${AttentionActions} item=${item} done=${refresh} /></li>`)}</ul>`
      : html`<p class="muted small">Nothing is muted.</p>`)}</details>`;
}
