// Owns where something is started: a named host or the first that offers, with the preview of which hosts match.
import { html, useEffect, useMemo, useState } from "../../vendor/htm-preact.js";
import { api } from "../api.js";
import { plural } from "../format.js";
import { useResource } from "../live.js";
import { Badge, Note } from "../ui/basic.js";
import { KeyValueEditor, mapOf, rowsOf, Segmented, SelectField } from "../ui/form.js";
import { Icon } from "../ui/icons.js";
import { Term } from "../ui/term.js";

/** The state of a placement, from a preset of the API's members host_id and constraints. */
export function usePlacement(preset) {
  const [mode, setMode] = useState(preset.host_id ? "host" : "auction");
  const [host, setHost] = useState(preset.host_id || "");
  const [rows, setRows] = useState(rowsOf(preset.constraints));
  const { data } = useResource("/hosts?limit=1000", ["hosts"]);
  const hosts = data?.items || [];
  const isNamed = mode === "host";
  return { mode, setMode, host, setHost, rows, setRows, hosts,
    host_id: isNamed ? host || null : null, constraints: isNamed ? {} : mapOf(rows), isReady: !isNamed || host !== "" };
}

/** Which hosts would take it: asks 400 ms after the last change. */
function useAuction(body) {
  const [state, setState] = useState({ hosts: null, error: null, isAsking: false });
  const text = JSON.stringify(body);
  useEffect(() => {
    if (!body.reference) {
      setState({ hosts: null, error: null, isAsking: false });
      return undefined;
    }
    setState((before) => ({ ...before, isAsking: true }));
    const abort = new AbortController();
    const timer = setTimeout(() => {
      api("/auctions", { method: "POST", body: JSON.parse(text), signal: abort.signal }).then(
        ({ hosts }) => setState({ hosts, error: null, isAsking: false }),
        (error) => error.name !== "AbortError" && setState({ hosts: null, error, isAsking: false }));
    }, 400);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [text]);
  return state;
}

function Offers({ hosts, isNamed, isAsking }) {
  const offers = hosts.filter((each) => each.offers);
  const sorted = [...offers, ...hosts.filter((each) => !each.offers)];
  const tone = offers.length ? "good" : "warning";
  return html`<div class="offers" aria-busy=${isAsking}>
    <div class="offers-head"><h3>${isNamed ? "Whether this host takes it" : "Which hosts match"}</h3>
      <span role="status"><${Badge} tone=${tone}>${isNamed ? offers.length ? "it does" : "it does not"
        : `${offers.length} of ${plural(hosts.length, "host")}`}</></span></div>
    ${hosts.length > 0 && html`<ul class="offer-list" tabindex="0" aria-label="Offers of the hosts">
      ${sorted.slice(0, 100).map((each) => html`<li key=${each.host_id} class=${`tone-${each.offers ? "good"
        : "muted"}`}>
        <${Icon} name=${each.offers ? "good" : "cross"} size=${14} />
        <span><b>${each.name}</b>${each.offers ? html`<span class="sr-only"> offers</span>`
          : html`: ${each.why || "it does not offer"}.${each.advice && html`<span
            class="offer-advice">${each.advice}</span>`}`}</span></li>`)}
      ${sorted.length > 100 && html`<li class="muted">… and ${sorted.length - 100} more</li>`}</ul>`}
    ${!offers.length && html`<${Note} tone="warning">${isNamed
      ? hosts.length ? "Choose another host, or do what the line above says."
      : "This host did not answer. Choose another."
      : "No host takes this now. Loosen the constraints, or give a host the labels that they name."}</>`}
  </div>`;
}

/** The choice of the place and its preview. `kind`, `reference` and `linkName` say what is to be started. */
export function PlacementPicker({ placement, kind, reference, linkName = "" }) {
  const { mode, host, hosts, rows } = placement;
  const isNamed = mode === "host";
  const { hosts: offers, error, isAsking } = useAuction({ kind, reference, link_name: linkName,
    constraints: placement.constraints });
  const labels = useMemo(() => {
    const known = new Map();
    for (const each of hosts) {
      for (const [key, value] of Object.entries(each.labels || {})) {
        if (!known.has(key)) known.set(key, new Set());
        known.get(key).add(value);
      }
    }
    return known;
  }, [hosts]);
  const shown = isNamed ? offers?.filter((each) => each.host_id === host) : offers;
  const alive = hosts.filter((each) => each.state !== "lost" || each.id === host);
  return html`<fieldset class="field section"><legend>Where</legend><div class="stack-8">
    <${Segmented} label="Where it runs" value=${mode} onInput=${placement.setMode} options=${[
      ["auction", "First host that offers"], ["host", "A named host"]]} />
    ${isNamed ? html`<${SelectField} label="Host" value=${host} onInput=${placement.setHost} options=${[["",
        "Choose a host …"], ...alive.map((each) => [each.id, `${each.name}${each.is_this ? " (this host)" : ""}${
        each.state === "ok" ? "" : ` (${each.state})`}`])]} />`
      : html`<${KeyValueEditor} label="Constraints" optional rows=${rows} onInput=${placement.setRows}
        keys=${[...labels.keys()]} values=${(key) => [...(labels.get(key.trim()) || [])]} keyName="Label"
        addText="Add a constraint" hint=${html`Only hosts with all of these labels offer. <${Term}
          of="constraint">What is a constraint?</>`} />`}
    ${!reference ? html`<p class="hint">Which hosts match is shown here once it is clear what to start.</p>`
      : error ? html`<${Note} tone="error">${error.message}</>`
      : shown ? (!isNamed || host) && html`<${Offers} hosts=${shown} isNamed=${isNamed} isAsking=${isAsking} />`
      : html`<p class="hint" role="status">The hosts are asked …</p>`}
  </div></fieldset>`;
}
