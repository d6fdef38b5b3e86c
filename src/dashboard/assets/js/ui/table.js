// Owns tables: Table for the few rows of a detail view, VirtualTable for lists of any length.
import { html, useEffect, useLayoutEffect, useReducer, useRef, useState } from "../../vendor/htm-preact.js";
import { get, withQuery } from "../api.js";
import { formatCount } from "../format.js";
import { useChanges } from "../live.js";
import { navigate, setQuery, useRoute } from "../router.js";
import { Button, ErrorNote, Skeleton, classes, useSight } from "./basic.js";
import { Select } from "./form.js";
import { Icon } from "./icons.js";

const CHUNK = 200;
const ROW_HEIGHT = 40;
const OVERSCAN = 12;
/** Rows that can be chosen at a time. */
const CHOSEN_MAX = 1000;
const NOTHING = new Map();
const PHONE = matchMedia("(max-width: 720px)");

/**
 * A column: {key, title, render(item), and where it is needed
 *   width: a CSS length; without it the column shares what is left, but no less than `min`,
 *   align: "right", hint: what the heading means, label: a name for an empty title,
 *   sort: the name of the server's sort order, down: true to sort downwards first,
 *   from: the least width of the table in pixels that shows the column,
 *   phone: false to leave it out on a phone, phoneLabel: false where its value explains itself there}
 * `from`, `min`, `sort`, `down`, `phone` and `phoneLabel` are read by VirtualTable only.
 */

/** A plain table. rowKey(item) names a row; empty is shown instead of no rows. */
export function Table({ label, columns, items, rowKey, empty, rowClass }) {
  if (!items.length) return empty || html`<p class="muted pad">Nothing here.</p>`;
  return html`<div class="table-scroll" tabindex="0" role="group" aria-label=${label}><table class="table">
    <caption class="sr-only">${label}</caption>
    <thead><tr>${columns.map((column) => html`<th key=${column.key} scope="col" class=${column.align || ""}
      title=${column.hint || ""}
      style=${column.width ? { width: column.width } : {}}>${column.title ||
        html`<span class="sr-only">${column.label || "Actions"}</span>`}</th>`)}</tr></thead>
    <tbody>${items.map((item) => html`<tr key=${rowKey(item)} class=${rowClass?.(item) || ""}>
      ${columns.map((column) => html`<td key=${column.key} class=${column.align || ""}>
        ${column.render(item)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

function usePhone() {
  const [isPhone, set] = useState(PHONE.matches);
  useEffect(() => {
    const change = () => set(PHONE.matches);
    PHONE.addEventListener("change", change);
    return () => PHONE.removeEventListener("change", change);
  }, []);
  return isPhone;
}

/**
 * A list of any length: only the rows in sight exist, and only their chunks are fetched.
 * The search text (q) and the order (sort) live in the query of the address, see useListQuery.
 * Arrow keys, Page Up and Down, Home and End move between rows; Enter opens one.
 * @param {{label: string, url: string, collections: string[], columns: object[], rowKey: (item) => string,
 *   rowHref?: (item) => string, onOpen?: (item) => void, rowClass?: (item) => string, empty: any,
 *   onTotal?: (n: number) => void,
 *   phoneLines?: number, query?: object, defaultSort?: string,
 *   bulk?: {name: (item) => string, actions: {text: string, icon: string, danger?: boolean,
 *     run: (items: object[], done: () => void) => void}[]}}} props
 *   `url` is the list below /api/v1; `query` has more members of its query (q and filters); with `bulk` rows can be
 *   chosen, by their boxes or with the space bar, and acted on together.
 */
export function VirtualTable({
  label, url, collections, columns: given, rowKey, rowHref, onOpen, rowClass, empty, onTotal, query = {},
  defaultSort = "name", phoneLines = 2, bulk,
}) {
  const route = useRoute();
  const sort = route.query.sort || defaultSort;
  const isPhone = usePhone();
  const rowHeight = isPhone ? 20 + 26 * phoneLines : ROW_HEIGHT;
  const [, render] = useReducer((n) => n + 1, 0);
  const box = useRef(null);
  const [view, setView] = useSight(box, { top: 0, height: 800, width: 0 });
  const [active, setActive] = useState(0);
  const wantsFocus = useRef(false);
  const source = withQuery(url, { ...query, sort });
  const data = useRef(null);
  if (!data.current || data.current.source !== source) {
    data.current?.aborts.forEach((abort) => abort.abort());
    // The rows of before stay in sight until the first of the new ones are here.
    const before = data.current;
    data.current = {
      source, chunks: before?.chunks || new Map(), isOld: !!before, total: before?.total ?? null, error: null,
        aborts: new Map(),
    };
  }
  const [chosen, setChosen] = useState(NOTHING);
  const toggle = (item) => {
    const next = new Map(chosen);
    if (!next.delete(rowKey(item))) next.set(rowKey(item), item);
    setChosen(next);
  };
  const chooseAll = async () => {
    const { items } = await get(withQuery(source, { limit: CHOSEN_MAX }));
    setChosen(new Map(items.map((item) => [rowKey(item), item])));
  };
  const total = data.current.total;
  const isAll = chosen.size > 0 && chosen.size >= Math.min(total ?? 0, CHOSEN_MAX);
  const columns = bulk ? [checkColumn({ chosen, toggle, rowKey, name: bulk.name, isAll,
    all: () => (isAll ? setChosen(NOTHING) : chooseAll().catch(() => {})) }), ...given] : given;
  const first = Math.max(0, Math.floor(view.top / rowHeight) - OVERSCAN);
  const last = Math.min(total ?? 0, Math.ceil((view.top + view.height) / rowHeight) + OVERSCAN);

  const load = async (offset) => {
    const mine = data.current;
    if (mine.aborts.has(offset)) return;
    const abort = new AbortController();
    mine.aborts.set(offset, abort);
    try {
      const page = await get(withQuery(source, { offset, limit: CHUNK }), abort.signal);
      if (data.current !== mine) return;
      if (mine.isOld) {
        mine.chunks = new Map();
        mine.isOld = false;
      }
      mine.chunks.set(offset, page.items);
      mine.error = null;
      if (mine.total !== page.total) onTotal?.(page.total);
      mine.total = page.total;
    } catch (error) {
      if (error.name === "AbortError" || data.current !== mine) return;
      mine.error = error;
    } finally {
      mine.aborts.delete(offset);
    }
    render();
  };
  const inSight = () => {
    const offsets = [];
    const end = Math.max(1, Math.min(last, total ?? 1));
    for (let at = Math.floor(first / CHUNK) * CHUNK; at < end; at += CHUNK) offsets.push(at);
    return offsets;
  };
  // Chunks out of sight are dropped on a change, so that they are fetched anew when they are seen again.
  useChanges(collections, () => {
    const offsets = inSight();
    if (!data.current.isOld) {
      const { chunks } = data.current;
      for (const offset of [...chunks.keys()]) if (!offsets.includes(offset)) chunks.delete(offset);
    }
    offsets.forEach(load);
  }, source);
  // Rows that scroll into sight: waits until the scrolling slows down, so that a drag of the bar fetches little.
  useEffect(() => {
    if (total === null || data.current.isOld) return undefined;
    const timer = setTimeout(() => inSight().filter((offset) => !data.current.chunks.has(offset)).forEach(load), 60);
    return () => clearTimeout(timer);
  }, [Math.floor(first / CHUNK), Math.floor(last / CHUNK), total, source]);
  useEffect(() => () => data.current.aborts.forEach((abort) => abort.abort()), []);

  const q = query.q || "";
  useEffect(() => {
    if (box.current) box.current.scrollTop = 0;
    setActive(0);
  }, [q, sort, url]);
  useEffect(() => setChosen(NOTHING), [withQuery(url, query)]);
  useLayoutEffect(() => {
    if (!wantsFocus.current) return;
    const row = box.current.querySelector(`tr[data-at="${active}"]`);
    if (row) {
      wantsFocus.current = false;
      row.focus({ preventScroll: true });
    }
  });

  const itemAt = (at) => data.current.chunks.get(Math.floor(at / CHUNK) * CHUNK)?.[at % CHUNK];
  const go = (to) => {
    const next = Math.max(0, Math.min((total ?? 1) - 1, to));
    const node = box.current;
    const head = isPhone ? 0 : ROW_HEIGHT;
    const top = next * rowHeight;
    if (top < node.scrollTop) node.scrollTop = top;
    else if (top + rowHeight + head > node.scrollTop + node.clientHeight) node.scrollTop =
      top + rowHeight + head - node.clientHeight;
    wantsFocus.current = true;
    setActive(next);
    setView({ top: node.scrollTop, height: node.clientHeight, width: node.clientWidth });
  };
  const keys = (event) => {
    if (!event.target.matches("tr[data-at]")) return;
    const page = Math.max(1, Math.floor(view.height / rowHeight) - 2);
    const to = { ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0,
      End: (total ?? 1) - 1 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      go(to);
    } else if (event.key === " " && bulk) {
      event.preventDefault();
      if (itemAt(active)) toggle(itemAt(active));
    } else if (event.key === "Enter") {
      const item = itemAt(active);
      if (item && onOpen) onOpen(item);
      else if (item && rowHref) navigate(rowHref(item));
    }
  };
  const pressed = (event, at) => {
    setActive(at);
    const item = itemAt(at);
    if (!item || !(rowHref || onOpen) || event.target.closest("a, button, input, label, [role=menu]")) return;
    if (String(getSelection())) return;
    if (onOpen) onOpen(item);
    else if (event.metaKey || event.ctrlKey) window.open(rowHref(item), "_blank", "noopener");
    else navigate(rowHref(item));
  };
  const sortBy = (column) => {
    const isThis = sort.replace("-", "") === column.sort;
    const next = isThis ? (sort[0] === "-" ? column.sort : `-${column.sort}`) : column.down ? `-${column.sort}`
      : column.sort;
    setQuery({ sort: next === defaultSort ? "" : next });
  };
  const shown = isPhone ? columns.filter((column) => column.phone !== false)
    : columns.filter((column) => !column.from || view.width >= column.from);
  const least = isPhone ? {} : { minWidth: `calc(${shown.map((column) => column.width || column.min
    || "170px").join(" + ")})` };
  const isFirstLoad = total === null && !data.current.error;
  const rowCount = isFirstLoad ? 8 : last - first;
  const start = isFirstLoad ? 0 : first;
  const sortable = columns.filter((column) => column.sort);

  return html`<div class="vtable-wrap">
    ${isPhone && sortable.length > 0 && html`<div class="phone-sort"><span class="muted">
      ${formatCount(total)} rows</span>
      <${Select} label="Sort by" value=${sort} onInput=${(value) => setQuery({ sort: value === defaultSort ? ""
        : value })}
        options=${sortable.flatMap((column) => [[column.sort, `${column.title} ↑`], [`-${column.sort}`,
          `${column.title} ↓`]])} /></div>`}
    ${data.current.error && html`<${ErrorNote} error=${data.current.error} retry=${() => inSight().forEach(load)} />`}
    ${chosen.size > 0 && html`<${BulkBar} chosen=${chosen} actions=${bulk.actions}
      clear=${() => setChosen(NOTHING)} />`}
    <div class=${classes("vtable", isPhone && "stacked", data.current.isOld && "old")} ref=${box}>
      ${total === 0 && !data.current.isOld ? empty : html`<table role="grid" class="table" aria-label=${label}
        aria-rowcount=${total === null ? -1 : total + 1}
        aria-readonly="true" aria-multiselectable=${bulk ? "true" : undefined} style=${least} onKeyDown=${keys} aria-busy=${isFirstLoad}>
        ${!isPhone && html`<colgroup>${shown.map((column) => html`<col key=${column.key}
          style=${column.width ? { width: column.width } : {}} />`)}</colgroup>`}
        <thead role="rowgroup"><tr role="row" aria-rowindex="1">${shown.map((column) => {
          const isThis = column.sort && sort.replace("-", "") === column.sort;
          const direction = isThis ? (sort[0] === "-" ? "descending" : "ascending") : "none";
          const more = column.sort ? { "aria-sort": direction } : {};
          return html`<th key=${column.key} role="columnheader" scope="col" class=${column.align || ""}
            title=${column.hint || ""} ...${more}>
            ${column.head ? column.head() : column.sort ? html`<button type="button" class=${classes("sort", isThis && "on")}
              onClick=${() => sortBy(column)}>
              <span>${column.title}</span><${Icon} name=${direction === "descending" ? "down" : "up"} size=${12} />
                </button>`
              : column.title || html`<span class="sr-only">${column.label || "Actions"}</span>`}</th>`;
        })}</tr></thead>
        <tbody role="rowgroup">
          ${start > 0 && html`<tr key="before" aria-hidden="true" class="spacer"><td colspan=${shown.length}
            style=${{ height: `${start * rowHeight}px` }}></td></tr>`}
          ${Array.from({ length: rowCount }, (_, i) => {
            const at = start + i;
            const item = isFirstLoad ? undefined : itemAt(at);
            return html`<tr key=${at} role="row" data-at=${at} aria-rowindex=${at + 2} tabindex=${at === active ? 0
              : -1}
              aria-selected=${bulk && item ? chosen.has(rowKey(item)) : undefined}
              class=${classes(at % 2 ? "odd" : "", item && rowClass?.(item), item && (rowHref || onOpen)
                && "clickable", item && chosen.has(rowKey(item)) && "chosen")}
              style=${{ height: `${rowHeight}px` }} onClick=${(event) => pressed(event, at)}>
              ${shown.map((column) => html`<td key=${column.key} role="gridcell" class=${column.align || ""}>
                ${isPhone && column !== given[0] && column.title && column.phoneLabel !== false && html`<span
                  class="cell-label">${column.title}</span>`}
                ${item ? column.render(item) : html`<${Skeleton} width="60%" />`}</td>`)}</tr>`;
          })}
          ${!isFirstLoad && last < total && html`<tr key="after" aria-hidden="true" class="spacer"><td
            colspan=${shown.length}
            style=${{ height: `${(total - last) * rowHeight}px` }}></td></tr>`}
        </tbody></table>`}
    </div>
  </div>`;
}

/** The boxes in front of rows that can be chosen. */
function checkColumn({ chosen, toggle, rowKey, name, isAll, all }) {
  return { key: "check", title: "", width: "40px", align: "check", render: (item) => html`<label><input
      type="checkbox" aria-label=${`Choose ${name(item)}`} checked=${chosen.has(rowKey(item))}
      onChange=${() => toggle(item)} /></label>`,
    head: () => html`<label><input type="checkbox" aria-label="Choose all" checked=${isAll} onChange=${all}
      ref=${(node) => {
        if (node) node.indeterminate = chosen.size > 0 && !isAll;
      }} /></label>` };
}

/** The buttons for the chosen rows. */
function BulkBar({ chosen, actions, clear }) {
  return html`<div class="bulk-bar" role="toolbar" aria-label="Chosen rows"><b role="status">${chosen.size} chosen</b>
    <span class="grow"></span>${actions.map((action) => html`<${Button} key=${action.text} size="small"
      icon=${action.icon} onClick=${() => action.run([...chosen.values()], clear)}>${action.text}</>`)}
    <${Button} size="small" kind="ghost" onClick=${clear}>Clear</></div>`;
}

/** The search text of a list, kept in the query of the address: [q, setQ]. */
export function useListQuery() {
  const { query } = useRoute();
  return [query.q || "", (q) => setQuery({ q })];
}
