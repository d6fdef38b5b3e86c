// Owns the button menu: arrows, Home, End, first letters, Escape; focus returns to the button.
import { html, useEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { classes } from "./basic.js";
import { Icon } from "./icons.js";

const HEIGHT_MAX = 320;

/**
 * `items` may be an async function, asked when the menu opens. An item with `items` of its own opens these instead.
 * @param {{label: string, icon?: string, text?: string, items: ({text: string, icon?: string, onSelect?: Function,
 *   href?: string, danger?: boolean, disabled?: boolean, items?: object[]}|false|null)[]|Function, why?: string}} props
 *   `why` says why it cannot be opened now; it is empty if it can.
 */
export function Menu({ label, icon = "more", text, items, kind = "", why = "" }) {
  const [isOpen, setOpen] = useState(false);
  const [isBusy, setBusy] = useState(false);
  const [loaded, setLoaded] = useState([]);
  const [level, setLevel] = useState("");
  const [place, setPlace] = useState(null);
  const button = useRef(null);
  const list = useRef(null);
  const all = (typeof items === "function" ? loaded : items).filter(Boolean);
  const parent = all.find((item) => item.items && item.text === level);
  const shown = parent ? parent.items : all;
  const close = (back) => {
    setOpen(false);
    if (back) button.current?.focus();
  };
  const show = async () => {
    if (isBusy || why) return;
    let list = items;
    if (typeof items === "function") {
      setBusy(true);
      list = await items().catch((error) => [{ text: error.message, disabled: true }]);
      setBusy(false);
      if (!button.current) return;
      setLoaded(list);
    }
    setLevel("");
    // Fixed to the window, so that no scrolling table cuts it off.
    const box = button.current.getBoundingClientRect();
    const entries = list.filter(Boolean);
    const rows = Math.max(entries.length, ...entries.map((item) => (item.items ? item.items.length + 1 : 0)));
    const height = Math.min(HEIGHT_MAX, rows * 34 + 12);
    const isUp = box.bottom + height > innerHeight && box.top > height;
    setPlace({ top: `${isUp ? box.top - height - 4 : box.bottom + 4}px`, right: `${Math.max(8,
      document.documentElement.clientWidth - box.right)}px` });
    setOpen(true);
  };
  useEffect(() => {
    if (!isOpen) return undefined;
    const outside = (event) => {
      if (!list.current?.contains(event.target) && !button.current?.contains(event.target)) close(false);
    };
    const away = (event) => list.current?.contains(event.target) || close(false);
    document.addEventListener("pointerdown", outside);
    addEventListener("scroll", away, true);
    addEventListener("resize", away);
    return () => {
      document.removeEventListener("pointerdown", outside);
      removeEventListener("scroll", away, true);
      removeEventListener("resize", away);
    };
  }, [isOpen]);
  useEffect(() => {
    if (isOpen) (list.current.querySelector("[role=menuitem]:not([aria-disabled=true])") || list.current).focus();
  }, [isOpen, level]);
  const keys = (event) => {
    const nodes = [...list.current.querySelectorAll("[role=menuitem]:not([aria-disabled=true])")];
    const at = nodes.indexOf(document.activeElement);
    const go = (to) => nodes[(to + nodes.length) % nodes.length]?.focus();
    if (event.key === "ArrowDown") go(at + 1);
    else if (event.key === "ArrowUp") go(at - 1);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(-1);
    else if (parent && ["Escape", "ArrowLeft"].includes(event.key)) setLevel("");
    else if (event.key === "Escape") close(true);
    else if (event.key === "ArrowRight" && shown.some((item) => item.items)) document.activeElement.click();
    else if (event.key === "Tab") return close(false);
    else if (event.key.length === 1 && event.key !== " ") {
      const rotated = [...nodes.slice(at + 1), ...nodes.slice(0, at + 1)];
      rotated.find((node) => node.textContent.trim().toLowerCase().startsWith(event.key.toLowerCase()))?.focus();
    } else return undefined;
    event.preventDefault();
    event.stopPropagation();
    return undefined;
  };
  const select = (item) => {
    if (item.disabled) return;
    if (item.items) {
      setLevel(item.text);
      return;
    }
    close(true);
    item.onSelect?.();
  };
  return html`<span class="menu-wrap" onClick=${(event) => event.stopPropagation()}>
    <button type="button" ref=${button} class=${text ? classes("button", kind) : "icon-button"} aria-haspopup="menu"
      aria-expanded=${isOpen} aria-label=${why ? `${label}: ${why}` : label} title=${why || label} aria-busy=${isBusy}
      aria-disabled=${!!why}
      onClick=${() => (isOpen ? close(true) : show())}
      onKeyDown=${(event) => {
        if (event.key === "ArrowDown" && !isOpen) {
          event.preventDefault();
          show();
        }
      }}>${text ? html`<span>${text}</span><${Icon} name="chevronDown" />` : html`<${Icon} name=${icon} />`}</button>
    ${isOpen && html`<div class="menu" role="menu" aria-label=${parent ? parent.text : label} ref=${list} style=${place}
      tabindex="-1" onKeyDown=${keys}>
      ${parent && html`<div class="menu-head" aria-hidden="true">${parent.text}</div>`}
      ${shown.map((item) => (item.href
        ? html`<a key=${item.text} role="menuitem" tabindex="-1" class="menu-item" href=${item.href}
            onClick=${() => setOpen(false)}>${item.icon && html`<${Icon} name=${item.icon} />`}${item.text}</a>`
        : html`<button key=${item.text} type="button" role="menuitem" tabindex="-1" class=${classes("menu-item",
        item.danger && "danger")}
            aria-disabled=${!!item.disabled} aria-haspopup=${item.items ? "menu" : false} onClick=${() => select(item)}>
            ${item.icon && html`<${Icon} name=${item.icon} />`}<span class="menu-text">${item.text}</span>
            ${item.items && html`<${Icon} name="chevronRight" size=${14} />`}</button>`))}
    </div>`}
  </span>`;
}
