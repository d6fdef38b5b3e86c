// Owns the address of the page: routes, navigation by plain links, and the query (search text, sort order, tab).
import { createStore, useStore } from "./store.js";

// The pages, and the one for other addresses; main.js hands them over, since the views use this module.
let pages = [];
let missing = {};

const segmentsOf = (path) => path.split("/").filter(Boolean);

function parse() {
  let segments;
  try {
    segments = segmentsOf(location.pathname).map(decodeURIComponent);
  } catch {
    segments = ["?"];
  }
  const query = Object.fromEntries(new URLSearchParams(location.search));
  for (const page of pages) {
    const pattern = segmentsOf(page.path);
    if (pattern.length !== segments.length) continue;
    const params = {};
    const fits = pattern.every((part, at) => {
      if (part[0] === ":") {
        params[part.slice(1)] = segments[at];
        return true;
      }
      return part === segments[at];
    });
    if (fits) return { page, params, query, path: location.pathname };
  }
  return { page: missing, params: {}, query, path: location.pathname };
}

/** {page, params, query, path} */
export const route = createStore(parse());
export const useRoute = () => useStore(route);

const listeners = new Set();

/** Calls the listener after the operator went to another page (not after a change of the query). */
export function onNavigate(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function update() {
  const before = route.get().path;
  route.set(parse());
  if (route.get().path !== before) listeners.forEach((listener) => listener());
}

/** The part of the page that scrolls. */
const scroller = () => document.getElementById("main");

/** Goes to a path of this page. */
export function navigate(to, { replace = false } = {}) {
  if (to === location.pathname + location.search) return;
  if (replace) {
    history.replaceState(history.state, "", to);
    update();
    return;
  }
  // The entry that is left remembers how far it was scrolled; see startRouter.
  history.replaceState({ top: scroller()?.scrollTop ?? 0 }, "");
  history.pushState(null, "", to);
  update();
  scroller()?.scrollTo(0, 0);
}

/** Changes members of the query in place (no new entry of the history); empty ones are dropped. */
export function setQuery(patch) {
  const params = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(patch)) {
    if (value === "" || value === null || value === undefined) params.delete(name);
    else params.set(name, value);
  }
  const text = params.toString();
  history.replaceState(history.state, "", location.pathname + (text ? `?${text}` : ""));
  update();
}

const to = (...segments) => `/${segments.map(encodeURIComponent).join("/")}`;

/** The addresses of the things of a lattice: href.host(id), href.provider(id, linkName) … */
export const href = {
  host: (id) => to("hosts", id),
  actor: (id) => to("actors", id),
  application: (name) => to("applications", name),
  provider: (id, linkName) => to("providers", id, linkName),
  links: () => to("links"),
};

/** Reads the address, and listens to clicks on links of this page and to the browser's back and forward; called once by
 *  main.js, with the table of pages and the page for other addresses. */
export function startRouter(table, otherwise) {
  [pages, missing] = [table, otherwise];
  route.set(parse());
  addEventListener("popstate", (event) => {
    update();
    // Two frames: one for the view to render from what is kept of its data, one for its layout.
    requestAnimationFrame(() => requestAnimationFrame(() => scroller()?.scrollTo(0, event.state?.top ?? 0)));
  });
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0) return;
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target.closest?.("a[href]");
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (link.pathname.startsWith("/assets/") || link.pathname.startsWith("/api/") || link.pathname === "/login") return;
    if (link.hash) return;
    event.preventDefault();
    navigate(link.pathname + link.search);
  });
}
