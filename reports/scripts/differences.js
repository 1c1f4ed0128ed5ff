// The difference of two runs or two versions: what is newly broken, newly kept, measured otherwise, added, removed.
"use strict";

// --- the comparison itself, without a page
const differences = (() => {
  const BAD = { claim: ["VIOLATED"], case: ["FAIL", "CODE", "DEV", "UNIMPL"] };
  const GOOD = { claim: ["HOLDS"], case: ["PASS", "NONSTRICT", "INFO"] };
  const standing = (what, word) => (GOOD[what].includes(word) ? "good" : BAD[what].includes(word) ? "bad" : "open");

  // How likely it is that n and m values of one kind lie apart by chance: two of all orders in which they could lie.
  function apart(n, m) {
    let orders = 1;
    for (let i = 1; i <= m; i++) orders = (orders * (n + i)) / i;
    return 2 / orders;
  }

  // Figures [name, unit, value, low, high, n]. Changed: 95 % intervals that do not touch (n = 0), or ranges over n trials
  // that do not touch and would not by chance in 19 of 20.
  function figureChanges(a, b) {
    const before = new Map(a.map((f) => [f[0], f]));
    return b.flatMap((now) => {
      const old = before.get(now[0]);
      if (!old || !(old[4] < now[3] || now[4] < old[3])) return [];
      if ((old[5] || now[5]) && apart(Math.max(1, old[5]), Math.max(1, now[5])) >= 0.05) return [];
      return [{ name: now[0], unit: now[1], old, now }];
    });
  }

  // a, b: Map of name -> {what, verdict, revision, figures, …}.  aligned: whether both ran the same version of the suites.
  function compare(a, b, aligned) {
    const out = { broken: [], kept: [], otherwise: [], figures: [], added: [], removed: [], reworked: [], same: 0, left: 0 };
    for (const [name, now] of b) {
      const old = a.get(name);
      if (!old) { aligned ? out.added.push({ now }) : out.left++; continue; }
      if (old.revision !== now.revision) { out.reworked.push({ old, now }); continue; }
      const [was, is] = [standing(old.what, old.verdict), standing(now.what, now.verdict)];
      const changes = figureChanges(old.figures, now.figures);
      if (was === "good" && is === "bad") out.broken.push({ old, now, changes });
      else if (was === "bad" && is === "good") out.kept.push({ old, now, changes });
      else if (old.verdict !== now.verdict) out.otherwise.push({ old, now, changes });
      else if (changes.length) out.figures.push({ old, now, changes });
      else out.same++;
    }
    for (const [name, old] of a) if (!b.has(name)) aligned ? out.removed.push({ old }) : out.left++;
    return out;
  }
  return { compare, figureChanges, apart, standing };
})();

document.addEventListener("DOMContentLoaded", async () => {
  const form = document.getElementById("sides");
  if (!form) return;
  const $ = (id) => document.getElementById(id);
  const { make, load } = brokerproof;
  const place = $("differences");
  let data;
  try {
    data = await load("cells", "data/cells.js");
  } catch (error) {
    place.replaceChildren(make("p", { class: "alert" }, error.message));
    return;
  }

  // --- sides: run:<number> or version:<product> <version>
  for (const select of [$("side-a"), $("side-b")]) {
    const runs = data.runs.map((run, i) => make("option", { value: `run:${i}`, translate: "no" }, `${run.id}  ${run.started.slice(0, 16).replace("T", " ")}`)).reverse();
    const versions = data.targets.map((t) => make("option", { value: `version:${t.join(" ")}`, translate: "no" }, t.join(" ")));
    select.replaceChildren(make("optgroup", { label: "versions" }, ...versions), make("optgroup", { label: "runs" }, ...runs));
  }

  async function side(name, other) {
    const [kind, id] = [name.slice(0, name.indexOf(":")), name.slice(name.indexOf(":") + 1)];
    const rows = kind === "run" ? await load(`run-${id}`, `data/run-${id}.js`) : await load("latest", "data/latest.js");
    const found = new Map();
    const suites = new Set();
    for (const [index, run, verdict, revision, figures] of rows) {
      const [what, claim, variant, product, version, configuration, file, , kindOf] = data.cells[index];
      if (kind === "version" && id !== `${product} ${version}`) continue;
      suites.add(data.runs[run].suites);
      // Two versions are compared cell by cell; two products by claim and variant, their settings have other names.
      const otherProduct = other.startsWith("version:") && other.slice(8).split(" ")[0];
      // A run beside a version: what the run says of that product, in whatever version it ran.
      if (kind === "run" && otherProduct && product !== otherProduct) continue;
      const key = kind === "run" && !otherProduct ? [what, claim, variant, product, version, configuration]
        : [what, claim, variant, otherProduct === product || !otherProduct ? configuration : ""];
      found.set(JSON.stringify(key), { what, claim, variant, product, version, configuration, file, kind: kindOf, verdict, revision, figures });
    }
    return { found, suites: [...suites].sort() };
  }

  const three = (x) => (Math.abs(x) >= 1000 ? Math.round(x).toLocaleString("en") : Number(x.toPrecision(3)).toString());
  const measured = (f) => (f[0] === "rate" ? `${Math.round(f[2] * 100)} % (${Math.round(f[3] * 100)}–${Math.round(f[4] * 100)} %)`
    : `${three(f[2])} ${f[1]} (${three(f[3])}–${three(f[4])}${f[5] ? `, n ${f[5]}` : ""})`);

  function verdict(one) {
    if (one.what === "case") return make("span", { class: `case-verdict c-${one.verdict}` }, make("span", {}, one.verdict));
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("class", "icon");
    svg.setAttribute("viewBox", "0 0 16 16");
    svg.setAttribute("aria-hidden", "true");
    const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    use.setAttribute("href", `#s-${one.verdict}`);
    svg.append(use);
    return make("span", { class: `badge v-${one.verdict}` }, svg, make("span", {}, one.verdict));
  }

  function line({ old, now, changes = [] }) {
    const one = now || old;
    const where = [one.variant, old && now && old.version !== now.version ? "" : `${one.product} ${one.version}`].filter(Boolean).join(" · ");
    return make("li", { "data-text": `${one.claim} ${one.variant} ${one.product} ${one.version} ${one.configuration}`.toLowerCase() },
      make("span", { class: "from-to" }, old ? verdict(old) : null, old && now ? make("span", { class: "hint" }, "→") : null, now ? verdict(now) : null),
      make("span", {},
        make("a", { href: `cells/${one.file}.html`, translate: "no" }, make("code", {}, one.claim), ` ${where}`), " ",
        make("span", { class: "kind" }, one.kind),
        one.configuration ? make("span", { class: "sets", translate: "no" }, one.configuration) : null,
        changes.length ? make("ul", { class: "plain changes", translate: "no" }, ...changes.map((c) =>
          make("li", {}, make("b", {}, c.name), ` ${measured(c.old)} → ${measured(c.now)}`))) : null));
  }

  const fold = (length, list) => (length > 12 ? make("details", { class: "fold" }, make("summary", {}, "Show them"), list) : list);

  const PARTS = [
    ["broken", "Newly broken"], ["kept", "Newly kept"], ["otherwise", "Another verdict"], ["figures", "Changed figures"],
    ["added", "Added"], ["removed", "Removed"], ["reworked", "Not compared: the claim or case was revised"],
  ];

  async function show() {
    const [a, b] = [$("side-a").value, $("side-b").value];
    let sides;
    try {
      sides = await Promise.all([side(a, b), side(b, a)]);
    } catch (error) {
      place.replaceChildren(make("p", { class: "alert" }, error.message));
      return;
    }
    const aligned = sides[0].suites.join() === sides[1].suites.join();
    const found = differences.compare(sides[0].found, sides[1].found, aligned);
    const parts = PARTS.filter(([name]) => found[name].length).map(([name, heading]) =>
      make("section", { class: "card", "data-part": name }, make("h2", {}, make("span", {}, heading), " ", make("span", { class: "hint", translate: "no" }, `${found[name].length}`)),
        // What only one of them ran is seldom what one came for: long lists of it are folded.
        fold(!found[name][0].old || !found[name][0].now ? found[name].length : 0, make("ul", { class: "plain odd" }, ...found[name].map(line)))));
    const notes = [];
    if (!aligned) {
      notes.push(make("p", { class: "alert" }, make("span", {}, "The versions of the suites differ; only what is in both is compared."), " ",
        make("span", { translate: "no" }, `${sides[0].suites.join(", ")} → ${sides[1].suites.join(", ")}`), " ", make("span", {}, "Left out:"), " ", make("b", {}, `${found.left}`)));
    }
    place.replaceChildren(...notes, make("p", { class: "hint" }, make("span", {}, "cells that agree:"), " ", make("b", { id: "agree" }, `${found.same}`)), ...parts,
      make("p", { class: "hint" }, "A figure has changed where its 95 % intervals do not touch; a range over trials counts where as many trials would lie apart by chance in less than one of 20 cases. For a hazard, kept means that the harm was seen."));
    filter();
    brokerproof.say(place);
    document.documentElement.dataset.ready = "1";
  }

  function filter() {
    const words = $("d-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const item of place.querySelectorAll("li[data-text]")) item.hidden = !words.every((w) => item.dataset.text.includes(w));
  }

  function read() {
    const said = brokerproof.chosen();
    // The latest run that repeats what one before it had, else two versions. A handful of cells that were asked again, after
    // runs that repeat all, is not what one comes for.
    const most = Math.max(...data.runs.map((run) => run.common));
    const last = data.runs.findLastIndex((run) => run.previous !== null && 2 * run.common >= most);
    const start = last >= 0 ? [`run:${data.runs[last].previous}`, `run:${last}`] : [`version:${(data.targets[0] || []).join(" ")}`, `version:${(data.targets[data.targets.length - 1] || []).join(" ")}`];
    for (const [i, name] of ["a", "b"].entries()) {
      $(`side-${name}`).value = said.get(name) || start[i];
      if ($(`side-${name}`).selectedIndex < 0) $(`side-${name}`).value = start[i];
    }
    $("d-text").value = said.get("q") || "";
    show();
  }
  function write() {
    const said = new URLSearchParams({ a: $("side-a").value, b: $("side-b").value });
    if ($("d-text").value) said.set("q", $("d-text").value);
    brokerproof.choose(said);
  }
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", () => { write(); show(); });
  $("d-text").addEventListener("input", () => { write(); filter(); });
  $("swap").addEventListener("click", () => {
    [$("side-a").value, $("side-b").value] = [$("side-b").value, $("side-a").value];
    write();
    show();
  });
  addEventListener("hashchange", read);
  form.hidden = false;
  read();
});
