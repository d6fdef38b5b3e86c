// Owns the list of what somebody should look at: what it is about, how to deal with it, and a button that begins it.
import {
  attentionHref, Button, get, html, Icon, RelativeTime, Skeleton, toast, withQuery, WithCommands,
} from "../ui/index.js";
import { AttentionActions } from "../actions/attention.js";
import { putLink, startActor, startElsewhere, startProvider } from "../actions/index.js";

const SHOWN_MAX = 50;

/** Opens the form of a link with the values it has now, or an empty one where it was deleted meanwhile. */
async function putAgain({ actor_id, contract_id, link_name }) {
  const { items } = await get(withQuery("/links", { q: actor_id, limit: 1000 }));
  await putLink(items.find((each) => each.actor_id === actor_id && each.contract_id === contract_id
    && each.link_name === link_name) || { actor_id, contract_id, link_name });
}

/** Icon, text and action of the button, by the kind of what mends it. */
const FIXES = {
  put_link: ["edit", "Put the link again", putAgain],
  start_actor: ["play", "Start it again", ({ reference, host_id }) => startActor({ reference, host_id })],
  start_provider: ["play", "Start the provider", ({ reference, link_name, host_id }) => startProvider({ reference,
    link_name, host_id: host_id || "" })],
  start_elsewhere: ["plus", "Start elsewhere", ({ host_id }) => startElsewhere({ id: host_id })],
};

function Fix({ fix }) {
  const [icon, text, run] = FIXES[fix?.kind] || [];
  if (!run) return null;
  const press = () => Promise.resolve(run(fix)).catch((error) => toast({ text: error.message, tone: "error" }));
  return html`<${Button} size="small" icon=${icon} onClick=${press}>${text}</>`;
}

/** The text of an item; of it only what it is about is a link. */
function Text({ item }) {
  const to = attentionHref(item);
  const at = item.subject ? item.text.indexOf(item.subject) : -1;
  if (!to || at < 0) return html`${item.text}${to && html` <a href=${to}>Show</a>`}`;
  return html`${item.text.slice(0, at)}<a href=${to}>${item.subject}</a>${item.text.slice(at + item.subject.length)}`;
}

/** items: Attention[] of the API, or nothing while they are not known */
export function AttentionList({ items }) {
  if (!items) return html`<${Skeleton} lines=${3} />`;
  if (!items.length) return html`<p class="calm"><${Icon} name="good" /> Nothing needs your attention.</p>`;
  return html`<ul class="attention">${items.slice(0, SHOWN_MAX).map((item) => html`<li
    key=${`${item.kind} ${item.id} ${item.link_name} ${item.text}`} class="tone-${item.mark ? "muted" : item.severity}">
    <${Icon} name=${item.severity} /><div><p class="attention-text"><${Text} item=${item} /></p>
    ${item.advice && html`<p><${WithCommands} text=${item.advice} /></p>`}
    ${(item.fix || item.since_ms) && html`<div class="attention-acts"><${Fix} fix=${item.fix} />
      ${item.since_ms && html`<span class="muted small"><${RelativeTime} at=${item.since_ms} /></span>`}</div>`}
    </div><${AttentionActions} item=${item} /></li>`)}</ul>`;
}
