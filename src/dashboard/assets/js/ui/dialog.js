// Owns dialogs: opening them from anywhere, focus that comes back, Escape, the error region of forms, and stages.
import { html, useEffect, useErrorBoundary, useRef, useState } from "../../vendor/htm-preact.js";
import { createStore, useStore } from "../store.js";
import { Button, IconButton, classes } from "./basic.js";
import { Icon } from "./icons.js";
import { holdToasts, Toasts } from "./toast.js";

const open = createStore({ items: [] });
let count = 0;

/**
 * Opens a dialog: renders the component with the props and `close(result)`.
 * The component's root must be a <${Dialog}>. Resolves to the result (undefined when dismissed).
 */
export function openDialog(component, props = {}) {
  const opener = document.activeElement;
  return new Promise((resolve) => {
    const id = ++count;
    let isClosed = false;
    const close = (result) => {
      if (isClosed) return;
      isClosed = true;
      open.set({ items: open.get().items.filter((item) => item.id !== id) });
      // What opened it may be gone by now (a menu item, a row): then the view's heading region takes the focus.
      setTimeout(() => {
        if (document.querySelector("dialog[open]")) return;
        if (opener?.isConnected && opener !== document.body) opener.focus();
        else document.getElementById("main")?.focus({ preventScroll: true });
      });
      resolve(result);
    };
    open.set({ items: [...open.get().items, { id, component, props, close }] });
  });
}

/** True while any dialog is open; keyboard shortcuts rest then. */
export const isDialogOpen = () => open.get().items.length > 0;

/** Closes every dialog, as when the operator leaves the page. */
export const closeDialogs = () => open.get().items.forEach((item) => item.close());

/** Catches what a dialog throws: thrown further, nothing on the page would be drawn again. */
function Guarded({ component: Component, close, props }) {
  const [error] = useErrorBoundary();
  return error ? html`<${Dialog} title="This dialog failed" close=${close}><p role="alert">${error.message}</p></>`
    : html`<${Component} ...${props} close=${close} />`;
}

/** Rendered once by the shell. */
export function DialogHost() {
  const { items } = useStore(open);
  return items.map(({ id, ...item }) => html`<${Guarded} key=${id} ...${item} />`);
}

/**
 * The frame of a dialog.
 * With `onSubmit` it is a form: the function may be async; while it runs the buttons rest, and an error it throws is
 * shown in the alert region. What it resolves to is handed to `close`, unless it is false (then the dialog stays).
 * A `stage` takes the place of the form, with `stageFooter` for buttons; the form stays as it was filled.
 * With `bare` the children are the whole of the dialog; its title is for screen readers only.
 * @param {{title: string, close: Function, onSubmit?: Function, submitText?: string, danger?: boolean,
 *   busyText?: string, isReady?: boolean, wide?: boolean, footer?: any,
 *   stage?: any, stageFooter?: any, class?: string, bare?: boolean, children?: any}} props
 */
export function Dialog({
  title, close, onSubmit, submitText = "Save", danger, busyText = "Working …", isReady = true, wide, footer, children,
  class: extra, bare, stage, stageFooter,
}) {
  const ref = useRef(null);
  const [isBusy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const isMounted = useRef(true);
  const id = useRef(`dialog-${count}-${Math.random().toString(36).slice(2, 7)}`).current;
  const isStaged = !!stage;
  useEffect(() => {
    const dialog = ref.current;
    dialog.showModal();
    const release = holdToasts(id);
    return () => {
      isMounted.current = false;
      release();
      dialog.close();
    };
  }, []);
  useEffect(() => {
    const find = (selector) => ref.current.querySelector(selector);
    (isStaged ? find(".dialog-stage") : find("[data-autofocus]")
      || find(".dialog-body :is(input:checked, input:not([type=radio], [type=hidden]), select, textarea)")
      || find(".dialog-foot .button"))?.focus();
  }, [isStaged]);
  const submit = async (event) => {
    event.preventDefault();
    if (isBusy || !onSubmit) return;
    setBusy(true);
    setError(null);
    try {
      const result = await onSubmit();
      if (result !== false) close(result ?? true);
    } catch (problem) {
      if (isMounted.current) setError(problem);
    }
    if (isMounted.current) setBusy(false);
  };
  const cancel = (event) => {
    event.preventDefault();
    if (!isBusy) close();
  };
  // A press on the backdrop closes only what loses nothing.
  const pressed = (event) => {
    if (event.target === ref.current && (!onSubmit || isStaged)) close();
  };
  const head = html`<div class="dialog-head"><h2 id=${id}>${title}</h2>
    <${IconButton} icon="cross" label="Close" onClick=${() => close()} /></div>`;
  const alert = html`<div class="dialog-alert" role="alert">${error && html`<div class="note tone-error">
    <${Icon} name="error" /><div>${error.message}</div></div>`}</div>`;
  return html`<dialog ref=${ref} class=${classes("dialog", wide && "wide", extra)} aria-labelledby=${id}
    onCancel=${cancel}
    onMouseDown=${pressed}>
    ${bare ? html`<h2 id=${id} class="sr-only">${title}</h2>${children}` : onSubmit
      ? html`<form class="dialog-form" onSubmit=${submit} noValidate>
          ${head}<div class="dialog-body" hidden=${isStaged}>${children}</div>
          ${isStaged && html`<div class="dialog-body dialog-stage" tabindex="-1" role="group" aria-label="Progress"
            onClick=${(event) => event.target.closest("a:not([target])") && setTimeout(close)}>${stage}</div>`}
          ${alert}
          <div class="dialog-foot">${isStaged ? stageFooter : html`${footer}<span class="grow"></span>
            <${Button} onClick=${() => close()} disabled=${isBusy}>Cancel</>
            <button type="submit" class=${classes("button", danger ? "danger" : "primary")}
              disabled=${isBusy || !isReady}><span>${isBusy ? busyText : submitText}</span></button>`}
          </div>
        </form>`
      : html`<div class="dialog-form">${head}<div class="dialog-body">${children}</div>
          ${footer && html`<div class="dialog-foot">${footer}</div>`}</div>`}
    <${Toasts} holder=${id} />
  </dialog>`;
}
