// Owns the graph of link definitions: actors, contracts and providers in three columns, with the traffic between them.
import { html, useEffect, useMemo, useRef, useState } from "../../vendor/htm-preact.js";
import { formatCount, formatRate, plural, shortKey } from "../format.js";
import { href } from "../router.js";
import { classes, ExternalLink, Note, useSight } from "./basic.js";
import { ActorLink, LINK_STATES, LinkState, ProviderLink, linkWord } from "./domain.js";
import { Icon } from "./icons.js";

const NODES_MAX = 150;
const ROW = 56;
const NODE = 46;
const HEAD = 36;
const PAD = 12;
const FLOWS_MAX = 40;
const DENSE = 40;
const PHONE = matchMedia("(max-width: 720px)");
const TITLES = ["Actors", "Contracts", "Providers"];

const rateText = (rates) => (rates && rates.calls_per_s > 0 ? `${formatRate(rates.calls_per_s)}/s` : "");
const join = (...parts) => parts.filter(Boolean).join(" · ");
const providerKey = (id, linkName) => `p ${id} ${linkName}`;

/** Nodes in columns and the edges between them. What does not fit into NODES_MAX is counted in `hidden`. */
function modelOf({ links, allLinks, actors, found, providers, foundProviders, isPart }) {
  const nodes = new Map();
  const edges = new Map();
  const running = new Map(actors.map((actor) => [actor.id, actor]));
  const serving = new Map(providers.map((each) => [providerKey(each.id, each.link_name), each]));
  let hidden = 0;
  const fits = (keys) => nodes.size + keys.filter((key) => !nodes.has(key)).length <= NODES_MAX;
  const put = (key, column, make) => {
    if (!nodes.has(key)) nodes.set(key, { key, column, links: [], at: nodes.size, ...make() });
    return nodes.get(key);
  };
  const actorNode = (id, name) => {
    const actor = running.get(id);
    return { title: name || shortKey(id), href: href.actor(id), kind: "Actor", rate: actor?.rates?.calls_per_s ?? null,
      tone: actor || isPart ? "" : "muted", sub: actor ? join(plural(actor.replicas, "replica"), rateText(actor.rates))
        : isPart ? "" : "not running" };
  };
  const providerNode = (id, linkName, name) => {
    const each = serving.get(providerKey(id, linkName));
    return { title: name || shortKey(id), href: href.provider(id, linkName), kind: "Provider",
      rate: each?.rates?.calls_per_s ?? null,
      tone: !each ? "warning" : each.health === "unhealthy" ? "error" : "",
      sub: each ? join(each.health === "unknown" ? "" : each.health, plural(each.hosts.length, "host"),
        rateText(each.rates)) : "not running" };
  };
  const edge = (from, to, link, rate) => {
    const key = `${from.key}|${to.key}`;
    const known = edges.get(key) || { key, from, to, links: [], state: link.state, rate };
    known.links.push(link);
    known.rate = Math.max(known.rate, rate);
    // One good link is enough for a provider to be reached.
    if (LINK_STATES.indexOf(link.state) < LINK_STATES.indexOf(known.state)) known.state = link.state;
    edges.set(key, known);
  };
  // What is wrong comes first, so that it is shown in any case.
  const order = [...links].sort((a, b) => LINK_STATES.indexOf(b.state) - LINK_STATES.indexOf(a.state));
  for (const link of order) {
    const keys = [`a ${link.actor_id}`, `c ${link.contract_id} ${link.link_name}`,
      providerKey(link.provider_id, link.link_name)];
    if (!fits(keys)) {
      hidden++;
      continue;
    }
    const actor = put(keys[0], 0, () => actorNode(link.actor_id, link.actor_name));
    const contract = put(keys[1], 1, () => ({ title: link.contract_id, sub: `link name ${link.link_name}`,
      kind: "Contract", tone: "", href: `/links?q=${encodeURIComponent(`${link.contract_id} ${link.link_name}`)}` }));
    const provider = put(keys[2], 2, () => providerNode(link.provider_id, link.link_name, link.provider_name));
    for (const node of [actor, contract, provider]) node.links.push(link);
    const rates = [actor.rate, provider.rate].filter((rate) => rate !== null);
    const rate = link.state === "ok" && rates.length ? Math.min(...rates) : 0;
    edge(actor, contract, link, rate);
    edge(contract, provider, link, link.state === "ok" ? provider.rate ?? 0 : 0);
  }
  const linked = new Set(allLinks.flatMap((link) => [`a ${link.actor_id}`,
    providerKey(link.provider_id, link.link_name)]));
  const alone = (key, column, make) => {
    if (nodes.has(key) || linked.has(key)) return;
    if (!fits([key])) hidden++;
    else put(key, column, () => ({ ...make(), isAlone: true }));
  };
  for (const each of foundProviders) {
    alone(providerKey(each.id, each.link_name), 2, () => providerNode(each.id, each.link_name, each.name));
  }
  for (const actor of found) alone(`a ${actor.id}`, 0, () => actorNode(actor.id, actor.name));
  const all = [...nodes.values()];
  const columns = [0, 1, 2].map((column) => all.filter((node) => node.column === column));
  arrange(columns, [...edges.values()]);
  return { nodes, edges: [...edges.values()], columns, hidden };
}

/** Orders the nodes of each column by the mean place of their neighbours, so that few edges cross. */
function arrange(columns, edges) {
  const number = () => columns.forEach((nodes) => nodes.forEach((node, at) => {
    node.at = at;
    node.share = (at + 0.5) / nodes.length;
  }));
  const sort = (column, side, other) => {
    for (const node of columns[column]) {
      const near = edges.filter((edge) => edge[side] === node);
      node.mean = near.length ? near.reduce((sum, edge) => sum + edge[other].share, 0) / near.length : 2;
    }
    columns[column].sort((a, b) => !!a.isAlone - !!b.isAlone || a.mean - b.mean || (a.title < b.title ? -1 : 1));
    number();
  };
  columns.forEach((nodes) => nodes.sort((a, b) => !!a.isAlone - !!b.isAlone || (a.title < b.title ? -1 : 1)));
  number();
  for (let turn = 0; turn < 3; turn++) {
    sort(1, "from", "to");
    sort(1, "to", "from");
    sort(2, "to", "from");
    sort(0, "from", "to");
  }
}

const describe = (node) => {
  if (!node.links.length) return `${node.kind} ${node.title}: no link`;
  const [link] = node.links;
  const wrong = node.links.filter((each) => each.state !== "ok");
  if (node.links.length > 1) {
    return `${node.kind} ${node.title}: ${plural(node.links.length, "link")}${wrong.length ? `, ${wrong.length} not ok`
      : ""}`;
  }
  return `${link.actor_name || shortKey(link.actor_id)} uses ${link.provider_name || shortKey(link.provider_id)} for ` +
    `${link.contract_id} under link name ${link.link_name}: ${link.problem || linkWord(link.state)}`;
};

function Plane({ model }) {
  const box = useRef(null);
  const [sight] = useSight(box, { top: 0, width: 960, height: 480 + HEAD });
  const view = { ...sight, height: sight.height - HEAD };
  const [hotKey, setHot] = useState(null);
  const width = Math.max(760, view.width);
  const nodeWidth = Math.min(340, Math.round(width * 0.25));
  const gap = (width - 2 * PAD - 3 * nodeWidth) / 2;
  const left = (column) => PAD + column * (nodeWidth + gap);
  const tallest = Math.max(...model.columns.map((nodes) => nodes.length)) * ROW + PAD;
  const height = Math.max(tallest, 200);
  const most = Math.max(0, height - view.height);
  const top = Math.min(view.top, most);
  // Each column reaches its end as the tallest does, so that short ones stay in sight.
  const start = (column) => {
    const own = model.columns[column].length * ROW + PAD;
    const frame = Math.min(view.height, height);
    return own <= frame ? top + (frame - own) / 2 : top - (most ? top / most : 0) * (own - frame);
  };
  const starts = [0, 1, 2].map(start);
  const y = (node) => starts[node.column] + PAD / 2 + node.at * ROW + (ROW - NODE) / 2;
  const hot = model.nodes.get(hotKey);
  const isHotLink = (link) => hot.links.includes(link);
  const isHot = (node) => node === hot || node.links.some(isHotLink);
  const reveal = (node) => {
    const own = model.columns[node.column].length * ROW + PAD;
    const at = y(node) - top;
    if (most && own > view.height && (at < 0 || at + NODE > view.height)) {
      box.current.scrollTop = most * Math.max(0, Math.min(1, (node.at * ROW - view.height / 2) / (own - view.height)));
    }
  };
  const keys = (event) => {
    const node = model.nodes.get(event.target.closest("[data-node]")?.dataset.node);
    if (!node) return;
    const column = model.columns[node.column];
    const beside = (side) => model.edges.find((edge) => edge[side === 1 ? "from" : "to"] === node)?.[side === 1 ? "to"
      : "from"];
    const to = { ArrowDown: () => column[node.at + 1], ArrowUp: () => column[node.at - 1], ArrowRight: () => beside(1),
      ArrowLeft: () => beside(-1), Home: () => column[0], End: () => column[column.length - 1] }[event.key]?.();
    if (!to) return;
    event.preventDefault();
    reveal(to);
    requestAnimationFrame(() => box.current?.querySelector(`[data-node="${CSS.escape(to.key)}"]`)?.focus({
      preventScroll: true }));
  };
  const isNear = (node) => y(node) - top > -2 * ROW && y(node) - top < view.height + ROW;
  const isDense = model.edges.length > DENSE;
  // Edges that lead out of sight would only darken the picture, unless they are asked for.
  const edges = model.edges.map((edge) => ({ edge, isOn: !!hot && edge.links.some(isHotLink) }))
    .filter(({ edge, isOn }) => isOn || (isNear(edge.from) && isNear(edge.to)));
  const path = (edge) => {
    const x1 = left(edge.from.column) + nodeWidth;
    const x2 = left(edge.to.column);
    const bend = (x2 - x1) * 0.5;
    const [y1, y2] = [y(edge.from) + NODE / 2, y(edge.to) + NODE / 2];
    return `M${x1} ${y1.toFixed(1)}C${x1 + bend} ${y1.toFixed(1)} ${x2 - bend} ${y2.toFixed(1)} ${x2} ${y2.toFixed(1)}`;
  };
  return html`<div class=${classes("graph", hot && "has-hot")} ref=${box} onKeyDown=${keys}
    onPointerLeave=${() => setHot(null)}>
    <div class="graph-heads" style=${{ width: `${width}px` }} aria-hidden="true">${TITLES.map((title, column) =>
      html`<span key=${title} style=${{ left: `${left(column)}px` }}>${title} <span class="count">
      ${model.columns[column].length}</span></span>`)}</div>
    <div class="graph-plane" style=${{ width: `${width}px`, height: `${height}px` }}>
      <svg width=${width} height=${height} aria-hidden="true" focusable="false">${edges.map(({ edge, isOn }) => {
        const d = path(edge);
        const thick = 1.5 + Math.min(4.5, Math.log10(1 + edge.rate) * (isDense && edge.from.column === 0 ? 0.8 : 1.7));
        return html`<g key=${edge.key} class=${classes("edge", `edge-${edge.state}`, isOn && "hot")}>
          <path d=${d} style=${{ strokeWidth: thick.toFixed(1) }} />
          ${edge.rate > 0 && edges.length <= FLOWS_MAX && html`<path class="flow" d=${d} style=${{
            strokeWidth: Math.max(1.5, thick - 1).toFixed(1),
            animationDuration: `${Math.max(0.5, 3 - Math.log10(1 + edge.rate)).toFixed(1)}s` }} />`}</g>`;
      })}</svg>
      ${TITLES.map((title, column) => html`<ul key=${title} aria-label=${title}>${model.columns[column].map((node) =>
        html`<li key=${node.key}><a data-node=${node.key} href=${node.href}
          class=${classes("node", node.tone && `tone-${node.tone}`, node.isAlone && "alone",
            hot && isHot(node) && "hot")}
          style=${{ left: `${left(column)}px`, top: `${y(node).toFixed(1)}px`, width: `${nodeWidth}px` }}
          onPointerEnter=${() => setHot(node.key)} onFocus=${() => {
            setHot(node.key);
            reveal(node);
          }} onBlur=${() => setHot(null)}>
          <span class="node-title">${node.title}</span>
          <span class="node-sub">${node.isAlone ? join("no link", node.sub) : node.sub}</span><span
            class="sr-only">${describe(node)}</span></a></li>`)}</ul>`)}
    </div>
  </div>
  <div class="graph-foot">${hot ? html`<span class="graph-words">${describe(hot)}</span>` : html`
    ${LINK_STATES.map((state) => html`<span key=${state} class="graph-key"><svg width="26" height="6" aria-hidden="true"
      class=${`edge edge-${state}`}><path d="M0 3H26" /></svg> ${linkWord(state)}</span>`)}
    <span class="muted">The wider an edge, the more calls.</span>`}</div>`;
}

/** The same on a phone: the links grouped by actor. */
function Grouped({ model }) {
  const withLinks = model.columns[0].filter((node) => !node.isAlone);
  const alone = [...model.columns[0], ...model.columns[2]].filter((node) => node.isAlone);
  return html`<div class="graph-list">${withLinks.map((node) => html`<section key=${node.key} class="card">
      <h2 class="graph-way"><${ActorLink} id=${node.links[0].actor_id} name=${node.links[0].actor_name} />
        ${node.sub && html`<span class="muted small">${node.sub}</span>`}</h2>
      <ul>${node.links.map((link) => html`<li key=${`${link.contract_id} ${link.link_name}`}>
        <div class="graph-way"><span class="mono">${link.contract_id}</span><${Icon} name="chevronRight" size=${12} />
          <${ProviderLink} id=${link.provider_id} linkName=${link.link_name} name=${link.provider_name} />
          ${link.link_name !== "default" && html`<span class="muted">${link.link_name}</span>`}
          <${LinkState} state=${link.state} problem=${link.problem} /></div>
        ${link.problem && html`<p class="muted small">${link.problem}</p>`}
        ${link.urls.map((url) => html`<p key=${url} class="small"><${ExternalLink} url=${url} /></p>`)}</li>`)}</ul>
    </section>`)}
    ${alone.length > 0 && html`<section class="card"><h2>Without a link</h2><ul>${alone.map((node) =>
      html`<li key=${node.key} class="graph-way"><a href=${node.href}>${node.title}</a><span class="muted small">
      ${join(node.kind.toLowerCase(), node.sub)}</span></li>`)}</ul></section>`}</div>`;
}

/**
 * @param {{links: object[], allLinks: object[], actors: object[], found: object[], providers: object[],
 *   foundProviders: object[], isPart: boolean, rest: number}} props
 *   `links`, `found` and `foundProviders` fit the search; `allLinks`, `actors` and `providers` are all that were
 *   fetched, and with `isPart` there are more; `rest` is how many more fit the search.
 */
export function LinkGraph(props) {
  const [isPhone, setPhone] = useState(PHONE.matches);
  useEffect(() => {
    const change = () => setPhone(PHONE.matches);
    PHONE.addEventListener("change", change);
    return () => PHONE.removeEventListener("change", change);
  }, []);
  const model = useMemo(() => modelOf(props), [props.links, props.actors, props.found, props.providers,
    props.foundProviders]);
  const hidden = model.hidden + props.rest;
  return html`<div class="graph-wrap">
    ${hidden > 0 && html`<${Note}>The graph shows ${formatCount(model.nodes.size)} nodes; ${formatCount(hidden)} more
      actors or links fit. Search for a part of a name, a contract or a provider to see fewer.</>`}
    ${isPhone ? html`<${Grouped} model=${model} />` : html`<section class="graph-card"
      aria-label="Links as a graph"><${Plane} model=${model} /></section>`}</div>`;
}
