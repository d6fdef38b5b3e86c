// Starts the page: the router, the event stream, and the shell with its views.
import { html, render } from "../vendor/htm-preact.js";
import { startLive } from "./live.js";
import { MISSING, PAGES } from "./pages.js";
import { startRouter } from "./router.js";
import { Shell } from "./shell.js";

startRouter(PAGES, MISSING);
startLive();
render(html`<${Shell} />`, document.getElementById("app"));
