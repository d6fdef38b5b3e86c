// Owns form fields: label, hint and error around an input, choices, rows of key and value, and boxes that search.
import { html, useEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { Button, IconButton, classes } from "./basic.js";
import { Icon } from "./icons.js";

let count = 0;
const useId = () => useRef(`field-${++count}`).current;

/** Label, hint and error around a control. `control` gets the attributes that tie them together. */
export function Field({ label, hint, error, optional, control, class: extra }) {
  const id = useId();
  const described = classes(hint && `${id}-hint`, error && `${id}-error`);
  const tie = { id };
  if (described) tie["aria-describedby"] = described;
  if (error) tie["aria-invalid"] = "true";
  return html`<div class=${classes("field", extra)}>
    <label for=${id}>${label}${optional && html` <span class="optional">optional</span>`}</label>
    ${control(tie)}
    ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
    ${error && html`<p class="field-error" id=${`${id}-error`}><${Icon} name="error" size=${13} />${error}</p>`}
  </div>`;
}

/** One line of text. onInput gets the text. Other attributes go to the input. */
export function TextField({ label, hint, error, optional, value, onInput, mono, class: extra, list, ...rest }) {
  return html`<${Field} label=${label} hint=${hint} error=${error} optional=${optional} class=${extra}
    control=${(tie) => html`
    <input class=${classes("input", mono && "mono")} type="text" autocomplete="off" spellcheck=${false} value=${value}
      onInput=${(event) => onInput(event.target.value)} ...${rest} ...${tie} ref=${(node) => {
        if (node && list) node.setAttribute("list", list);
      }} />`} />`;
}

/** Several lines of text. */
export function TextArea({ label, hint, error, optional, value, onInput, mono, rows = 5, class: extra, ...rest }) {
  return html`<${Field} label=${label} hint=${hint} error=${error} optional=${optional} class=${extra}
    control=${(tie) => html`
    <textarea class=${classes("input", mono && "mono")} rows=${rows} spellcheck=${false} value=${value}
      onInput=${(event) => onInput(event.target.value)} ...${rest} ...${tie}></textarea>`} />`;
}

/** A choice. options: [value, text][] */
export function SelectField({ label, hint, error, optional, value, onInput, options, class: extra, ...rest }) {
  return html`<${Field} label=${label} hint=${hint} error=${error} optional=${optional} class=${extra}
    control=${(tie) => html`
    <select class="input" onChange=${(event) => onInput(event.target.value)} ...${rest} ...${tie}>
      ${options.map(([option, text]) => html`<option key=${option} value=${option} selected=${option === value}>
        ${text}</option>`)}
    </select>`} />`;
}

/** A small choice without a visible label, for tool bars. */
export function Select({ label, value, onInput, options }) {
  return html`<select class="input small" aria-label=${label} onChange=${(event) => onInput(event.target.value)}>
    ${options.map(([option, text]) => html`<option key=${option} value=${option} selected=${option === value}>
      ${text}</option>`)}
  </select>`;
}

/** One of several, side by side. options: [value, text, hint?][] */
export function Segmented({ label, value, onInput, options }) {
  const name = useId();
  return html`<fieldset class="segmented"><legend class="sr-only">${label}</legend>
    ${options.map(([option, text]) => html`<label key=${option} class=${option === value ? "on" : ""}>
      <input type="radio" class="sr-only" name=${name} checked=${option === value} onChange=${() => onInput(option)} />
      ${text}</label>`)}
  </fieldset>`;
}

/**
 * Rows of key and value. `rows` is [key, value][]; onInput gets the new rows. Use rowsOf and mapOf to convert.
 * @param {{label: string, hint?: string, rows: [string, string][], onInput: Function, keyName?: string,
 *   valueName?: string,
 *   addText?: string, keys?: string[], values?: (key: string) => string[], error?: string}} props
 *   `keys` are offered for completion, and `values` of a key.
 */
export function KeyValueEditor({
  label, hint, error, rows, onInput, keyName = "Key", valueName = "Value", addText = "Add a row", keys = [],
    values = () => [],
  optional,
}) {
  const id = useId();
  const box = useRef(null);
  const [focusRow, setFocusRow] = useState(-1);
  useEffect(() => {
    if (focusRow < 0) return;
    box.current.querySelectorAll(".kv-key")[focusRow]?.focus();
    setFocusRow(-1);
  }, [focusRow]);
  const change = (at, column, text) => onInput(rows.map((row, i) => (i === at ? row.map((v, j) => (j === column ? text
    : v)) : row)));
  const remove = (at) => {
    onInput(rows.filter((_, i) => i !== at));
    if (rows.length > 1) setFocusRow(Math.max(0, at - 1));
    else box.current.querySelector(".kv-add")?.focus();
  };
  const add = () => {
    onInput([...rows, ["", ""]]);
    setFocusRow(rows.length);
  };
  return html`<fieldset class="field kv" ref=${box}><legend>${label}${optional && html` <span
    class="optional">optional</span>`}</legend>
    ${hint && html`<p class="hint">${hint}</p>`}
    ${keys.length > 0 && html`<datalist id=${`${id}-keys`}>${keys.map((key) => html`<option key=${key} value=${key}
      />`)}</datalist>`}
    ${rows.map(([key, value]) => [key, value, values(key)]).map(([key, value, known], at) => html`<div key=${at}
      class="kv-row">
      ${known.length > 0 && html`<datalist id=${`${id}-${at}`}>${known.map((each) => html`<option key=${each}
        value=${each} />`)}</datalist>`}
      <input class="input mono kv-key" aria-label=${`${keyName} ${at + 1}`} placeholder=${keyName} value=${key}
        autocomplete="off" spellcheck=${false} onInput=${(event) => change(at, 0, event.target.value)}
        ref=${(node) => node && keys.length > 0 && node.setAttribute("list", `${id}-keys`)} />
      <input class="input mono" aria-label=${`${valueName} ${at + 1}`} placeholder=${value === null ? "unchanged secret"
        : valueName}
        value=${value ?? ""} autocomplete="off" spellcheck=${false} onInput=${(event) => change(at, 1,
          event.target.value)} list=${known.length ? `${id}-${at}` : undefined} />
      <${IconButton} icon="trash" label=${`Remove row ${at + 1}`} onClick=${() => remove(at)} />
    </div>`)}
    <${Button} class="kv-add" size="small" icon="plus" onClick=${add}>${addText}</>
    ${error && html`<p class="field-error" role="alert"><${Icon} name="error" size=${13} />${error}</p>`}
  </fieldset>`;
}

export const rowsOf = (map) => Object.entries(map || {});

/** The rows as a map; rows without a key are dropped. */
export const mapOf = (rows) => Object.fromEntries(rows.filter(([key]) => key.trim()).map(([key, value]) => [key.trim(),
  value]));

/** A search box; "/" focuses the one of the page. onInput is called 150 ms after the last key. */
export function SearchBox({ label, value, onInput, placeholder = label }) {
  const [text, setText] = useState(value);
  const timer = useRef(0);
  const sent = useRef(value);
  useEffect(() => {
    if (value !== sent.current) setText(sent.current = value);
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const input = (next, wait = 150) => {
    setText(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => onInput(sent.current = next), wait);
  };
  return html`<div class="search" role="search"><${Icon} name="search" />
    <input type="search" class="input" data-search aria-label=${label} placeholder=${placeholder} value=${text}
      autocomplete="off" spellcheck=${false} onInput=${(event) => input(event.target.value)}
      onKeyDown=${(event) => {
        if (event.key === "Escape" && text) {
          event.preventDefault();
          input("", 0);
        }
      }} /><kbd aria-hidden="true">/</kbd></div>`;
}

/** A whole number with buttons for less and more. */
export function NumberField({ label, hint, error, value, onInput, min = 0, max = 100000, ...rest }) {
  const set = (next) => onInput(Number.isFinite(next) ? Math.max(min, Math.min(max, Math.trunc(next))) : min);
  return html`<${Field} label=${label} hint=${hint} error=${error} control=${(tie) => html`<div class="stepper">
    <${IconButton} icon="minus" label=${`${label}: one less`} disabled=${value <= min}
      onClick=${() => set(value - 1)} />
    <input class="input num" type="number" inputmode="numeric" min=${min} max=${max} step="1" value=${value}
      autocomplete="off" onChange=${(event) => {
        set(event.target.valueAsNumber);
        event.target.value = String(value);
      }} onInput=${(event) => event.target.value && set(event.target.valueAsNumber)} ...${rest} ...${tie} />
    <${IconButton} icon="plus" label=${`${label}: one more`} disabled=${value >= max}
      onClick=${() => set(value + 1)} /></div>`} />`;
}

/** One of several, each with a line about it. options: {value, text, sub?, note?}[] */
export function RadioCards({ label, value, onInput, options }) {
  const name = useId();
  return html`<fieldset class="field"><legend>${label}</legend><div class="radio-cards">
    ${options.map((each) => html`<label key=${each.value} class=${classes("radio-card", each.value === value && "on")}>
      <input type="radio" name=${name} checked=${each.value === value} onChange=${() => onInput(each.value)} />
      <span><b>${each.text}</b>${each.note && html` <span class="mono muted small">${each.note}</span>`}
        ${each.sub && html`<span class="radio-sub">${each.sub}</span>`}</span></label>`)}
  </div></fieldset>`;
}

/**
 * A field that searches and offers a list; for choices of too many for a select.
 * @param {{label: string, value: {value: string, text: string}|null, onPick: Function, search: Function,
 *   free?: (text: string) => any, none?: string, clears?: boolean}} props
 *   `search(text, signal)` resolves to options {value, text, sub?, group?}; `free` makes an option of a text that is in
 *   no list, or null; `none` is said where nothing fits; `clears` empties the field after a choice.
 */
export function Combobox({
  label, hint, error, optional, value, onPick, search, free, placeholder, none = "Nothing fits.", clears, mono, ...rest
}) {
  const id = useId();
  const [text, setText] = useState(value?.text || "");
  const [options, setOptions] = useState(null);
  const [at, setAt] = useState(-1);
  const [place, setPlace] = useState(null);
  const input = useRef(null);
  const list = useRef(null);
  const isOpen = place !== null;
  const q = text.trim();
  useEffect(() => {
    if (value) setText(value.text);
  }, [value?.value, value?.text]);
  useEffect(() => {
    if (!isOpen) return undefined;
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      // What is chosen already is no search: then the whole list is shown.
      const found = await search(value?.text === text ? "" : q, abort.signal).catch(() => []);
      if (!abort.signal.aborted) setOptions(found);
    }, options ? 150 : 0);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [q, isOpen, search]);
  const measure = () => {
    const box = input.current.getBoundingClientRect();
    const below = innerHeight - box.bottom - 12;
    const isUp = below < 180 && box.top > below;
    const size = { left: `${box.left}px`, width: `${box.width}px`,
      maxHeight: `${Math.min(300, isUp ? box.top - 12 : below)}px` };
    setPlace(isUp ? { ...size, bottom: `${innerHeight - box.top + 4}px` } : { ...size, top: `${box.bottom + 4}px` });
  };
  useEffect(() => {
    if (!isOpen) return undefined;
    const follow = (event) => {
      if (!list.current?.contains(event.target)) measure();
    };
    addEventListener("scroll", follow, true);
    addEventListener("resize", measure);
    return () => {
      removeEventListener("scroll", follow, true);
      removeEventListener("resize", measure);
    };
  }, [isOpen]);
  useEffect(() => {
    list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [at]);
  const extra = free && q && !options?.some((each) => each.value === q || each.text === q) ? free(q) : null;
  const shown = [...(options || []), ...(extra ? [{ ...extra, group: "As typed" }] : [])];
  const close = () => {
    setPlace(null);
    setOptions(null);
    setAt(-1);
  };
  const pick = (option) => {
    setText(clears ? "" : option.text);
    close();
    onPick(option);
  };
  const keys = (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!isOpen) measure();
      else if (shown.length) {
        const step = event.key === "ArrowDown" ? 1 : at < 0 ? 0 : -1;
        setAt((at + step + shown.length) % shown.length);
      }
    } else if (event.key === "Enter" && isOpen) {
      event.preventDefault();
      const option = shown[at] || (q && value?.text !== text ? shown[0] : null);
      if (option) pick(option);
      else close();
    } else if (event.key === "Escape" && isOpen) {
      event.preventDefault();
      event.stopPropagation();
      close();
    }
  };
  const leave = () => {
    if (extra && !value && !clears) onPick(extra);
    close();
  };
  let group = "";
  return html`<div class="combobox"><${Field} label=${label} hint=${hint} error=${error} optional=${optional}
    control=${(tie) => html`<input class=${classes("input", mono && "mono")} type="text" role="combobox"
      autocomplete="off" spellcheck=${false} aria-autocomplete="list" aria-expanded=${isOpen}
      aria-controls=${isOpen ? id : undefined}
      aria-activedescendant=${isOpen && at >= 0 && shown[at] ? `${id}-${at}` : undefined}
      placeholder=${placeholder} value=${text} ...${rest} ...${tie} ref=${input} onFocus=${(event) => {
        if (value) event.target.select();
      }} onClick=${() => !isOpen && measure()} onBlur=${leave} onKeyDown=${keys}
      onInput=${(event) => {
        setText(event.target.value);
        setAt(-1);
        if (!isOpen) measure();
        if (value) onPick(null);
      }} />`} />
    ${isOpen && html`<div class="menu combo-list" id=${id} role="listbox" aria-label=${label} style=${place} ref=${list}
      onMouseDown=${(event) => event.preventDefault()}>
      ${shown.map((option, n) => html`${option.group && option.group !== group && html`<div key=${option.group}
          class="combo-group" role="presentation">${group = option.group}</div>`}
        <div key=${`${option.value} ${n}`} id=${`${id}-${n}`} role="option" aria-selected=${n === at}
          class="combo-item" onPointerMove=${() => setAt(n)} onClick=${() => pick(option)}>
          <span class=${classes("combo-text", mono && "mono")}>${option.text}</span>
          ${option.sub && html`<span class="combo-sub">${option.sub}</span>`}</div>`)}
      ${!shown.length && html`<div class="combo-none" role="option" aria-selected="false" aria-disabled="true">
        ${options ? none : "Searching …"}</div>`}
    </div>`}</div>`;
}
