// Owns the frame around every view: side bar, header, connection banner, shortcuts, and what ends operations say.
import { html, useEffect, useErrorBoundary, useRef, useState } from "../vendor/htm-preact.js";
import { useClock } from "./clock.js";
import { leave, openLogin } from "./actions/index.js";
import { formatClock, formatDuration, plural } from "./format.js";
import { live, onOperation, operations, reconnect, useLive } from "./live.js";
import { MENU } from "./pages.js";
import { navigate, onNavigate, useRoute } from "./router.js";
import { useRemembered, useStore } from "./store.js";
import { useTitle } from "./title.js";
import { theme, toggleTheme, isDark } from "./theme.js";
import { closeDialogs, Dialog, DialogHost, isDialogOpen, openDialog } from "./ui/dialog.js";
import { Button, IconButton, StatusDot, classes } from "./ui/basic.js";
import { Icon, Logo } from "./ui/icons.js";
import { Term } from "./ui/term.js";
import { announce, toast, Toasts } from "./ui/toast.js";
import { Palette } from "./palette.js";

const openPalette = () => openDialog(Palette, {});
const openHelp = () => openDialog(Help, {});
const isRunning = (operation) => operation.state === "running";

/** Catches what a view throws, so that the rest of the page stays. */
function Guarded({ view: View, params }) {
  const [error, reset] = useErrorBoundary();
  if (error) {
    return html`<div class="view"><div class="note tone-error" role="alert"><${Icon} name="error" />
      <div>This view failed: ${error.message}</div><${Button} size="small" onClick=${reset}>Show it again</></div>
        </div>`;
  }
  return html`<${View} ...${params} />`;
}

function NavLink({ page, section, badge, count, failed, onClick }) {
  const isHere = page.path === section;
  const more = isHere ? { "aria-current": "page" } : {};
  return html`<a class=${classes("nav-link", isHere && "here")} href=${page.path} title=${page.title}
    onClick=${onClick} ...${more}>
    <${Icon} name=${page.icon} size=${18} /><span class="nav-text">${page.title}</span>
    ${badge > 0 ? html`<span class="nav-badge"><span class="sr-only">, </span>${badge}<span
      class="sr-only"> running</span></span>`
      : failed > 0 ? html`<span class="nav-count num tone-error"><span class="dot" aria-hidden="true"></span><span
        aria-hidden="true">${count}</span><span class="sr-only">, ${failed} failed</span></span>`
      : count !== undefined && html`<span class="nav-count num" aria-hidden="true">${count}</span>`}
  </a>`;
}

function MoreDialog({ close, section, badge }) {
  return html`<${Dialog} title="All pages" close=${close} class="sheet"><nav class="more-nav" aria-label="All pages">
    ${MENU.map((page) => html`<${NavLink} key=${page.path} page=${page} section=${section}
      badge=${page.path === "/activity" ? badge : 0} onClick=${() => close()} />`)}</nav></>`;
}

function Sidebar({ section, isNarrow, setNarrow }) {
  const badge = useStore(operations, (state) => state.items.filter(isRunning).length);
  const counts = useLive((state) => state.overview?.counts);
  const short = (n) => (n === undefined ? undefined : n >= 10000 ? `${Math.floor(n / 1000)}k` : n);
  return html`<nav class="sidebar" aria-label="Pages">
    <a class="brand" href="/" aria-label="Lattice overview"><${Logo} /><span class="nav-text">lattice</span></a>
    <div class="nav">
      ${MENU.map((page) => html`<${NavLink} key=${page.path} page=${page} section=${section}
        badge=${page.path === "/activity" ? badge : 0} count=${page.count ? short(counts?.[page.count]) : undefined}
        failed=${counts?.[page.failed] ?? 0} />`)}
      <button type="button" class="nav-link nav-more" onClick=${() => openDialog(MoreDialog, { section, badge })}>
        <${Icon} name="menu" size=${18} /><span class="nav-text">More</span></button>
    </div>
    <button type="button" class="nav-link nav-fold" aria-expanded=${!isNarrow} title=${isNarrow ? "Widen the side bar"
      : "Narrow the side bar"}
      onClick=${() => setNarrow(!isNarrow)}><${Icon} name="panel" size=${18} /><span class="nav-text">Collapse</span>
      ${isNarrow && html`<span class="sr-only">Widen the side bar</span>`}</button>
  </nav>`;
}

const CONNECTION = {
  connecting: ["muted", "Connecting"], live: ["good", "Live"], stopping: ["warning", "Stopping"],
  stale: ["warning", "Stale"], disconnected: ["error", "Disconnected"],
};

function Header() {
  const hello = useLive((state) => state.hello);
  const connection = useLive((state) => state.connection);
  const chosen = useStore(theme);
  const isMac = /Mac|iP/.test(navigator.platform);
  const [tone, text] = CONNECTION[connection];
  return html`<header class="topbar">
    <a class="brand phone-only" href="/" aria-label="Lattice overview"><${Logo} /></a>
    <div class="lattice"><span class="lattice-label"><${Term} of="lattice">Lattice</></span><b>${hello ? hello.lattice : "…"}</b></div>
    <span class="topbar-status" title=${hello ? `By ${hello.host_name}` : ""}><${StatusDot} tone=${tone} text=${text} />
      </span>
    <button type="button" class="palette-button" onClick=${openPalette} aria-keyshortcuts="Control+K Meta+K">
      <${Icon} name="search" /><span>Search or jump to …</span><kbd aria-hidden="true">${isMac ? "⌘" : "Ctrl"} K</kbd>
        </button>
    <span class="version muted" title="Version of the host that serves this page">${hello ? `host ${hello.version}`
      : ""}</span>
    <span class="wide-only"><${IconButton} icon="keyboard" label="Keyboard shortcuts" onClick=${openHelp} /></span>
    <${IconButton} icon=${isDark() ? "sun" : "moon"} label=${isDark() ? "Light theme" : "Dark theme"}
      onClick=${toggleTheme}
      data-theme-now=${chosen} />
    ${hello && (hello.is_logged_in ? html`<${IconButton} icon="signOut" label="Log out" onClick=${leave} />`
      : html`<${IconButton} icon="lock" label="Log in to change things" onClick=${() => openLogin()} />`)}
  </header>`;
}

/** Says since when the page shows old data, and that it soon will. It lies over the page, so that nothing jumps. */
function Banner() {
  const { connection, since_ms, cause, retry_ms, hello, pageVersion } = useStore(live);
  const wait = useClock(() => (retry_ms ? Math.max(0, Math.ceil((retry_ms - Date.now()) / 1000)) : 0));
  const age = useClock(() => (since_ms ? formatDuration(Date.now() - since_ms) : ""));
  const isBad = connection === "stale" || connection === "disconnected";
  const isOld = !isBad && hello && hello.version !== pageVersion;
  return html`<div class="banner-place" role="status">${isOld && html`<div class="banner tone-info">
    <${Icon} name="info" /><span>The host was started again as another version: ${hello.version}. This page is of
    ${" "}${pageVersion}.</span><${Button} size="small" onClick=${() => location.reload()}>Reload</></div>`}
    ${connection === "stopping" && html`<div class="banner tone-warning"><${Icon} name="warning" /><span><b>The host of
      this page stops.</b> It finishes its calls, then this page shows nothing new. Go on with the dashboard of another
      host.</span></div>`}
    ${isBad && html`
    <div class=${`banner tone-${connection === "stale" ? "warning" : "error"}`}>
      <${Icon} name=${connection === "stale" ? "warning" : "error"} />
      <span><b>The data is from ${formatClock(since_ms)}</b><span
        aria-hidden="true"> (${age} ago)</span>. ${cause}${connection === "disconnected" &&
        html`<span aria-hidden="true"> ${wait > 0 ? `Next try in ${wait} s.` : "Trying now …"}</span>`}</span>
      <${Button} size="small" onClick=${reconnect}>Try now</></div>`}</div>`;
}

const SHORTCUTS = [
  ["Ctrl K or ⌘ K", "Search applications, hosts, actors, providers and pages"],
  ["/", "Go to the search box of the page"],
  ["?", "Show these shortcuts"],
  ["t", "Switch between light and dark"],
  ["g, then a letter", MENU.map((page) => `${page.key} ${page.title}`).join(", ")],
  ["↑ ↓ Home End", "Move between the rows of a list"],
  ["Enter", "Open the row"],
  ["← →", "Move the crosshair of a chart"],
  ["Esc", "Close a dialog, clear a search box"],
];

function Help({ close }) {
  return html`<${Dialog} title="Keyboard shortcuts" close=${close}><dl class="shortcuts">
    ${SHORTCUTS.map(([keys, text]) => html`<div key=${keys}><dt><kbd>${keys}</kbd></dt><dd>${text}</dd></div>`)}</dl>
      </>`;
}

function useShortcuts() {
  useEffect(() => {
    let isAfterG = false;
    let timer = 0;
    const press = (event) => {
      if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
        event.preventDefault();
        if (!isDialogOpen()) openPalette();
        return;
      }
      if (event.ctrlKey || event.metaKey || event.altKey || isDialogOpen() || event.defaultPrevented) return;
      if (event.target.closest?.("input, textarea, select, [contenteditable], [role=menu]")) return;
      if (isAfterG) {
        isAfterG = false;
        const page = MENU.find((each) => each.key === event.key);
        if (page) {
          event.preventDefault();
          navigate(page.path);
        }
      } else if (event.key === "g") {
        isAfterG = true;
        clearTimeout(timer);
        timer = setTimeout(() => {
          isAfterG = false;
        }, 1200);
      } else if (event.key === "/") {
        event.preventDefault();
        const box = document.querySelector("[data-search]");
        if (box) box.focus();
        else openPalette();
      } else if (event.key === "?") openHelp();
      else if (event.key === "t") toggleTheme();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, []);
}

/** Tells how operations that this page saw running have ended. */
function useOperationToasts() {
  useEffect(() => onOperation((operation, before) => {
    if (!before || !isRunning(before) || isRunning(operation)) return;
    const tone = { done: "good", failed: "error" }[operation.state] || "warning";
    toast({ text: operation.text || `${operation.title}: ${operation.state}.`, tone, href: "/activity",
      key: operation.id });
  }), []);
}

/** Says that the host was started again, as its counters begin anew. */
function useRestartToast() {
  const life = useLive((state) => state.hello?.life);
  const last = useRef(undefined);
  useEffect(() => {
    const { hello, pageVersion } = live.get();
    // Of another version the banner tells.
    if (last.current !== undefined && last.current !== life && hello?.version === pageVersion) {
      toast({ text: "The host was started again. Its figures begin anew.", key: "restart" });
    }
    last.current = life ?? last.current;
  }, [life]);
}

/** Says to screen readers when the connection or the number of things that need attention changes. */
function useSpokenStatus() {
  const attention = useLive((state) => state.overview?.attention?.length);
  const last = useRef(undefined);
  useEffect(() => {
    if (attention === undefined) return;
    if (last.current !== undefined && last.current !== attention) {
      announce(attention ? `${plural(attention, "thing needs", "things need")} attention.`
        : "Nothing needs attention any more.");
    }
    last.current = attention;
  }, [attention]);
}

export function Shell() {
  const { page, params, path } = useRoute();
  const [narrow, setNarrow] = useRemembered("sidebar", "wide");
  const isNarrow = narrow === "narrow";
  // A page of one thing belongs to that of all of its kind.
  const section = `/${path.split("/")[1]}`;
  const connection = useLive((state) => state.connection);
  const [, render] = useState(0);
  useShortcuts();
  useOperationToasts();
  useRestartToast();
  useSpokenStatus();
  useTitle(page.title);
  useStore(theme);
  useEffect(() => {
    const query = matchMedia("(prefers-color-scheme: dark)");
    const change = () => render((n) => n + 1);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  useEffect(() => onNavigate(() => {
    closeDialogs();
    // Screen readers start to read at the new view.
    requestAnimationFrame(() => document.getElementById("main")?.focus({ preventScroll: true }));
  }), []);
  return html`<div class=${classes("app", isNarrow && "narrow", `is-${connection}`)}>
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    }}>Skip to the content</a>
    <${Sidebar} section=${section} isNarrow=${isNarrow} setNarrow=${(on) => setNarrow(on ? "narrow" : "wide")} />
    <div class="column">
      <${Header} />
      <main id="main" tabindex="-1"><${Guarded} key=${path} view=${page.view} params=${params} /></main>
    </div>
    <${Banner} />
    <${Toasts} />
    <${DialogHost} />
  </div>`;
}
