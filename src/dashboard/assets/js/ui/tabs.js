// Owns tabs: arrows move between them, the chosen one is kept in the query of the address.
import { html, useRef } from "../../vendor/htm-preact.js";
import { setQuery, useRoute } from "../router.js";

/**
 * @param {{label: string, name?: string, tabs: {id: string, text: string, count?: number, render: () => any}[]}} props
 *   `name` is the member of the query that keeps the choice.
 */
export function Tabs({ label, tabs, name = "tab" }) {
  const { query } = useRoute();
  const list = useRef(null);
  const chosen = tabs.find((tab) => tab.id === query[name]) || tabs[0];
  const choose = (tab) => setQuery({ [name]: tab === tabs[0] ? "" : tab.id });
  const keys = (event) => {
    const at = tabs.indexOf(chosen);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const next = (to + tabs.length) % tabs.length;
    choose(tabs[next]);
    list.current.children[next].focus();
  };
  return html`<div class="tabs">
    <div class="tab-list" role="tablist" aria-label=${label} ref=${list} onKeyDown=${keys}>
      ${tabs.map((tab) => html`<button key=${tab.id} type="button" role="tab" id=${`tab-${tab.id}`} class="tab"
        aria-selected=${tab === chosen} aria-controls=${`panel-${tab.id}`} tabindex=${tab === chosen ? 0 : -1}
        onClick=${() => choose(tab)}>${tab.text}${tab.count !== undefined && html` <span class="count">
          ${tab.count}</span>`}</button>`)}
    </div>
    <div key=${chosen.id} role="tabpanel" id=${`panel-${chosen.id}`} aria-labelledby=${`tab-${chosen.id}`} tabindex="0"
      class="tab-panel">${chosen.render()}</div>
  </div>`;
}
