// Owns how numbers, durations, sizes and times are written. "–" stands for a value that is not known.

const NONE = "–";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const one = new Intl.NumberFormat("en", { maximumFractionDigits: 1, minimumFractionDigits: 1 });
const two = new Intl.NumberFormat("en", { maximumFractionDigits: 2, minimumFractionDigits: 2 });
const absolute = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "medium", hour12: false });
const clock = new Intl.DateTimeFormat("en", { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

/** 1234 → "1,234" */
export const formatCount = (value) => (isNumber(value) ? whole.format(value) : NONE);

/** Calls per second with the precision that matters: 0, 0.25, 12.5, 1,234, 12.3k. */
export function formatRate(value) {
  if (!isNumber(value)) return NONE;
  if (value === 0) return "0";
  if (value < 0.01) return "< 0.01";
  if (value < 1) return two.format(value);
  if (value < 100) return one.format(value);
  if (value < 10000) return whole.format(value);
  return value < 1e6 ? `${one.format(value / 1e3)}k` : `${one.format(value / 1e6)}M`;
}

/** Microseconds as "210 µs", "1.8 ms", "2.4 s". */
export function formatMicros(value) {
  if (!isNumber(value)) return NONE;
  if (value < 1000) return `${whole.format(value)} µs`;
  if (value < 100e3) return `${one.format(value / 1e3)} ms`;
  if (value < 1e6) return `${whole.format(value / 1e3)} ms`;
  return `${one.format(value / 1e6)} s`;
}

/** Bytes as "912 B", "1.2 MiB". */
export function formatBytes(value) {
  if (!isNumber(value)) return NONE;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? whole.format(value) : one.format(value)} ${units[unit]}`;
}

/** A length of time in milliseconds as "3 s", "4 min", "5 h 12 min", "3 d 4 h". */
export function formatDuration(ms) {
  if (!isNumber(ms)) return NONE;
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  const min = Math.floor(s / 60);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 24) return min % 60 ? `${h} h ${min % 60} min` : `${h} h`;
  const d = Math.floor(h / 24);
  return h % 24 ? `${d} d ${h % 24} h` : `${d} d`;
}

/** "just now", "3 s ago", "2 h ago" (one unit only, so that its width is steady). */
export function formatAgo(at_ms, now_ms) {
  if (!isNumber(at_ms)) return NONE;
  const s = Math.floor((now_ms - at_ms) / 1000);
  if (s < 1) return "just now";
  if (s < 60) return `${s} s ago`;
  if (s < 3600) return `${Math.floor(s / 60)} min ago`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)} h ago`;
  return `${Math.floor(s / 86400)} d ago`;
}

export const formatTime = (at_ms) => (isNumber(at_ms) ? absolute.format(at_ms) : NONE);
export const formatClock = (at_ms) => (isNumber(at_ms) ? clock.format(at_ms) : NONE);

/** "MDWU…2JZ" */
export const shortKey = (key) => (key.length > 12 ? `${key.slice(0, 4)}…${key.slice(-3)}` : key);

/** plural(1, "host") → "1 host"; plural(3, "host") → "3 hosts" */
export const plural = (n, one, many = `${one}s`) => `${formatCount(n)} ${n === 1 ? one : many}`;

/** The URL as it may be linked, or null unless it is http or https. */
export function safeUrl(text) {
  try {
    const url = new URL(text);
    return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
  } catch {
    return null;
  }
}
