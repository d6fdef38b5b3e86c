// Owns charts: TimeChart (lines and an area over time, one crosshair, readable by keyboard), SeriesChart (calls above
// latency, live or of a range of the last day) and Sparkline.
import { html, useEffect, useLayoutEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { withQuery } from "../api.js";
import { formatClock, formatMicros, formatRate } from "../format.js";
import { useResource } from "../live.js";
import { useRemembered } from "../store.js";
import { Button, classes } from "./basic.js";
import { errorTone } from "./domain.js";
import { Segmented } from "./form.js";

const LEFT = 56;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 22;
/** A drag over fewer pixels is a click. */
const DRAG = 10;
/** The least number of points that are left of a zoom. */
const ZOOM_MIN = 5;
const MINUTE = 60e3;
const HOUR = 60 * MINUTE;
/** Distances of the marks of the time axis. */
const GAPS = [30e3, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR,
  4 * HOUR, 6 * HOUR, 12 * HOUR];
const RANGES = [["live", "Live"], ["15m", "15 min"], ["1h", "1 h"], ["6h", "6 h"], ["24h", "24 h"]];
/** Hosts tell a figure for each minute. */
const REFRESH_MS = 30e3;
const SIGNS = { start: "▲", update: "◆", stop: "■", loss: "✕" };

const dayOf = new Intl.DateTimeFormat("en", { day: "numeric", month: "short" });
const isNumber = (value) => typeof value === "number";
const isToday = (at_ms) => dayOf.format(at_ms) === dayOf.format(Date.now());

/** "10:05:12" of today, "29 Nov, 10:05:12" of another day. */
const formatMoment = (at_ms) => (isToday(at_ms) ? formatClock(at_ms) : `${dayOf.format(at_ms)}, ${formatClock(at_ms)}`);

/** A rounded maximum and its ticks: 0, half, all. */
function scaleOf(max, floor) {
  const top = Math.max(max, floor);
  const power = 10 ** Math.floor(Math.log10(top));
  const nice = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= top) * power;
  return { max: nice, ticks: [0, nice / 2, nice] };
}

/** The runs of values without a gap, as [index, value][][]. */
function runsOf(values) {
  const runs = [];
  let isGap = true;
  values.forEach((value, at) => {
    if (!isNumber(value)) {
      isGap = true;
      return;
    }
    if (isGap) runs.push([]);
    runs[runs.length - 1].push([at, value]);
    isGap = false;
  });
  return runs;
}

/** A path through the values that are numbers; gaps stay gaps, and a point between two gaps is a dot. */
function linePath(values, x, y) {
  return runsOf(values).map((run) => run.map(([at, value], first) =>
    `${first ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") + (run.length > 1 ? "" : "l0.01 0"))
    .join("");
}

/** The area below the values; there is none below a gap. */
function areaPath(values, x, y) {
  return runsOf(values).filter((run) => run.length > 1).map((run) => {
    const [first, last] = [run[0][0], run[run.length - 1][0]];
    const line = run.map(([at, value]) => `L${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
    return `M${x(first).toFixed(1)} ${y(0)}${line}L${x(last).toFixed(1)} ${y(0)}Z`;
  }).join("");
}

function useWidth(initial) {
  const ref = useRef(null);
  const [width, setWidth] = useState(initial);
  useLayoutEffect(() => {
    const measure = () => setWidth(Math.max(200, Math.floor(ref.current.clientWidth)));
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(ref.current);
    return () => observer.disconnect();
  }, []);
  return [ref, width];
}

/** The text below a mark of the time axis: the day at its beginning, else the time. */
function tickText(time, every) {
  const clock = formatClock(time);
  if (every >= MINUTE && clock.startsWith("00:00")) return dayOf.format(time);
  return clock.slice(0, every < MINUTE ? 8 : 5);
}

/**
 * A chart over time.
 * @param {{label: string, lines: {name: string, values: (number|null)[], tone: string, area?: boolean}[],
 *   step_ms: number, end_ms: number, format: (n: number) => string, height?: number, floor?: number,
 *   cursor?: number|null, onCursor?: (back: number|null) => void, span?: number,
 *   marks?: {at_ms: number, kind: string, text: string}[], onSelect?: (from_ms: number, to_ms: number) => void}} props
 *   all values end at end_ms; `span` is the least number of steps on the axis; `floor` the least maximum of the scale.
 *   `cursor` counts steps back from the end: share it between charts that stand above each other. A drag over the
 *   chart calls `onSelect` with the span of time that was chosen.
 */
export function TimeChart({
  label, lines, step_ms, end_ms, format, height = 180, floor = 1, cursor: shared, onCursor, span = 150, axis = true,
  marks = [], onSelect,
}) {
  const [box, width] = useWidth(640);
  const [own, setOwn] = useState(null);
  const [drag, setDrag] = useState(null);
  const cursor = onCursor ? shared : own;
  const setCursor = onCursor || setOwn;
  const length = Math.max(0, ...lines.map((line) => line.values.length));
  const hasFigures = lines.some((line) => line.values.some(isNumber));
  const steps = Math.max(span, length, 2);
  const innerWidth = Math.max(1, width - LEFT - RIGHT);
  const bottom = axis ? BOTTOM : 8;
  const innerHeight = height - TOP - bottom;
  const max = Math.max(0, ...lines.flatMap((line) => line.values.filter(isNumber)));
  const scale = scaleOf(max * 1.05, floor);
  const xBack = (back) => LEFT + innerWidth - (back / (steps - 1)) * innerWidth;
  const xTime = (time) => xBack((end_ms - time) / step_ms);
  const y = (value) => TOP + innerHeight - (value / scale.max) * innerHeight;
  const at = (line, back) => line.values[line.values.length - 1 - back];
  const timeAt = (back) => end_ms - back * step_ms;
  const total = (steps - 1) * step_ms;
  const every = GAPS.find((gap) => total / gap <= Math.max(2, innerWidth / 90)) || 12 * HOUR;
  const ticks = [];
  if (axis && length) {
    // Marks stand at round times of the clock of the reader.
    const offset = new Date(end_ms).getTimezoneOffset() * MINUTE;
    const first = Math.ceil((end_ms - total - offset) / every) * every + offset;
    for (let time = first; time <= end_ms; time += every) ticks.push(time);
  }
  const inView = marks.filter((mark) => mark.at_ms >= end_ms - total && mark.at_ms <= end_ms + step_ms);
  const marksAt = (back) => inView.filter((mark) => Math.abs(mark.at_ms - timeAt(back)) <= Math.max(step_ms,
    total / 100)).slice(0, 4);
  const tell = (back) => `${formatMoment(timeAt(back))}: ${lines.map((line) =>
    `${line.name} ${isNumber(at(line, back)) ? format(at(line, back)) : "not known"}`).join(", ")}${marksAt(back)
    .map((mark) => `. ${mark.text}`).join("")}`;
  const summary = hasFigures ? `${label}. Now ${lines.map((line) => `${line.name} ${isNumber(at(line, 0))
    ? format(at(line, 0)) : "not known"}`).join(", ")}. Highest ${format(max)}.` : `${label}. No figures yet.`;
  const clamp = (back) => Math.max(0, Math.min(length - 1, back));
  const backOf = (event) => {
    const rect = box.current.getBoundingClientRect();
    return clamp(Math.round(((LEFT + innerWidth - (event.clientX - rect.left)) / innerWidth) * (steps - 1)));
  };
  const press = (event) => {
    if (!length) return;
    setCursor(backOf(event));
    if (onSelect && event.button === 0) setDrag({ x: event.clientX, from: backOf(event), to: backOf(event) });
  };
  const move = (event) => {
    if (!length) return;
    setCursor(backOf(event));
    if (drag && event.buttons === 0) setDrag(null);
    else if (drag) setDrag({ ...drag, to: backOf(event), isWide: Math.abs(event.clientX - drag.x) > DRAG });
  };
  const release = () => {
    if (drag?.isWide && drag.from !== drag.to) {
      onSelect(timeAt(Math.max(drag.from, drag.to)), timeAt(Math.min(drag.from, drag.to)));
    }
    setDrag(null);
  };
  const keys = (event) => {
    if (!length) return;
    const back = cursor ?? 0;
    const to = { ArrowLeft: back + 1, ArrowRight: back - 1, PageUp: back + 15, PageDown: back - 15, Home: length - 1,
      End: 0 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      setCursor(clamp(to));
    } else if (event.key === "Escape" && cursor !== null) setCursor(null);
  };
  const isShown = hasFigures && cursor !== null && cursor !== undefined && cursor < length;
  const cursorX = isShown ? xBack(cursor) : 0;
  const selected = drag?.isWide ? [xBack(Math.max(drag.from, drag.to)), xBack(Math.min(drag.from, drag.to))] : null;
  return html`<div class="chart">
    <div class="chart-plot" ref=${box} style=${{ height: `${height}px` }} role="slider" tabindex="0"
      aria-label=${summary}
      aria-valuemin="0" aria-valuemax=${Math.max(0, length - 1)} aria-valuenow=${Math.max(0, length - 1 - (cursor
        ?? 0))}
      aria-valuetext=${hasFigures ? tell(clamp(cursor ?? 0)) : "No figures yet"}
      onPointerMove=${move} onPointerDown=${press} onPointerUp=${release} onPointerLeave=${() => {
        setCursor(null);
        setDrag(null);
      }}
        onBlur=${() => setCursor(null)} onKeyDown=${keys}>
      <svg width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} aria-hidden="true" focusable="false">
        ${scale.ticks.map((tick) => html`<g key=${tick}><line class=${tick ? "grid" : "grid base"} x1=${LEFT}
          x2=${width - RIGHT}
          y1=${y(tick)} y2=${y(tick)} />${hasFigures && html`<text class="tick" x=${LEFT - 8} y=${y(tick) + 4}
            text-anchor="end">${format(tick)}</text>`}</g>`)}
        ${ticks.map((time) => html`<text key=${time} class="tick" x=${xTime(time)} y=${height - 5}
          text-anchor="middle">${tickText(time, every)}</text>`)}
        ${selected && html`<rect class="selection" x=${selected[0]} width=${selected[1] - selected[0]} y=${TOP}
          height=${innerHeight} />`}
        ${inView.map((mark, n) => html`<g key=${`${mark.at_ms} ${n}`} class="mark mark-${mark.kind}"><line
          x1=${xTime(mark.at_ms)} x2=${xTime(mark.at_ms)} y1=${TOP} y2=${height - bottom} />${axis || html`<text
          class="mark-sign" x=${xTime(mark.at_ms)} y=${TOP} text-anchor="middle">${SIGNS[mark.kind] || "•"}</text>`}
          </g>`)}
        ${lines.map((line) => {
          const n = line.values.length;
          const x = (i) => xBack(n - 1 - i);
          return html`<g key=${line.name} class="series-${line.tone}">
            ${line.area && html`<path class="area" d=${areaPath(line.values, x, y)} />`}
            <path class="line" d=${linePath(line.values, x, y)} /></g>`;
        })}
        ${isShown && html`<g><line class="cursor" x1=${cursorX} x2=${cursorX} y1=${TOP} y2=${height - bottom} />
          ${lines.map((line) => isNumber(at(line, cursor)) && html`<circle key=${line.name}
            class="cursor-dot series-${line.tone}"
            cx=${cursorX} cy=${y(at(line, cursor))} r="3.5" />`)}</g>`}
      </svg>
      ${isShown && html`<div class=${classes("chart-tip", cursorX > width / 2 && "left")} aria-hidden="true"
        style=${{ transform: `translateX(${cursorX}px)` }}><div class="chart-tip-box"><div class="muted">
          ${formatMoment(timeAt(cursor))}</div>
        ${lines.map((line) => html`<div key=${line.name} class="tip-row series-${line.tone}"><span class="swatch">
          </span>
          <span>${line.name}</span><b>${isNumber(at(line, cursor)) ? format(at(line, cursor)) : "–"}</b></div>`)}
        ${marksAt(cursor).map((mark, n) => html`<div key=${`${mark.at_ms} ${n}`} class="tip-mark mark-${mark.kind}">
          ${SIGNS[mark.kind] || "•"} ${formatClock(mark.at_ms)} ${mark.text}</div>`)}</div></div>`}
      ${!hasFigures && html`<p class="chart-empty">${length ? "No call in this time."
        : "No figures yet. They come with the first calls."}</p>`}
    </div>
  </div>`;
}

/** What the lines of a chart are, with their values of now. */
export function Legend({ lines, format, cursor }) {
  return html`<ul class="legend">${lines.map((line) => {
    const value = line.values[line.values.length - 1 - (cursor ?? 0)];
    return html`<li key=${line.name} class="series-${line.tone}"><span class="swatch"></span>
      <span>${line.name}</span><b class="num">${isNumber(value) ? format(value) : "–"}</b></li>`;
  })}</ul>`;
}

const EMPTY = { step_ms: 2000, end_ms: null, calls: [], errors: [], p50_us: [], p99_us: [] };

/** The part of a series between two moments; at least a few points. */
function zoomed(series, zoom) {
  if (!zoom) return series;
  const { step_ms, end_ms } = series;
  const length = series.calls.length;
  const indexOf = (time) => length - 1 - Math.round((end_ms - time) / step_ms);
  const last = Math.max(Math.min(ZOOM_MIN, length) - 1, Math.min(length - 1, indexOf(zoom.to)));
  const first = Math.max(0, Math.min(indexOf(zoom.from), last - ZOOM_MIN + 1));
  const cut = (values) => values.slice(first, last + 1);
  return { ...series, end_ms: end_ms - (length - 1 - last) * step_ms, calls: cut(series.calls),
    errors: cut(series.errors), p50_us: cut(series.p50_us), p99_us: cut(series.p99_us) };
}

/** The marks that are in view, by their kinds, with how many there are. */
function MarkLegend({ marks }) {
  const kinds = Object.keys(SIGNS).map((kind) => [kind, marks.filter((mark) => mark.kind === kind).length])
    .filter(([, count]) => count);
  if (!kinds.length) return null;
  return html`<ul class="legend mark-legend">${kinds.map(([kind, count]) => html`<li key=${kind}
    class="mark-${kind}"><span class="mark-sign" aria-hidden="true">${SIGNS[kind]}</span><span>${kind}</span>
    <b class="num">${count}</b></li>`)}</ul>`;
}

/** The figures of a range of the last day, fetched again while they are shown. */
function usePast(of, range) {
  const url = of && range !== "live" ? withQuery("/history/rates", { ...of, range }) : null;
  const past = useResource(url);
  useEffect(() => {
    if (!url) return undefined;
    const timer = setInterval(() => document.hidden || past.refresh(), REFRESH_MS);
    return () => clearInterval(timer);
  }, [url]);
  return past;
}

/**
 * Calls and errors above latency, with one crosshair: the chart of a Series of the API.
 * @param {{series: object, title?: string, of?: {of: string, id?: string, link_name?: string}}} props
 *   `of` names the subject, for its history; without it only the live series is shown.
 */
export function SeriesChart({ series, title = "Calls", of }) {
  const [cursor, setCursor] = useState(null);
  const [chosen, choose] = useRemembered("chart.range", "live");
  const [zoom, setZoom] = useState(null);
  const range = of && RANGES.some(([name]) => name === chosen) ? chosen : "live";
  const isLive = range === "live";
  const { data, error } = usePast(of, range);
  const whole = (isLive ? series : data) || { ...EMPTY, end_ms: Date.now() };
  const s = zoomed(whole, zoom);
  const marks = isLive ? [] : data?.marks || [];
  const traffic = [
    { name: "calls/s", values: s.calls, tone: "calls", area: true },
    { name: "errors/s", values: s.errors, tone: errorTone(s.errors) },
  ];
  const latency = [
    { name: "p50", values: s.p50_us, tone: "p50" },
    { name: "p99", values: s.p99_us, tone: "p99" },
  ];
  const least = isLive && !zoom ? Math.ceil(300e3 / whole.step_ms) : s.calls.length;
  const span = isLive && !zoom && s.calls.length > least ? 2 * least : least;
  const begin = s.end_ms - Math.max(0, s.calls.length - 1) * s.step_ms;
  const inView = marks.filter((mark) => mark.at_ms >= begin && mark.at_ms <= s.end_ms + s.step_ms);
  const closer = () => {
    const quarter = (s.end_ms - begin) / 4;
    setZoom({ from: begin + quarter, to: s.end_ms - quarter });
  };
  const shared = { step_ms: s.step_ms, end_ms: s.end_ms, cursor, onCursor: setCursor, span, marks: inView,
    onSelect: (from, to) => setZoom({ from, to }) };
  const why = error?.message || (!isLive && data && !data.keeping.is_kept && data.keeping.reason);
  return html`<div class="series-chart">
    ${of && html`<div class="chart-bar"><${Segmented} label="Range of the chart" value=${range} options=${RANGES}
        onInput=${(next) => {
          choose(next);
          setZoom(null);
          setCursor(null);
        }} />
      <span class="chart-span muted small">${isLive && !zoom ? "" : `${formatMoment(begin)} – ${formatMoment(s.end_ms)}`}
        </span>
      <span class="chart-zoom"><${Button} size="small" disabled=${s.calls.length < 2 * ZOOM_MIN} onClick=${closer}>
        Zoom in</>${zoom && html`<${Button} size="small" onClick=${() => setZoom(null)}>Zoom out</>`}</span></div>`}
    ${why && html`<p class="muted small" role="status">The history of the lattice is not kept: ${why}</p>`}
    <div class="chart-head"><h3>${title} per second</h3><${Legend} lines=${traffic} format=${formatRate}
      cursor=${cursor} /></div>
    <${TimeChart} label=${`${title} per second`} lines=${traffic} format=${formatRate} height=${170} axis=${false}
      ...${shared} />
    <div class="chart-head"><h3>Latency</h3><${Legend} lines=${latency} format=${formatMicros} cursor=${cursor} /></div>
    <${TimeChart} label="Latency" lines=${latency} format=${formatMicros} height=${140} floor=${100} ...${shared} />
    <${MarkLegend} marks=${inView} />
  </div>`;
}

/** A small line without axes; `label` says in words what it shows. */
export function Sparkline({ values, tone = "calls", label, width = 96, height = 28 }) {
  const shown = values.slice(-60);
  const max = Math.max(1e-9, ...shown.filter(isNumber));
  const x = (at) => width - 1 - ((shown.length - 1 - at) / 59) * (width - 2);
  const y = (value) => height - 2 - (value / max) * (height - 4);
  return html`<svg class="sparkline series-${tone}" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`}
    role="img" aria-label=${label} preserveAspectRatio="none">
    ${shown.length > 1 && html`<path class="area" d=${areaPath(shown, x, y)} />`}
    <path class="line" d=${linePath(shown, x, y)} /></svg>`;
}

/** A part of a whole as a bar with its words; for pulls and permits. */
export function Meter({ value, of, text, tone = "info" }) {
  const isKnown = of > 0;
  const share = isKnown ? Math.max(0, Math.min(1, value / of)) : 0;
  const more = isKnown ? { "aria-valuenow": Math.round(share * 100) } : {};
  return html`<div class="meter-row"><div class=${classes("meter", `tone-${tone}`, !isKnown && "unknown")}
    role="progressbar"
    aria-label=${text} aria-valuemin="0" aria-valuemax="100" ...${more}><div style=${{ width: isKnown
      ? `${share * 100}%` : "30%" }}></div></div>
    <span class="meter-text">${text}</span></div>`;
}
