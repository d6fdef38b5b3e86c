// Owns the view of one provider under one link name.
import {
  apiPath, Button, Card, EmptyState, ErrorNote, Facts, formatCount, formatRate, Health, HostLink, html, Key, Labels, Menu, Note,
  PageHeader, plural, SeriesChart, shortKey, Skeleton, Stat, Table, Tabs, useResource,
} from "../ui/index.js";
import { putLink, startProvider } from "../actions/index.js";
import { useTitle } from "../title.js";
import { LastErrors, LogView, OperationsTable, RateStats } from "./actor.js";
import { Reference } from "./actors.js";
import { ClaimsFacts } from "./claims.js";
import { useFailures } from "./failures.js";
import { LinksTable } from "./links.js";
import { linkPreset, stopItem } from "./providers.js";

function Instances({ provider, start }) {
  return html`<${Table} label="Hosts" items=${provider.instances} rowKey=${(each) => each.host_id}
    rowClass=${(each) => (each.host_state === "lost" ? "lost" : "")}
    empty=${html`<${EmptyState} icon="provider" title="This provider does not run under this link name"
      action=${start} command=${`host start provider ${provider.references[0] || "builtin://httpserver"}`}>Links to it
      cannot be used until it runs.</>`} columns=${[
      { key: "host", title: "Host", render: (each) => html`<${HostLink} id=${each.host_id} name=${each.host_name}
        state=${each.host_state} />` },
      { key: "health", title: "Health", width: "134px", render: (each) => html`<${Health} health=${each.health} />` },
      { key: "phase", title: "Phase", width: "110px", render: (each) => each.phase ?? html`<span
        class="muted">–</span>` },
      { key: "crashes", title: "Crashes", align: "right", width: "90px", hint: "How often in a row it ended by itself",
        render: (each) => html`<span class=${each.crashes ? "num text-error" : "num"}>${formatCount(each.crashes)}
        </span>` },
      { key: "complaint", title: "Complaint", render: (each) => (each.complaint ? html`<span
        class="text-error wrap">${each.complaint}</span>` : html`<span class="muted">none</span>`) },
      { key: "annotations", title: "Annotations", render: (each) => html`<${Labels} labels=${each.annotations} max=${3}
        empty="–" />` },
      { key: "reference", title: "Reference", render: (each) => html`<${Reference} text=${each.reference} />` },
      { key: "menu", title: "", width: "48px", align: "right", render: (each) => html`<${Menu}
        label=${`Actions on ${each.host_name || shortKey(each.host_id)}`} items=${[stopItem(provider, [each])]} />` },
    ]} />`;
}

const VALUES = [
  { key: "name", title: "Value", width: "200px", render: (each) => html`<b class="mono">${each.name}</b>` },
  { key: "default", title: "Without it", width: "200px", render: (each) => (each.default ? html`<span
    class="mono">${each.default}</span>` : html`<span class="muted">–</span>`) },
  { key: "help", title: "What it does", render: (each) => html`<span class="wrap">${each.help}</span>` },
];

export function ProviderDetail({ id, link }) {
  const { data: provider, error, loading, refresh } = useResource(apiPath("providers", id, link), ["providers",
    "links", "hosts", "claims", "rates"]);
  const failures = useFailures("providers", id);
  const name = provider?.name || shortKey(id);
  useTitle(name, "Providers");
  const crumbs = [{ text: "Providers", href: "/providers" }];
  const sub = html`<${Key} id=${id} full /> <span class="link-name">link name <b>${link}</b></span>`;
  if (!provider) {
    return html`<div class="view"><${PageHeader} title=${name} crumbs=${crumbs} sub=${sub} />
      ${error ? html`<${ErrorNote} error=${error} retry=${refresh} />` : loading && html`<${Skeleton} height="92px" />
        <${Skeleton} height="420px" />`}</div>`;
  }
  const { instances, links_to: links } = provider;
  const wrong = links.filter((each) => each.state !== "ok").length;
  const complaints = [...new Set(instances.map((each) => each.complaint).filter(Boolean))];
  const lost = instances.filter((each) => each.host_state !== "ok").length;
  const start = html`<${Button} icon="plus" onClick=${() => startProvider({ reference: provider.references[0] || "",
    link_name: link })}>${instances.length ? "Start it on another host" : "Start it"}</>`;
  const add = (kind) => html`<${Button} kind=${kind} icon="link" onClick=${() => putLink(linkPreset(provider))}>
    Link an actor to it</>`;
  const stop = stopItem(provider, instances);
  return html`<div class="view">
    <${PageHeader} title=${name} crumbs=${crumbs} sub=${sub} status=${html`<${Health}
      health=${provider.health} runs=${instances.length > 0} />`}
      actions=${html`${add("primary")}${start}${stop && html`<${Menu} label="Actions" text="Actions"
        items=${[stop]} />`}`} />
    ${error && html`<${ErrorNote} error=${error} retry=${refresh} />`}
    ${provider.rates?.http && html`<p class="muted">Answers: ${Object.entries(provider.rates.http).map(([kind, rate],
      at) => html`${at > 0 && ", "}<span key=${kind} class=${kind === "5xx" && rate > 0 ? "num text-error" : "num"}>
      ${kind} ${formatRate(rate)}/s</span>`)}</p>`}
    ${complaints.map((complaint) => html`<${Note} key=${complaint} tone="error"><b>${instances.filter((each) =>
      each.complaint === complaint).map((each) => each.host_name).join(", ")}</b>: ${complaint}</>`)}
    <div class="stats"><${RateStats} rates=${provider.rates} series=${provider.series} />
      <${Stat} label="Hosts" value=${formatCount(instances.length)} tone=${lost ? "error" : ""} sub=${lost
        ? `${lost} not heard` : instances.length ? "all heard" : "runs nowhere"} />
      <${Stat} label="Links" value=${formatCount(links.length)} tone=${wrong ? "error" : ""}
        sub=${wrong ? `${wrong} not ok` : links.length ? "all ok" : "no actor uses it"} /></div>
    <div class="host-grid">
      <${Card} title="Traffic"><${SeriesChart} series=${provider.series} of=${{ of: "provider", id, link_name: link }} /></>
      <${Card} title="Claims">${provider.claims ? html`<${ClaimsFacts} claims=${provider.claims} />` : html`<${Facts}
        items=${[["Contract", html`<span class="mono">${provider.contract_id || "–"}</span>`],
          ["Claims", html`<span class="muted">not known: no host has told them</span>`]]} />`}</>
    </div>
    <${Tabs} label="Parts of the provider" tabs=${[
      { id: "hosts", text: "Hosts", count: instances.length, render: () => html`<${Instances} provider=${provider}
        start=${start} />` },
      { id: "links", text: "Links", count: links.length, render: () => html`<${LinksTable} links=${links} side="actor"
        empty=${html`<${EmptyState} icon="link" title="No actor is linked to this provider" action=${add()}
          command=${`host link put ACTOR ${id} ${provider.contract_id || "CONTRACT"} KEY=VALUE`}>An actor may use it
          only with a link definition.</>`} />` },
      { id: "values", text: "Link values", count: provider.values.length || undefined, render: () => html`<${Table}
        label="Link values" items=${provider.values} rowKey=${(each) => each.name} columns=${VALUES}
        empty=${html`<${EmptyState} icon="link" title="The values of its links are not known">Only for providers that
          hosts bring with them the values are known here. ${plural(links.length, "link")} of this one may show what
          it takes.</>`} />` },
      { id: "operations", text: "Operations", count: provider.operations.length, render: () => html`<${OperationsTable}
        operations=${provider.operations} empty=${html`<${EmptyState} icon="call" title="No call was counted yet">What
          actors ask this provider appears with the first call.</>`} />` },
      { id: "errors", text: "Errors", count: failures.items?.length || provider.last_errors.length,
        render: () => html`<${LastErrors} lines=${provider.last_errors} failures=${failures} />` },
      { id: "logs", text: "Logs", render: () => html`<${LogView} url=${apiPath("providers", id, "logs")} id=${id}
        takes=${(line) => !line.link_name || line.link_name === link} />` },
    ]} />
  </div>`;
}
