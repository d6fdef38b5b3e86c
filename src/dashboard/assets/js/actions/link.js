// Owns the dialog that links an actor to a provider (who, by which contract, and the values as a form), and the one
// that puts a link back to what it was.
import { html, useCallback, useEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { apiPath, get, post, put, withQuery } from "../api.js";
import { shortKey } from "../format.js";
import { useResource } from "../live.js";
import { Button, ExternalLink, Facts, IconButton, Note } from "../ui/basic.js";
import { Combobox, Field, SelectField, TextField } from "../ui/form.js";
import { Icon } from "../ui/icons.js";
import { nameOf } from "./change.js";
import { openChange } from "./login.js";
import { ActionDialog } from "./progress.js";

const isKey = (text, letter) => new RegExp(`^${letter}[A-Z2-7]{55}$`).test(text);
const option = (id, name, more = {}) => ({ value: id, text: nameOf(name, id), ...more });

/** Actors by their claims; with their contracts, so that a choice fills the rest. */
export async function searchActors(q, signal) {
  const { items } = await get(withQuery("/claims", { q, kind: "actor", limit: 50 }), signal);
  return items.map((each) => option(each.id, each.name, {
    sub: `${each.is_running ? "" : "not running · "}${each.call_alias || shortKey(each.id)}`, caps: each.caps }));
}

/** Running providers of the contract first, then the other running ones, then those that only claims tell of. */
async function searchProviders(contract, q, signal) {
  const [running, claims] = await Promise.all([get(withQuery("/providers", { q, limit: 200 }), signal),
    get(withQuery("/claims", { q, kind: "provider", limit: 200 }), signal)]);
  const has = new Set(running.items.map((each) => each.id));
  const own = running.items.map((each) => option(each.id, each.name, { contract: each.contract_id,
    value: `${each.id} ${each.link_name}`, id: each.id, link: each.link_name, isRunning: true,
    sub: `${each.link_name} · ${each.contract_id}`,
    group: !contract ? "Running" : each.contract_id === contract ? `Running, of ${contract}` : "Other contracts" }));
  const known = claims.items.filter((each) => !has.has(each.id)).map((each) =>
    option(each.id, each.name, { id: each.id, link: "", contract: each.contract_id, group: "Not running",
      sub: each.contract_id }));
  const rank = (each) => (each.contract !== contract) * 2 + !each.isRunning;
  return [...own, ...known].sort((a, b) => rank(a) - rank(b)).slice(0, 60);
}

/** The values that links of this contract or provider may have: [{name, default, help}]. */
function useKnownValues(provider, contract) {
  const { data: running } = useResource(provider?.id && provider.link ? apiPath("providers", provider.id,
    provider.link) : null);
  const { data: builtins } = useResource("/builtins");
  if (running?.values.length) return running.values;
  const fits = builtins?.items.find((each) => each.public_key === provider?.id)
    || builtins?.items.find((each) => each.contract_id === contract);
  return fits?.values || [];
}

const looksSecret = (key) => /pass|secret|token|credential|private/i.test(key);

/** One value: a field that is named by its key, or a secret that is kept. */
function ValueRow({ row, known, onInput, onRemove }) {
  const hint = known && html`${known.help}${known.default && html` Without it: <code>${known.default}</code>.`}`;
  const isSecret = row.wasSecret || looksSecret(row.key);
  const isKept = row.value === null;
  return html`<div class="value-row">
    <${Field} label=${html`<span class="mono">${row.key}</span>`} hint=${hint} control=${(tie) => html`
      <div class="value-line">${isKept
        ? html`<span class="kept" id=${tie.id} tabindex="-1"><${Icon} name="lock" size=${14} /> Kept: the secret that is
            set already</span><${Button} size="small" onClick=${() => onInput("")} aria-label=${`Replace ${row.key}`}>
            Replace</>`
        : html`<input class="input mono" type=${isSecret ? "password" : "text"} autocomplete=${isSecret
            ? "new-password" : "off"} spellcheck=${false} value=${row.value} data-value=${row.key} ...${tie}
            onInput=${(event) => onInput(event.target.value)} />
          ${row.wasSecret && html`<${Button} size="small" onClick=${() => onInput(null)}
            aria-label=${`Keep it: ${row.key}`}>Keep it</>`}`}
        <${IconButton} icon="trash" label=${`Remove ${row.key}`} onClick=${onRemove} /></div>`} />
  </div>`;
}

function Values({ rows, setRows, known }) {
  const box = useRef(null);
  const [focus, setFocus] = useState("");
  useEffect(() => {
    if (!focus) return;
    [...box.current.querySelectorAll("[data-value]")].find((node) => node.dataset.value === focus)?.focus();
    setFocus("");
  }, [focus]);
  const has = (name) => rows.some((row) => row.key === name);
  const rest = known.filter((each) => !has(each.name));
  const add = (name) => {
    if (!has(name)) setRows([...rows, { key: name, value: "" }]);
    setFocus(name);
  };
  const set = (at, value) => {
    setRows(rows.map((row, n) => (n === at ? { ...row, value } : row)));
    if (rows[at].value === null) setFocus(rows[at].key);
  };
  const search = useCallback(async (q) => rest.filter((each) => `${each.name} ${each.help}`.toLowerCase()
    .includes(q.toLowerCase())).map((each) => ({ value: each.name, text: each.name,
    sub: `${each.help}${each.default ? ` Without it: ${each.default}` : ""}` })), [known, rows]);
  return html`<fieldset class="field section" ref=${box}><legend>Values</legend>
    ${!rows.length && html`<p class="hint">${known.length ? "None is set: the provider’s own defaults hold."
      : "What the provider needs for this actor: addresses, names, credentials. Its documentation names them."}</p>`}
    ${rows.map((row, at) => html`<${ValueRow} key=${row.key} row=${row}
      known=${known.find((each) => each.name === row.key)} onInput=${(value) => set(at, value)}
      onRemove=${() => {
        setRows(rows.filter((_, n) => n !== at));
        box.current.querySelector("[role=combobox]")?.focus();
      }} />`)}
    ${rest.length > 0 && rows.length < 3 && html`<div class="chips quick">${rest.slice(0,
      5).map((each) => html`<${Button}
      key=${each.name} size="small" icon="plus" title=${each.help} onClick=${() => add(each.name)}><span
        class="mono">${each.name}</span></>`)}</div>`}
    <${Combobox} label="Add a value" value=${null} search=${search} clears mono onPick=${(picked) => picked
      && add(picked.value)} placeholder=${rest.length ? `Search ${rest.length} known values, or type a name` : "Name"}
      none="Type a name and press Enter." free=${(text) => (has(text) ? null : { value: text, text, sub: "add it" })} />
  </fieldset>`;
}

/** Where the pages are that the link has brought. */
const Pages = ({ urls }) => html`${urls.map((url) => html`<p key=${url}><${ExternalLink} url=${url}>Open ${url}</>
  </p>`)}`;

/** The link of a preset, put back to what it was before its last change. */
function UndoLink({ link, close }) {
  const run = () => post("/links/undo", { actor_id: link.actor_id, contract_id: link.contract_id,
    link_name: link.link_name || "default" });
  return html`<${ActionDialog} title="Undo the last change of the link" close=${close} run=${run} submitText="Undo it"
    busyText="Putting it back …">
    <p>The link of <b>${nameOf(link.actor_name, link.actor_id)}</b> becomes what it was before its last change, with the
      values it had then. One that was deleted is put again, one that was new is deleted.</p>
    <${Facts} items=${[["Contract", html`<span class="mono">${link.contract_id}</span>`],
      ["Link name", link.link_name || "default"]]} />
  </>`;
}

/** link: {actor_id, contract_id, link_name, actor_name?} */
export const undoLink = (link) => openChange(UndoLink, { link });

export function PutLink({ preset = {}, close }) {
  const isEdit = !!preset.values;
  const [actor, setActor] = useState(preset.actor_id ? option(preset.actor_id, preset.actor_name) : null);
  const [provider, setProvider] = useState(preset.provider_id ? option(preset.provider_id, preset.provider_name,
    { id: preset.provider_id, link: preset.link_name || "" }) : null);
  const [contract, setContract] = useState(preset.contract_id || "");
  const [isOther, setOther] = useState(false);
  const [linkName, setLinkName] = useState(preset.link_name || "default");
  const [rows, setRows] = useState(() => Object.entries(preset.values || {}).map(([key, value]) => ({ key, value,
    wasSecret: value === null })));
  const { data: claims } = useResource(actor && !actor.caps ? withQuery("/claims", { q: actor.value, limit: 5 })
    : null);
  const { data: links } = useResource(actor ? withQuery("/links", { q: actor.value, limit: 1000 }) : null,
    ["links", "providers"]);
  const caps = actor?.caps || claims?.items.find((each) => each.id === actor?.value)?.caps || [];
  const known = useKnownValues(provider, contract);
  const search = useCallback((q, signal) => searchProviders(contract.trim(), q, signal), [contract]);
  const pickActor = (picked) => {
    setActor(picked);
    const only = picked?.caps?.length === 1 ? picked.caps[0] : "";
    if (only && (!contract || !provider)) setContract(only);
  };
  const pickProvider = (picked) => {
    setProvider(picked);
    if (picked?.link) setLinkName(picked.link);
    if (picked?.contract && picked.contract !== contract) setContract(picked.contract);
  };
  // Where one running provider fulfils the contract, it is the one that is meant.
  useEffect(() => {
    if (provider || !contract.trim()) return undefined;
    const abort = new AbortController();
    search("", abort.signal).then((found) => {
      const fits = found.filter((each) => each.isRunning && each.contract === contract.trim());
      if (fits.length === 1) pickProvider(fits[0]);
    }, () => {});
    return () => abort.abort();
  }, [contract, provider]);
  const link = { actor_id: actor?.value || "", provider_id: provider?.id || "", link_name: linkName.trim(),
    contract_id: contract.trim() };
  const there = links?.items.find((each) => each.actor_id === link.actor_id && each.contract_id === link.contract_id
    && each.link_name === link.link_name);
  const run = () => put("/links", { ...link, values: Object.fromEntries(rows.map((row) => [row.key, row.value])) });
  const isMissing = actor && link.contract_id && caps.length > 0 && !caps.includes(link.contract_id);
  const choices = [["", "Choose a contract …"], ...caps.map((each) => [each, each]),
    ...(contract && !caps.includes(contract) ? [[contract, contract]] : []), ["?", "Another contract …"]];
  const isReady = Object.values(link).every(Boolean);
  return html`<${ActionDialog} title=${isEdit ? "Edit the link definition" : "Link an actor to a provider"}
    close=${close}
    run=${run} submitText=${isEdit ? "Save" : "Link"} isReady=${isReady} class="roomy"
    undo=${() => undoLink({ ...link, actor_name: actor?.text })} problem=${["not_signed", "wrong_contract",
      "not_running"].includes(there?.state) ? there.problem : null} after=${() => there && html`<${Pages} urls=${there.urls} />`}>
    ${isEdit ? html`<${Facts} items=${[["Actor", html`<b>${actor?.text}</b>`], ["Provider", html`<b>
      ${provider?.text}</b>`],
        ["Contract", html`<span class="mono">${contract}</span>`], ["Link name", html`<span
          class="mono">${linkName}</span>`]]} />`
      : html`<${Combobox} label="Actor" value=${actor} onPick=${pickActor} search=${searchActors}
          placeholder="Search by name or key" none="No claims of such an actor are known. Paste its public key (M…)."
          free=${(text) => (isKey(text, "M") ? option(text, "") : null)} />
        ${caps.length > 0 && !isOther ? html`<${SelectField} label="Contract" value=${contract} options=${choices}
            onInput=${(next) => (next === "?" ? setOther(true) : setContract(next))} />`
          : html`<${TextField} label="Contract" mono value=${contract} onInput=${setContract}
            placeholder="wasmcloud:httpserver" data-autofocus=${isOther || undefined} />`}
        ${isMissing && html`<${Note} tone="warning">The claims of this actor do not allow <code>
          ${link.contract_id}</code>:
          its calls are refused. Sign it again with this contract.</>`}
        <${Combobox} label="Provider" value=${provider} onPick=${pickProvider} search=${search}
          placeholder="Search by name, contract or key" none="No such provider runs. Start one, or paste its key (V…)."
          free=${(text) => (isKey(text, "V") ? option(text, "", { id: text, link: "" }) : null)} />
        <${TextField} label="Link name" mono value=${linkName} onInput=${setLinkName}
          hint="The link name that the provider runs under." />
        ${there && html`<${Note} tone="warning">${nameOf(there.actor_name,
          there.actor_id)} has a link of this contract and
          link name, to ${nameOf(there.provider_name, there.provider_id)}. This takes its place, with all of its
          values.</>`}`}
    <${Values} rows=${rows} setRows=${setRows} known=${known} />
  </>`;
}
