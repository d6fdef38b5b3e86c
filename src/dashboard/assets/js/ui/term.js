// Owns the explanation of a word: shown while the pointer or the focus is on the word, or after a tap.
import { html, useEffect, useRef, useState } from "../../vendor/htm-preact.js";
import { GLOSSARY } from "../glossary.js";
import { Facts, classes } from "./basic.js";
import { Dialog, openDialog } from "./dialog.js";
import { Icon } from "./icons.js";

const WIDTH = 300;
let count = 0;

/**
 * A word of the glossary that explains itself.
 * @param {{of: string, children?: any}} props `of` is the entry; without children there is a sign instead of a word.
 */
export function Term({ of, children }) {
  const [place, setPlace] = useState(null);
  const button = useRef(null);
  const id = useRef(`term-${++count}`).current;
  // Fixed to the window, so that no scrolling box cuts it off.
  const show = () => {
    const box = button.current.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, innerWidth - WIDTH - 8));
    const isUp = box.bottom + 120 > innerHeight;
    setPlace({ left: `${left}px`, ...(isUp ? { bottom: `${innerHeight - box.top + 6}px` }
      : { top: `${box.bottom + 6}px` }) });
  };
  const hide = () => setPlace(null);
  useEffect(() => {
    if (!place) return undefined;
    addEventListener("scroll", hide, true);
    return () => removeEventListener("scroll", hide, true);
  }, [place]);
  const keys = (event) => {
    if (event.key !== "Escape" || !place) return;
    event.preventDefault();
    event.stopPropagation();
    hide();
  };
  return html`<span class="term" onPointerEnter=${(event) => event.pointerType === "mouse" && show()}
    onPointerLeave=${(event) => event.pointerType === "mouse" && hide()}>
    <button type="button" ref=${button} class=${classes("term-word", !children && "term-sign")}
      aria-label=${children ? undefined : `What is a ${of}?`} aria-describedby=${place ? id : undefined} onFocus=${show}
      onBlur=${hide} onKeyDown=${keys} onClick=${(event) => {
        event.preventDefault();
        event.stopPropagation();
        show();
      }}>${children || html`<${Icon} name="unknown" size=${14} />`}</button>
    ${place && html`<span role="tooltip" id=${id} class="term-tip" style=${place}><b>${of}</b> ${GLOSSARY[of]}</span>`}
  </span>`;
}

function Words({ close }) {
  return html`<${Dialog} title="Words of a lattice" close=${close} class="roomy"><${Facts}
    items=${Object.entries(GLOSSARY)} /></>`;
}

/** Opens the whole glossary. */
export const openGlossary = () => openDialog(Words);
