// Owns the icons: 16 px, one stroke, in the colour of the text. They are decoration: words stand beside them.
import { html } from "../../vendor/htm-preact.js";

const PATHS = {
  overview: ["M2.5 9.5 8 3l5.5 6.5", "M4 8v5h8V8"],
  host: ["M2.5 3h11v4h-11z", "M2.5 9h11v4h-11z", "M5 5h.01M5 11h.01"],
  actor: ["M8 1.8 13.4 5v6L8 14.2 2.6 11V5z", "M2.6 5 8 8.2 13.4 5M8 8.2v6"],
  application: ["M2.5 2.5h4.5V7H2.5z", "M9 2.5h4.5V7H9z", "M2.5 9h4.5v4.5H2.5z", "M11.2 9v4.5M9 11.2h4.5"],
  provider: ["M5.5 1.8v3.4M10.5 1.8v3.4", "M3.5 5.2h9v2.3a4.5 4.5 0 0 1-9 0z", "M8 12v2.2"],
  link: ["M6.6 9.4a2.7 2.7 0 0 0 3.8 0l2.5-2.5a2.7 2.7 0 0 0-3.8-3.8l-.9.9",
    "M9.4 6.6a2.7 2.7 0 0 0-3.8 0L3.1 9.1a2.7 2.7 0 0 0 3.8 3.8l.9-.9"],
  claim: ["M8 1.8 13 3.7v3.8c0 3.2-2.1 5.6-5 6.7-2.9-1.1-5-3.5-5-6.7V3.7z", "M5.8 8l1.6 1.6 2.9-3.1"],
  event: ["M2.5 4h.01M2.5 8h.01M2.5 12h.01", "M5.5 4h8M5.5 8h8M5.5 12h5"],
  activity: ["M1.8 8.5h2.7l2-5 3 9 2-4h2.7"],
  call: ["M2.5 3h11v10h-11z", "M5 6.2 7 8l-2 1.8M8.5 10h2.5"],
  search: ["M7 2.5a4.5 4.5 0 1 1 0 9 4.5 4.5 0 0 1 0-9z", "M10.4 10.4 13.6 13.6"],
  copy: ["M5.5 5.5h8v8h-8z", "M3.5 10.5h-1v-8h8v1"],
  check: ["M3 8.5 6.3 11.8 13 4.6"],
  cross: ["M4 4l8 8M12 4l-8 8"],
  plus: ["M8 3v10M3 8h10"],
  minus: ["M3 8h10"],
  more: ["M3.5 8h.01M8 8h.01M12.5 8h.01"],
  up: ["M8 13V3.5M4 7.2 8 3.2l4 4"],
  down: ["M8 3v9.5M4 8.8l4 4 4-4"],
  chevronDown: ["M4 6l4 4 4-4"],
  chevronRight: ["M6 4l4 4-4 4"],
  panel: ["M2.5 3h11v10h-11z", "M6.2 3v10"],
  sun: ["M8 5.2a2.8 2.8 0 1 1 0 5.6 2.8 2.8 0 0 1 0-5.6z",
    "M8 1.5v1.3M8 13.2v1.3M1.5 8h1.3M13.2 8h1.3M3.4 3.4l.9.9M11.7 11.7l.9.9M3.4 12.6l.9-.9M11.7 4.3l.9-.9"],
  moon: ["M13.3 9.6A5.7 5.7 0 0 1 6.4 2.7a5.7 5.7 0 1 0 6.9 6.9z"],
  warning: ["M8 2.2 14.3 13H1.7z", "M8 6.5v3M8 11.2h.01"],
  error: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z", "M8 5v3.4M8 10.8h.01"],
  info: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z", "M8 7.6V11M8 5.2h.01"],
  good: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z", "M5.3 8.2l1.9 1.9 3.5-3.9"],
  unknown: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z", "M6.3 6.4c.2-2 3.4-2 3.4 0 0 1.3-1.7 1.3-1.7 2.5M8 11.2h.01"],
  clock: ["M8 2a6 6 0 1 1 0 12A6 6 0 0 1 8 2z", "M8 4.8V8l2.2 1.6"],
  stop: ["M4 4h8v8H4z"],
  pause: ["M5.5 3.5v9M10.5 3.5v9"],
  play: ["M5 3.2 12.4 8 5 12.8z"],
  refresh: ["M13 4v3h-3", "M12.8 7A5 5 0 1 0 13 9"],
  edit: ["M3 13l.6-2.8 7-7 2.2 2.2-7 7z"],
  trash: ["M3 4.5h10M6.2 4.5v-2h3.6v2M4.2 4.5l.6 9h6.4l.6-9"],
  undo: ["M5.5 3 2.5 6l3 3", "M2.8 6H9a3.8 3.8 0 0 1 0 7.6H6"],
  upload: ["M8 10.5v-8M5 5.3l3-3 3 3", "M2.5 10.5v3h11v-3"],
  external: ["M6.5 3.5h-4v10h10v-4", "M9 2.5h4.5V7M13.3 2.7 7.5 8.5"],
  keyboard: ["M1.8 4h12.4v8H1.8z", "M4.2 6.5h.01M6.7 6.5h.01M9.2 6.5h.01M11.7 6.5h.01M5 9.5h6"],
  menu: ["M2.5 4.5h11M2.5 8h11M2.5 11.5h11"],
  lock: ["M3.5 7.2h9v6h-9z", "M5.5 7.2V5a2.5 2.5 0 0 1 5 0v2.2"],
  signOut: ["M6.5 2.5h-4v11h4", "M6 8h7.5M10.8 5.2 13.6 8l-2.8 2.8"],
};

/** <${Icon} name="host" /> */
export function Icon({ name, size = 16 }) {
  return html`<svg class=${name === "more" ? "icon icon-more" : "icon"} viewBox="0 0 16 16" width=${size} height=${size}
    aria-hidden="true" focusable="false">
    ${(PATHS[name] || PATHS.unknown).map((d) => html`<path d=${d} />`)}
  </svg>`;
}

/** The mark of the product: a small lattice. */
export function Logo({ size = 24 }) {
  return html`<svg class="logo" viewBox="0 0 32 32" width=${size} height=${size} aria-hidden="true" focusable="false">
    <rect width="32" height="32" rx="8" />
    <path d="M16 7 24 16 16 25 8 16Z M8 16H24 M16 7V25" />
    ${[[16, 7], [24, 16], [16, 25], [8, 16], [16, 16]].map(([x, y], at) =>
      html`<circle cx=${x} cy=${y} r=${at === 4 ? 3.2 : 2.6} />`)}
  </svg>`;
}
