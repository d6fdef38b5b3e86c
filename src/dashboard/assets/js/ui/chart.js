// Owns charts: TimeChart (lines and an area over time, one crosshair, readable by keyboard) and Sparkline.
import { html, useLayoutEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { formatClock, formatMicros, formatRate } from "../format.js";
import { classes } from "./basic.js";
import { errorTone } from "./domain.js";

const LEFT = 56;
const RIGHT = 12;
const TOP = 10;
const BOTTOM = 22;

/** A rounded maximum and its ticks: 0, half, all. */
function scaleOf(max, floor) {
  const top = Math.max(max, floor);
  const power = 10 ** Math.floor(Math.log10(top));
  const nice = [1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= top) * power;
  return { max: nice, ticks: [0, nice / 2, nice] };
}

/** A path through the values that are numbers; gaps stay gaps. */
function linePath(values, x, y) {
  let path = "";
  let isGap = true;
  values.forEach((value, at) => {
    if (value === null || value === undefined) {
      isGap = true;
      return;
    }
    path += `${isGap ? "M" : "L"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    isGap = false;
  });
  return path;
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

/**
 * A chart over time.
 * @param {{label: string, lines: {name: string, values: (number|null)[], tone: string, area?: boolean}[],
 *   step_ms: number, end_ms: number, format: (n: number) => string, height?: number, floor?: number,
 *   cursor?: number|null, onCursor?: (back: number|null) => void, span?: number}} props
 *   all values end at end_ms; `span` is the least number of steps on the axis; `floor` the least maximum of the scale.
 *   `cursor` counts steps back from the end: share it between charts that stand above each other.
 */
export function TimeChart({
  label, lines, step_ms, end_ms, format, height = 180, floor = 1, cursor: shared, onCursor, span = 150, axis = true,
}) {
  const [box, width] = useWidth(640);
  const [own, setOwn] = useState(null);
  const cursor = onCursor ? shared : own;
  const setCursor = onCursor || setOwn;
  const length = Math.max(0, ...lines.map((line) => line.values.length));
  const steps = Math.max(span, length, 2);
  const innerWidth = Math.max(1, width - LEFT - RIGHT);
  const bottom = axis ? BOTTOM : 8;
  const innerHeight = height - TOP - bottom;
  const isNumber = (value) => typeof value === "number";
  const max = Math.max(0, ...lines.flatMap((line) => line.values.filter(isNumber)));
  const scale = scaleOf(max * 1.05, floor);
  const xBack = (back) => LEFT + innerWidth - (back / (steps - 1)) * innerWidth;
  const y = (value) => TOP + innerHeight - (value / scale.max) * innerHeight;
  const at = (line, back) => line.values[line.values.length - 1 - back];
  const timeAt = (back) => end_ms - back * step_ms;
  const total = (steps - 1) * step_ms;
  const every = [30e3, 60e3, 120e3, 300e3, 600e3].find((gap) => total / gap <= Math.max(2, innerWidth / 90)) || 600e3;
  const ticks = [];
  if (axis && length) {
    for (let time = Math.ceil((end_ms - total) / every) * every; time <= end_ms; time += every) ticks.push(time);
  }
  const tell = (back) => `${formatClock(timeAt(back))}: ${lines.map((line) =>
    `${line.name} ${isNumber(at(line, back)) ? format(at(line, back)) : "not known"}`).join(", ")}`;
  const summary = length ? `${label}. Now ${lines.map((line) => `${line.name} ${isNumber(at(line, 0)) ? format(at(line,
    0))
    : "not known"}`).join(", ")}. Highest ${format(max)}.` : `${label}. No figures yet.`;
  const clamp = (back) => Math.max(0, Math.min(length - 1, back));
  const move = (event) => {
    if (!length) return;
    const rect = box.current.getBoundingClientRect();
    setCursor(clamp(Math.round(((LEFT + innerWidth - (event.clientX - rect.left)) / innerWidth) * (steps - 1))));
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
  const isShown = cursor !== null && cursor !== undefined && cursor < length;
  const cursorX = isShown ? xBack(cursor) : 0;
  return html`<div class="chart">
    <div class="chart-plot" ref=${box} style=${{ height: `${height}px` }} role="slider" tabindex="0"
      aria-label=${summary}
      aria-valuemin="0" aria-valuemax=${Math.max(0, length - 1)} aria-valuenow=${Math.max(0, length - 1 - (cursor
        ?? 0))}
      aria-valuetext=${length ? tell(clamp(cursor ?? 0)) : "No figures yet"}
      onPointerMove=${move} onPointerDown=${move} onPointerLeave=${() => setCursor(null)}
        onBlur=${() => setCursor(null)} onKeyDown=${keys}>
      <svg width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`} aria-hidden="true" focusable="false">
        ${scale.ticks.map((tick) => html`<g key=${tick}><line class=${tick ? "grid" : "grid base"} x1=${LEFT}
          x2=${width - RIGHT}
          y1=${y(tick)} y2=${y(tick)} /><text class="tick" x=${LEFT - 8} y=${y(tick) + 4} text-anchor="end">
            ${format(tick)}</text></g>`)}
        ${ticks.map((time) => html`<text key=${time} class="tick" x=${xBack((end_ms - time) / step_ms)} y=${height - 5}
          text-anchor="middle">${formatClock(time).slice(0, every < 60e3 ? 8 : 5)}</text>`)}
        ${lines.map((line) => {
          const n = line.values.length;
          const x = (i) => xBack(n - 1 - i);
          const path = linePath(line.values, x, y);
          return html`<g key=${line.name} class="series-${line.tone}">
            ${line.area && n > 1 && html`<path class="area" d=${`${linePath(line.values.map((v) => v ?? 0), x,
              y)}L${x(n - 1).toFixed(1)} ${y(0)}L${x(0).toFixed(1)} ${y(0)}Z`} />`}
            <path class="line" d=${path} /></g>`;
        })}
        ${isShown && html`<g><line class="cursor" x1=${cursorX} x2=${cursorX} y1=${TOP} y2=${height - bottom} />
          ${lines.map((line) => isNumber(at(line, cursor)) && html`<circle key=${line.name}
            class="cursor-dot series-${line.tone}"
            cx=${cursorX} cy=${y(at(line, cursor))} r="3.5" />`)}</g>`}
      </svg>
      ${isShown && html`<div class=${classes("chart-tip", cursorX > width / 2 && "left")} aria-hidden="true"
        style=${{ transform: `translateX(${cursorX}px)` }}><div class="chart-tip-box"><div class="muted">
          ${formatClock(timeAt(cursor))}</div>
        ${lines.map((line) => html`<div key=${line.name} class="tip-row series-${line.tone}"><span class="swatch">
          </span>
          <span>${line.name}</span><b>${isNumber(at(line, cursor)) ? format(at(line, cursor)) : "–"}</b></div>`)}</div>
            </div>`}
      ${!length && html`<p class="chart-empty">No figures yet. They come with the first calls.</p>`}
    </div>
  </div>`;
}

/** What the lines of a chart are, with their values of now. */
export function Legend({ lines, format, cursor }) {
  return html`<ul class="legend">${lines.map((line) => {
    const value = line.values[line.values.length - 1 - (cursor ?? 0)];
    return html`<li key=${line.name} class="series-${line.tone}"><span class="swatch"></span>
      <span>${line.name}</span><b class="num">${typeof value === "number" ? format(value) : "–"}</b></li>`;
  })}</ul>`;
}

/** Calls and errors above latency, with one crosshair: the chart of a Series of the API. */
export function SeriesChart({ series, title = "Calls" }) {
  const [cursor, setCursor] = useState(null);
  const s = series || { step_ms: 2000, end_ms: Date.now(), calls: [], errors: [], p50_us: [], p99_us: [] };
  const traffic = [
    { name: "calls/s", values: s.calls, tone: "calls", area: true },
    { name: "errors/s", values: s.errors, tone: errorTone(s.errors) },
  ];
  const latency = [
    { name: "p50", values: s.p50_us, tone: "p50" },
    { name: "p99", values: s.p99_us, tone: "p99" },
  ];
  const span = Math.max(s.calls.length, 150) > 150 ? 300 : 150;
  const shared = { step_ms: s.step_ms, end_ms: s.end_ms, cursor, onCursor: setCursor, span };
  return html`<div class="series-chart">
    <div class="chart-head"><h3>${title} per second</h3><${Legend} lines=${traffic} format=${formatRate}
      cursor=${cursor} /></div>
    <${TimeChart} label=${`${title} per second`} lines=${traffic} format=${formatRate} height=${170} axis=${false}
      ...${shared} />
    <div class="chart-head"><h3>Latency</h3><${Legend} lines=${latency} format=${formatMicros} cursor=${cursor} /></div>
    <${TimeChart} label="Latency" lines=${latency} format=${formatMicros} height=${140} floor=${100} ...${shared} />
  </div>`;
}

/** A small line without axes; `label` says in words what it shows. */
export function Sparkline({ values, tone = "calls", label, width = 96, height = 28 }) {
  const shown = values.slice(-60);
  const max = Math.max(1e-9, ...shown.filter((value) => typeof value === "number"));
  const x = (at) => width - 1 - ((shown.length - 1 - at) / 59) * (width - 2);
  const y = (value) => height - 2 - (value / max) * (height - 4);
  return html`<svg class="sparkline series-${tone}" width=${width} height=${height} viewBox=${`0 0 ${width} ${height}`}
    role="img" aria-label=${label} preserveAspectRatio="none">
    ${shown.length > 1 && html`<path class="area" d=${`${linePath(shown.map((v) => v ?? 0), x,
      y)}L${x(shown.length - 1)} ${height}L${x(0)} ${height}Z`} />`}
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

