// Owns the list of events: the newest first, live, filtered, each with its data.
import {
  Button, classes, CopyButton, EmptyState, ErrorNote, formatClock, formatCount, formatTime, get, href, html, Icon,
  Note, onEvent, PageHeader, plural, SearchBox, Select, setQuery, shortKey, Skeleton, useEffect, useListQuery, useLive,
  toast, useMemo, useRef, useResource, useRoute, useState, withQuery,
} from "../ui/index.js";
import { HostFilter } from "./actors.js";

const ROWS_MAX = 2000;
const CHUNK = 200;
const EXPORT_MAX = 50000;
const SEVERITIES = [["", "All severities"], ["error", "Errors"], ["warning", "Warnings"], ["good", "Good news"],
  ["info", "Other news"]];
const NAMES = ["actor_scale_failed", "actor_scaled", "actor_update_failed", "actor_updated", "command_refused", "config_set",
  "health_check_failed", "health_check_passed", "host_back", "host_cut_off", "host_lost", "host_started", "host_stopped",
  "linkdef_deleted", "linkdef_set", "linkdef_set_failed", "nats_returned", "provider_start_failed", "provider_started",
  "provider_stopped", "rollout_changed"];
const RANGES = [["15m", "Last 15 minutes"], ["1h", "Last hour"], ["6h", "Last 6 hours"], ["24h", "Last 24 hours"],
  ["dates", "Dates …"]];
const MINUTES = { "15m": 15, "1h": 60, "6h": 360, "24h": 1440 };
const ID = /\b([NMV][A-Z2-7]{55})\b/;
const day = new Intl.DateTimeFormat("en", { weekday: "long", day: "numeric", month: "long" });

const hrefOf = (id, linkName) => ({ N: href.host, M: href.actor, V: (key) => href.provider(key, linkName) })[id[0]](id);

/** The span of time that is wanted, in milliseconds since 1970; undefined where it is open. */
function spanOf(range, from, to) {
  const moment = (text) => {
    const ms = text ? new Date(text).getTime() : NaN;
    return Number.isNaN(ms) ? undefined : ms;
  };
  if (range === "dates") {
    return { since: moment(from) ?? (moment(to) ?? Date.now()) - MINUTES["24h"] * 60e3, until: moment(to),
      words: "between these dates" };
  }
  const minutes = MINUTES[range] || MINUTES["24h"];
  const words = RANGES.find(([name]) => name === range)?.[1] || "Last 24 hours";
  return { since: range === "24h" ? undefined : Date.now() - minutes * 60e3, until: undefined,
    words: `in the ${words.toLowerCase()}` };
}

/** Every event that fits, oldest first; asked for in pages. */
async function everything({ until, ...filters }) {
  let all = [];
  for (let end = until; ;) {
    const { items, is_more } = await get(withQuery("/events", { ...filters, until: end, limit: 2000 }));
    const more = joined(all, items);
    const isNew = more.length > all.length;
    all = more;
    if (!is_more || !isNew || all.length >= EXPORT_MAX) return all.reverse();
    end = items[items.length - 1].at_ms;
  }
}

/** Saves events as a file with a line of JSON for each. */
function download(events) {
  const lines = events.map((event) => `${JSON.stringify({ time: new Date(event.at_ms).toISOString(), ...event })}\n`);
  const url = URL.createObjectURL(new Blob(lines, { type: "application/jsonl" }));
  const link = Object.assign(document.createElement("a"), { href: url, download: "events.jsonl" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Pretty JSON whose ids are links. */
function Data({ data }) {
  if (data === null) {
    return html`<p class="muted">There is no data: it was too large to keep, or this host concluded the event itself.
      </p>`;
  }
  const text = JSON.stringify(data, null, 2);
  const linkName = data.link_name || "default";
  return html`<div class="json"><${CopyButton} text=${text} label="Copy the data" /><pre class="mono" tabindex="0"
    aria-label="Data of the event">${text.split(ID).map((part, at) => (at % 2
    ? html`<a href=${hrefOf(part, linkName)}>${part}</a>` : part))}</pre></div>`;
}

function Row({ event, isOpen, isActive, onToggle, onFocus }) {
  const label = `${event.severity}, ${event.name}: ${event.text}`;
  return html`<li class=${classes("event-row", `tone-${event.severity}`, isOpen && "open")}>
    <div class="event-head" onClick=${(click) => {
      if (!click.target.closest("a, button") && !String(getSelection())) onToggle();
    }}>
      <${Icon} name=${event.severity} size=${14} />
      <time class="num muted" dateTime=${new Date(event.at_ms).toISOString()} title=${formatTime(event.at_ms)}>
        ${formatClock(event.at_ms)}</time>
      <span class="event-name mono">${event.name}</span>
      <span class="event-text" title=${event.text}>${event.text}</span>
      <span class="event-host">${event.host_id && html`<a href=${href.host(event.host_id)} title=${event.host_id}>
        ${event.host_name || shortKey(event.host_id)}</a>`}</span>
      <button type="button" class="icon-button small" data-seq=${keyOf(event)} aria-expanded=${isOpen} aria-label=${label}
        tabindex=${isActive ? 0 : -1} onFocus=${onFocus} onClick=${onToggle}><${Icon} name=${isOpen ? "chevronDown"
          : "chevronRight"} size=${14} /></button>
    </div>
    ${isOpen && html`<div class="event-data"><p>${event.text}</p>
      <p class="phone-only mono muted">${event.name}</p><${Data} data=${event.data} /></div>`}
  </li>`;
}

/** What tells an event from all others. */
const keyOf = (event) => event.id || `${event.name} ${event.at_ms} ${event.host_id}`;

/** The events of both lists, newest first, each once. */
function joined(...lists) {
  const seen = new Set();
  const all = lists.flat().filter((event) => !seen.has(keyOf(event)) && seen.add(keyOf(event)));
  return all.sort((a, b) => b.at_ms - a.at_ms);
}

/** The events that fit the filters: those fetched, and those the stream brought since. */
function useEvents(filters, until) {
  const url = withQuery("/events", { ...filters, until, limit: 500 });
  const { data, error, refresh, at_ms } = useResource(url);
  const life = useLive((state) => state.hello?.life);
  const [, render] = useState(0);
  const state = useRef(null);
  if (state.current?.url !== url || state.current.life !== life) {
    state.current = { url, life, news: [], held: [], older: [], isEnd: false, at_ms: null };
  }
  const mine = state.current;
  if (mine.at_ms !== at_ms && data) {
    // A new answer (the first, or after a reconnect): what came before it is in it.
    mine.at_ms = at_ms;
    mine.news = mine.news.filter((event) => event.at_ms > (data.items[0]?.at_ms ?? 0));
    mine.older = [];
    mine.isEnd = !data.is_more;
  }
  const [isPaused, setPaused] = useState(false);
  const paused = useRef(false);
  paused.current = isPaused;
  const wanted = useRef(filters);
  wanted.current = { ...filters, until };
  useEffect(() => {
    let timer = 0;
    const stop = onEvent((event) => {
      const { q, name, severity, host, until: end } = wanted.current;
      if (end) return;
      const text = () => [event.text, event.name, event.host_id, event.host_name, JSON.stringify(event.data)].join(" ");
      if ((name && event.name !== name) || (severity && event.severity !== severity) ||
        (host && event.host_id !== host) || (q && !text().toLowerCase().includes(q.trim().toLowerCase()))) return;
      const { news, held } = state.current;
      (paused.current ? held : news).unshift(event);
      if (held.length > ROWS_MAX) held.pop();
      if (!timer) {
        timer = setTimeout(() => {
          timer = 0;
          render((n) => n + 1);
        }, 150);
      }
    });
    return () => {
      clearTimeout(timer);
      stop();
    };
  }, []);
  const all = data ? joined(mine.news, data.items, mine.older).slice(0, ROWS_MAX) : null;
  return {
    keeping: data?.keeping, events: all, error, refresh, isPaused, held: mine.held.length, isEnd: mine.isEnd || all?.length >= ROWS_MAX,
    setPaused(on) {
      if (!on) {
        mine.news = [...mine.held, ...mine.news].slice(0, ROWS_MAX);
        mine.held = [];
      }
      setPaused(on);
    },
    async older() {
      const last = all?.[all.length - 1];
      if (!last || mine.isEnd || mine.isBusy) return;
      mine.isBusy = true;
      try {
        const { items, is_more } = await get(withQuery("/events", { ...filters, until: last.at_ms, limit: 500 }));
        mine.older = joined(mine.older, items);
        mine.isEnd = !is_more;
      } catch { /* The end of the list stays; scrolling again tries again. */ }
      mine.isBusy = false;
      render((n) => n + 1);
    },
  };
}

export function Events() {
  const [q, setQ] = useListQuery();
  const { query: { severity = "", name = "", host = "", range = "24h", from = "", to = "" } } = useRoute();
  const span = useMemo(() => spanOf(range, from, to), [range, from, to]);
  const list = useEvents({ q, severity, name, host, since: span.since }, span.until);
  const [isExporting, setExporting] = useState(false);
  const save = async () => {
    setExporting(true);
    try {
      download(await everything({ q, severity, name, host, since: span.since, until: span.until }));
    } catch (error) {
      toast({ tone: "error", text: error.message });
    }
    setExporting(false);
  };
  const [openSeqs, setOpen] = useState(new Set());
  const [active, setActive] = useState(null);
  const [shown, setShown] = useState(CHUNK);
  const [scroll, box, end] = [useRef(null), useRef(null), useRef(null)];
  const names = useRef(new Set(NAMES));
  const events = list.events;
  events?.forEach((event) => names.current.add(event.name));
  const isFiltered = !!(q || severity || name || host || range !== "24h");
  const rows = (events || []).slice(0, shown);
  const activeKey = rows.some((event) => keyOf(event) === active) ? active : rows[0] && keyOf(rows[0]);

  useEffect(() => {
    setShown(CHUNK);
    if (scroll.current) scroll.current.scrollTop = 0;
  }, [q, severity, name, host, range, from, to]);
  const more = useRef(null);
  more.current = () => {
    if (shown < (events?.length ?? 0)) setShown(shown + CHUNK);
    else list.older();
  };
  useEffect(() => {
    if (!end.current) return undefined;
    const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && more.current(), {
      rootMargin: "600px" });
    observer.observe(end.current);
    return () => observer.disconnect();
  }, [rows.length, events?.length, !!events]);

  const toggle = (seq) => {
    const next = new Set(openSeqs);
    if (!next.delete(seq)) next.add(seq);
    setOpen(next);
    setActive(seq);
  };
  const go = useRef(null);
  go.current = (step) => {
    const buttons = [...box.current?.querySelectorAll("[data-seq]") || []];
    const at = buttons.indexOf(document.activeElement);
    const to = at < 0 ? buttons.find((each) => each.tabIndex === 0) : buttons[Math.max(0, Math.min(buttons.length - 1,
      at + step))];
    to?.focus({ preventScroll: true });
    to?.closest("li").scrollIntoView({ block: "nearest" });
  };
  useEffect(() => {
    const press = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
      if (event.target.closest?.("input, textarea, select, pre, [role=menu]")) return;
      const isInList = box.current?.contains(event.target);
      const step = { j: 1, k: -1, ...(isInList ? { ArrowDown: 1, ArrowUp: -1, PageDown: 12, PageUp: -12, Home: -1e6,
        End: 1e6 } : {}) }[event.key];
      if (!step) return;
      event.preventDefault();
      go.current(step);
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);

  const today = day.format(Date.now());
  let before = today;
  return html`<div class="view view-fill">
    <${PageHeader} title="Events" status=${html`<span class="event-status" role="status">${list.isPaused
        ? html`<${Button} size="small" onClick=${() => list.setPaused(false)}>${formatCount(list.held)} new</>` : ""}
      </span>`}
      actions=${html`<${SearchBox} label="Search events" placeholder="Text, name, host or data" value=${q}
        onInput=${setQ} /><span class="filters">
        <${Select} label="Severity" value=${severity} options=${SEVERITIES} onInput=${(value) => setQuery({
          severity: value })} />
        <${Select} label="Name of the event" value=${name} onInput=${(value) => setQuery({ name: value })}
          options=${[["", "All names"], ...[...names.current, ...(name ? [name] : [])].sort().filter((each, at, all) =>
            each !== all[at - 1]).map((each) => [each, each])]} /><${HostFilter} />
        <${Select} label="Range of time" value=${range} options=${RANGES} onInput=${(value) => setQuery({
          range: value === "24h" ? "" : value, from: "", to: "" })} />
        ${range === "dates" && html`<input class="input small" type="datetime-local" aria-label="Since" value=${from}
          onChange=${(event) => setQuery({ from: event.target.value })} /><input class="input small"
          type="datetime-local" aria-label="Until" value=${to} onChange=${(event) => setQuery({
            to: event.target.value })} />`}</span>
        <${Button} icon="copy" disabled=${isExporting || !events?.length} title="Save these events as lines of JSON"
          onClick=${save}>Export</>
        <${Button} class="pause" icon=${list.isPaused ? "play" : "pause"} aria-pressed=${list.isPaused}
          onClick=${() => list.setPaused(!list.isPaused)}>${list.isPaused ? "Resume" : "Pause"}</>`} />
    ${list.error && html`<${ErrorNote} error=${list.error} retry=${list.refresh} />`}
    ${list.keeping && !list.keeping.is_kept && html`<${Note} tone="warning">The history of the lattice is not kept, so
      only what this host heard since its start is shown: ${list.keeping.reason}</>`}
    ${list.keeping?.left_out > 0 && html`<${Note} tone="warning">${plural(list.keeping.left_out, "entry was",
      "entries were")} left out of the history by this host: more happened than it keeps.</>`}
    ${!events ? !list.error && html`<${Skeleton} lines=${14} height="1.8rem" />` : !events.length
      ? html`<div class="events">${isFiltered ? html`<${EmptyState} icon="search" title="No event fits"
          action=${html`<${Button} onClick=${() => setQuery({ q: "", severity: "", name: "",
            host: "", range: "", from: "", to: "" })}>Show all events</>`}>Events that fit appear here as soon as they happen.</>`
        : html`<${EmptyState} icon="event" title="Nothing has happened yet" command="host start actor ./echo_s.wasm">
          What starts, stops, is linked or fails in this lattice appears here. Start something to see it.</>`}</div>`
      : html`<div class="events" ref=${scroll} role="region" aria-label="Events, newest first" tabindex="0">
        <ol ref=${box}>${rows.map((event) => {
          const own = day.format(event.at_ms);
          const isNewDay = own !== before;
          before = own;
          return [isNewDay && html`<li key=${own} class="event-day">${own}</li>`, html`<${Row} key=${keyOf(event)}
            event=${event} isOpen=${openSeqs.has(keyOf(event))} isActive=${keyOf(event) === activeKey}
            onToggle=${() => toggle(keyOf(event))} onFocus=${() => keyOf(event) !== active
              && setActive(keyOf(event))} />`];
        })}</ol>
        <p ref=${end} class="events-end muted small">${shown < events.length || !list.isEnd ? "More …"
          : events.length >= ROWS_MAX ? `The newest ${formatCount(ROWS_MAX)} events are shown.`
          : `${plural(events.length, "event")} ${span.words}.`}</p></div>`}
    <p class="hint events-hint">Keys: <kbd>j</kbd> <kbd>k</kbd> move, <kbd>Enter</kbd> opens an event's data.</p>
  </div>`;
}
