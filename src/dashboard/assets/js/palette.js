// Owns the command palette: one box that finds pages, actions, applications, hosts, actors and providers.
import { html, useEffect, useRef, useState } from "../vendor/htm-preact.js";
import { applyManifests, isLoggedIn, leave, openLogin, putLink, startActor, startProvider } from "./actions/index.js";
import { get, withQuery } from "./api.js";
import { shortKey } from "./format.js";
import { MENU } from "./pages.js";
import { href, navigate } from "./router.js";
import { toggleTheme } from "./theme.js";
import { Dialog } from "./ui/dialog.js";
import { Icon } from "./ui/icons.js";
import { openGlossary } from "./ui/term.js";

const ACTIONS = [
  { text: "Apply manifests …", icon: "upload", run: () => applyManifests() },
  { text: "Start an actor …", icon: "plus", run: () => startActor() },
  { text: "Start a provider …", icon: "plus", run: () => startProvider() },
  { text: "Link an actor to a provider …", icon: "plus", run: () => putLink() },
  { text: "Explain the words of a lattice", icon: "unknown", run: openGlossary },
  { text: "Switch between light and dark", icon: "moon", run: toggleTheme },
];
const loginAction = () => (isLoggedIn() ? { text: "Log out", icon: "signOut", run: leave }
  : { text: "Log in", icon: "lock", run: () => openLogin() });

/** Where a search looks: path of the list, heading, and how an item becomes an entry. */
const LISTS = [
  ["/applications", "Applications", (item) => ({ text: item.name, sub: item.deployed || item.state, icon: "application",
    href: href.application(item.name) })],
  ["/hosts", "Hosts", (item) => ({ text: item.name, sub: shortKey(item.id), icon: "host", href: href.host(item.id) })],
  ["/actors", "Actors", (item) => ({ text: item.name || shortKey(item.id), sub: item.references[0] || shortKey(item.id),
    icon: "actor",
    href: href.actor(item.id) })],
  ["/providers", "Providers", (item) => ({ text: item.name || shortKey(item.id),
    sub: `${item.link_name} · ${item.contract_id}`,
    icon: "provider", href: href.provider(item.id, item.link_name) })],
];

/** What the id of a failed call looks like, or the beginning of one. */
const FAILURE_ID = /^[0-9a-f]{8}[0-9a-f-]*$/i;

/** A failed call leads to the errors of whoever made it, or was to take it. */
function failureEntry(call) {
  const actor = [call.caller_id, call.target_id].find((id) => id.startsWith("M"));
  const to = actor ? href.actor(actor) : href.provider(call.caller_id, call.caller_link_name || "default");
  return { text: `${call.caller_name || shortKey(call.caller_id)} → ${call.target_name}: ${call.operation}`,
    sub: call.reason, icon: "error", href: `${to}?tab=errors` };
}

export function Palette({ close }) {
  const [text, setText] = useState("");
  const [found, setFound] = useState([]);
  const [at, setAt] = useState(0);
  const list = useRef(null);
  const q = text.trim();
  useEffect(() => {
    if (!q) {
      setFound([]);
      return undefined;
    }
    const abort = new AbortController();
    const timer = setTimeout(async () => {
      const failures = FAILURE_ID.test(q)
        ? get(withQuery("/failures", { id: q, limit: 6 }), abort.signal).catch(() => ({ items: [] })) : { items: [] };
      const answers = await Promise.all(LISTS.map(([path]) =>
        get(withQuery(path, { q, limit: 6 }), abort.signal).catch(() => ({ items: [] }))));
      const { items: calls } = await failures;
      if (abort.signal.aborted) return;
      setFound([["Failed calls", calls.map(failureEntry)],
        ...answers.map(({ items }, i) => [LISTS[i][1], items.slice(0, 6).map(LISTS[i][2])])]);
    }, 120);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [q]);
  const fits = (entry) => !q || entry.text.toLowerCase().includes(q.toLowerCase());
  const groups = [
    ["Pages", MENU.map((page) => ({ text: page.title, icon: page.icon, href: page.path,
      keys: `g ${page.key}` })).filter(fits)],
    ...found,
    ["Actions", [...ACTIONS, loginAction()].filter(fits)],
  ].filter(([, entries]) => entries.length);
  const all = groups.flatMap(([, entries]) => entries);
  const chosen = Math.min(at, all.length - 1);
  const pick = (entry) => {
    if (!entry) return;
    close();
    if (entry.href) navigate(entry.href);
    else setTimeout(entry.run);
  };
  useEffect(() => {
    list.current?.querySelector("[aria-selected=true]")?.scrollIntoView({ block: "nearest" });
  }, [chosen]);
  const keys = (event) => {
    const to = { ArrowDown: chosen + 1, ArrowUp: chosen - 1, PageDown: chosen + 6, PageUp: chosen - 6 }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      setAt(event.key.startsWith("Arrow") ? (to + all.length) % all.length : Math.max(0, Math.min(all.length - 1, to)));
    } else if (event.key === "Enter") {
      event.preventDefault();
      pick(all[chosen]);
    }
  };
  let n = -1;
  return html`<${Dialog} title="Search and jump" close=${close} class="palette" bare>
    <div class="palette-head"><${Icon} name="search" size=${18} />
      <input type="text" class="palette-input" role="combobox" aria-expanded="true" aria-controls="palette-list"
        aria-autocomplete="list"
        aria-label="Search applications, hosts, actors, providers and pages" placeholder="Search applications, hosts, actors, pages …"
          autocomplete="off"
        spellcheck=${false} data-autofocus value=${text} aria-activedescendant=${all.length ? `palette-${chosen}` : ""}
        onInput=${(event) => {
          setText(event.target.value);
          setAt(0);
        }} onKeyDown=${keys} /><kbd>Esc</kbd></div>
    <div class="palette-list" id="palette-list" role="listbox" aria-label="Results" ref=${list}>
      ${groups.map(([title, entries]) => html`<div key=${title} role="group" aria-label=${title}>
        <div class="palette-group" aria-hidden="true">${title}</div>
        ${entries.map((entry) => {
          const mine = ++n;
          return html`<div key=${`${title}${mine}`} role="option" id=${`palette-${mine}`}
            aria-selected=${mine === chosen} class="palette-item"
            onPointerMove=${() => setAt(mine)} onClick=${() => pick(entry)}><${Icon} name=${entry.icon} />
            <span class="palette-text">${entry.text}</span>${entry.sub && html`<span class="palette-sub mono">
              ${entry.sub}</span>`}
            ${entry.keys && html`<kbd>${entry.keys}</kbd>`}</div>`;
        })}</div>`)}
    </div>
    ${!all.length && html`<p class="palette-none" role="status">Nothing in this lattice is called “${q}”.</p>`}
  </>`;
}
