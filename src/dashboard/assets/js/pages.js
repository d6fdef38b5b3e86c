// Owns the table of pages: address, view, and entry of the side bar. The router and the shell read it.
import { Overview } from "./views/overview.js";
import { Applications } from "./views/applications.js";
import { ApplicationDetail } from "./views/application.js";
import { Hosts } from "./views/hosts.js";
import { HostDetail } from "./views/host.js";
import { Actors } from "./views/actors.js";
import { ActorDetail } from "./views/actor.js";
import { Providers } from "./views/providers.js";
import { ProviderDetail } from "./views/provider.js";
import { Links } from "./views/links.js";
import { Claims } from "./views/claims.js";
import { Events } from "./views/events.js";
import { Activity } from "./views/activity.js";
import { Call } from "./views/call.js";
import { Missing } from "./views/missing.js";

/** The first path that fits wins; a ":name" takes one segment. Pages with an icon are in the side bar, and `key` is the
 *  key after "g" that opens them. `count` and `failed` name figures of the overview. */
export const PAGES = [
  { path: "/", view: Overview, title: "Overview", icon: "overview", key: "o" },
  { path: "/applications", view: Applications, title: "Applications", icon: "application", key: "m",
    count: "applications", failed: "applications_failed" },
  { path: "/applications/:name", view: ApplicationDetail },
  { path: "/hosts", view: Hosts, title: "Hosts", icon: "host", key: "h", count: "hosts" },
  { path: "/hosts/:id", view: HostDetail },
  { path: "/actors", view: Actors, title: "Actors", icon: "actor", key: "a", count: "actors" },
  { path: "/actors/:id", view: ActorDetail },
  { path: "/providers", view: Providers, title: "Providers", icon: "provider", key: "p", count: "providers" },
  { path: "/providers/:id/:link", view: ProviderDetail },
  { path: "/links", view: Links, title: "Links", icon: "link", key: "l", count: "links" },
  { path: "/claims", view: Claims, title: "Claims", icon: "claim", key: "c", count: "claims" },
  { path: "/events", view: Events, title: "Events", icon: "event", key: "e" },
  { path: "/activity", view: Activity, title: "Activity", icon: "activity", key: "y" },
  { path: "/call", view: Call, title: "Call", icon: "call", key: "k" },
];

/** The pages of the side bar. */
export const MENU = PAGES.filter((page) => page.icon);

/** Shown where no path fits. */
export const MISSING = { view: Missing, title: "Not found" };
