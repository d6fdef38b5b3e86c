// Owns the page of an address that is none.
import { EmptyState, html, PageHeader } from "../ui/index.js";

export function Missing() {
  return html`<div class="view"><${PageHeader} title="Not found" />
    <${EmptyState} icon="unknown" title="There is no such page"
    action=${html`<a class="button primary" href="/"><span>Go to the overview</span></a>`}>
    The address may be of something that was removed, or it was cut off.</></div>`;
}
