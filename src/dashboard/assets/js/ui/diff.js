// Owns how the difference of two texts is shown: the lines of `diff -u`, whose first character says what they are.
import { html } from "../../vendor/htm-preact.js";

const KINDS = { "+": "added", "-": "removed", "@": "place" };

/** @param {{text: string, label: string}} props `text` is the answer of the API; an empty one is nothing to show. */
export function Diff({ text, label }) {
  return html`<pre class="diff mono" tabindex="0" role="group" aria-label=${label}>${text.replace(/\n$/, "").split("\n")
    .map((line, at) => html`<span key=${at} class=${`diff-line ${KINDS[line[0]] || ""}`}>${line || " "}</span>`)}</pre>`;
}
