// Owns how calls that failed are shown: by whom, to whom, why, and how to look further.
import {
  apiPath, Command, CopyButton, EmptyState, ErrorNote, html, href, RelativeTime, shortKey, Skeleton, Table, usePoll,
  withQuery,
} from "../ui/index.js";

const POLL_MS = 3000;
const KINDS = { refused: "refused", timed_out: "timed out", failed: "failed" };

/** A link to an actor or a provider by its name. */
function Party({ id, name, linkName }) {
  if (!id) return html`<span class="mono">${name || "–"}</span>`;
  const text = name || shortKey(id);
  if (id.startsWith("M")) return html`<a href=${href.actor(id)} title=${id}>${text}</a>`;
  return id.startsWith("V") ? html`<a href=${href.provider(id, linkName || "default")} title=${id}>${text}</a>` : text;
}

const explain = (call) => ["host explain", call.caller_name || call.caller_id, call.contract_id || call.target_name,
  call.operation, call.link_name && call.link_name !== "default" ? `--link-name ${call.link_name}` : ""]
  .filter(Boolean).join(" ");

const COLUMNS = [
  { key: "at", title: "When", width: "104px", render: (call) => html`<${RelativeTime} at=${call.at_ms} />` },
  { key: "caller", title: "Caller", width: "150px", render: (call) => html`<${Party} id=${call.caller_id}
    name=${call.caller_name} linkName=${call.caller_link_name} />` },
  { key: "target", title: "Target", width: "150px", render: (call) => html`<${Party} id=${call.target_id}
    name=${call.target_name} linkName=${call.link_name} />` },
  { key: "operation", title: "Operation", width: "180px", render: (call) => html`<span class="mono wrap">
    ${call.operation}</span>` },
  { key: "reason", title: "Reason", min: "260px", render: (call) => html`<span class="text-error wrap">
    ${KINDS[call.kind] || call.kind}: ${call.reason}</span>
    <p class="small"><${Command} text=${explain(call)} /></p>` },
  { key: "id", title: "Id", width: "130px", render: (call) => html`<span class="mono small" title=${call.id}>
    ${call.id.slice(0, 8)}…</span> <${CopyButton} text=${call.id} label="Copy the id of the failure" />` },
];

/** The last failed calls of an actor or a provider, those it made and those it was to take. */
export function useFailures(kind, id) {
  const { data, error } = usePoll(withQuery(apiPath(kind, id, "failures"), { limit: 100 }), POLL_MS);
  return { items: data?.items ?? null, error };
}

export function FailedCalls({ failures: { items, error } }) {
  if (error && !items) return html`<${ErrorNote} error=${error} />`;
  if (!items) return html`<${Skeleton} lines=${4} />`;
  return html`<${Table} label="Failed calls" items=${items} columns=${COLUMNS} rowKey=${(call) => call.id}
    empty=${html`<${EmptyState} icon="good" small title="No call failed lately" />`} />`;
}
