// Draws the timeline of a trial at the level of detail that is looked at; finer levels are read from disk for their stretch.
// Keys on the drawing: + and - zoom, arrows move, 0 shows all. Mouse: drag over a stretch, double click shows all.
"use strict";
function drawTimeline(place, name, data) {
  const { make, load } = brokerproof;
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 1100, LEFT = 56, RIGHT = 10, POINTS = 300;
  const end = Math.max(data.bins * data.bin_s, ...data.faults.flatMap((f) => [f.healed_s, f.healing_s, f.injected_s]).filter((t) => t !== null));
  let [from, to] = [0, end];
  let turn = 0;

  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "timeline");
  svg.setAttribute("role", "img");
  svg.setAttribute("tabindex", "0");
  const said = make("span", { class: "hint stretch", translate: "no", role: "status" });
  const button = (words, action) => { const b = make("button", { type: "button" }, words); b.addEventListener("click", action); return b; };
  const bar = make("p", { class: "zoom-bar ours" }, button("Zoom in", () => zoom(0.5)), " ", button("Zoom out", () => zoom(2)), " ", button("Earlier", () => move(-0.5)), " ",
    button("Later", () => move(0.5)), " ", button("All", () => look(0, end)), " ", said);
  place.replaceChildren(svg);
  place.closest("figure").before(bar);

  // --- lines of the nodes' logs: marks on the drawing, and a list of those of the stretch, read when it is opened
  const LINES = 200;
  const list = make("ol", { class: "log-lines", tabindex: "0", "aria-label": "log lines" }), rest = make("p", { class: "hint", role: "status" });
  const fold = data.log && make("details", { class: "fold log" }, make("summary", { class: "ours" }, "Log lines of this stretch"), list, rest);
  if (fold) {
    place.closest("figure").after(fold);
    fold.addEventListener("toggle", () => tell());
  }
  async function tell() {
    if (!fold || !fold.open) return;
    let lines;
    try { lines = await load(`${name}-log`, `details/${name}-log.js`); } catch (error) { rest.textContent = error.message; return; }
    const here = lines.filter(([at]) => at >= from - (from === 0 ? 1 : 0) && at <= to + (to === end ? 1 : 0));
    // What a node wrote is evidence; only the name of its level is ours.
    const theirs = (tag, text, of = "") => make(tag, { translate: "no", class: of || null }, text);
    list.replaceChildren(...here.slice(0, LINES).map(([at, node, level, text]) =>
      make("li", { class: `log-${level}` }, theirs("span", `${at.toFixed(3)} s`, "num"), " ", theirs("b", node), " ", make("span", { class: "level ours" }, level === "other" ? "" : level), " ", theirs("span", text))));
    const more = here.length - LINES, counted = (n, words) => [theirs("span", `${n} `), words, " "];
    rest.replaceChildren(...(more > 0 ? counted(more, "more here: zoom in.") : here.length ? [] : ["None here.", " "]),
      ...(data.log.left_out ? counted(data.log.left_out, "lines without error or warning, away from faults, are in the run folder only.") : []));
    brokerproof.say(fold);
  }

  const shape = (tag, attributes, text) => {
    const element = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const x = (s) => LEFT + (Math.min(Math.max(s, from), to) - from) / (to - from) * (WIDTH - LEFT - RIGHT);

  function look(a, b) {
    const wide = Math.min(end, Math.max(b - a, Math.min(end, 8 * data.bin_s)));
    from = Math.min(Math.max(0, a), end - wide);
    to = from + wide;
    draw();
  }
  const zoom = (by) => look((from + to) / 2 - (to - from) * by / 2, (from + to) / 2 + (to - from) * by / 2);
  const move = (by) => look(from + (to - from) * by, to + (to - from) * by);

  // The coarsest level that still has enough points for the stretch, with as much of it as is needed.
  async function series() {
    let level = data.levels - 1;
    while (level > 0 && (to - from) / (data.bin_s * data.factor ** level) < POINTS / 2) level--;
    const bin = data.bin_s * data.factor ** level;
    if (level === data.levels - 1) return { bin, first: 0, rows: data.series };
    const first = Math.floor(from / bin / data.part);
    const last = Math.min(Math.floor(to / bin / data.part), Math.floor((Math.ceil(data.bins / data.factor ** level) - 1) / data.part));
    const parts = await Promise.all(Array.from({ length: last - first + 1 }, (_, i) => load(`${name}-${level}-${first + i}`, `details/${name}-${level}-${first + i}.js`)));
    return { bin, first: first * data.part, rows: parts[0].map((_, i) => parts.flatMap((part) => part[i])) };
  }

  function points({ bin, first, rows }, row, rate) {
    const begin = Math.max(0, Math.floor(from / bin) - first), stop = Math.min(rows[row].length, Math.ceil(to / bin) - first);
    const group = Math.max(1, Math.ceil((stop - begin) / POINTS));
    const out = [];
    for (let i = begin; i < stop; i += group) {
      const known = rows[row].slice(i, Math.min(stop, i + group)).filter((v) => v !== null);
      const middle = (first + i + Math.min(group, stop - i) / 2) * bin;
      if (!known.length) out.push([middle, null]);
      else out.push([middle, rate ? known.reduce((a, b) => a + b, 0) / (bin * Math.min(group, stop - i)) : Math.max(...known)]);
    }
    return out;
  }

  const ceiling = (v) => { const e = 10 ** Math.floor(Math.log10(v || 1)); return [1, 2, 5, 10].map((m) => m * e).find((c) => c >= v * 0.999) || 10 * e; };

  function path(of, box, low, high, class_, area) {
    let d = "", open = false, lastX = 0;
    const y = (v) => box[1] - (Math.min(Math.max(v, low), high) - low) / (high - low) * (box[1] - box[0]);
    const close = () => { if (open) d += area ? `L${lastX} ${box[1]}` : ""; open = false; };
    for (const [at, value] of of) {
      if (value === null) { close(); continue; }
      lastX = x(at).toFixed(1);
      if (!open) d += area ? `M${lastX} ${box[1]}L${lastX} ${y(value).toFixed(1)}` : `M${lastX} ${y(value).toFixed(1)}h1`;
      else d += `L${lastX} ${y(value).toFixed(1)}`;
      open = true;
    }
    close();
    return shape("path", { class: `line line-${class_}${area ? " area" : ""}`, d });
  }

  async function draw() {
    const mine = ++turn;
    let found;
    try { found = await series(); } catch (error) { said.textContent = error.message; return; }
    if (mine !== turn) return; // somebody has zoomed on meanwhile
    const faults = data.faults.filter((f) => f.injected_s !== null && f.injected_s <= to && (f.healed_s === null || f.healed_s >= from));
    const top = 6 + 20 * faults.length, upper = [top + 14, top + 124], lower = [top + 158, top + 248];
    const [sent, received] = [points(found, 0, true), points(found, 1, true)];
    const [p50, p99] = [points(found, 2, false), points(found, 3, false)];
    const latencies = [...p50, ...p99].map((p) => p[1]).filter((v) => v !== null && v > 0);
    const bottom = latencies.length ? lower[1] : upper[1];
    const out = [];
    faults.forEach((f, i) => {
      const y = 4 + 20 * i, stop = f.healed_s ?? end, active = Math.min(f.healing_s ?? stop, stop), b = x(f.injected_s);
      if (!f.dry) out.push(shape("rect", { class: "band", x: b, y, width: Math.max(1.5, x(active) - b), height: bottom - y }));
      out.push(shape("rect", { class: f.dry ? "bar dry" : "bar", x: b, y, width: Math.max(1.5, x(active) - b), height: 15 }));
      if (stop > active && !f.dry) out.push(shape("rect", { class: "heal", x: x(active), y, width: Math.max(1, x(stop) - x(active)), height: bottom - y }));
      const label = `${f.fault}${f.targets ? " → " + f.targets : ""}`.slice(0, 56), right = x(stop) + 8 + label.length * 6.4 < WIDTH;
      const inside = !right && b - 6 < label.length * 6.4 + LEFT;
      out.push(shape("text", { class: `fault ${right || inside ? "start" : "end"}`, x: inside ? LEFT + 4 : right ? x(stop) + 6 : b - 6, y: y + 12 }, label));
    });
    const step = ceiling((to - from) / 15);
    for (let mark = Math.ceil(from / step) * step; mark <= to + step / 1e6; mark += step) {
      out.push(shape("path", { class: "axis", d: `M${x(mark)} ${bottom}v5` }), shape("text", { class: "mid", x: x(mark), y: bottom + 18 }, `${Number(mark.toPrecision(6))} s`));
    }
    out.push(shape("path", { class: "axis", d: `M${LEFT} ${bottom}H${WIDTH - RIGHT}` }));
    for (const [at, level] of data.log ? data.log.marks : []) {
      if (at >= from && at <= to) out.push(shape("path", { class: `log-mark log-mark-${level}`, d: `M${x(at).toFixed(1)} ${bottom}v${-5 - 4 * level}` }));
    }
    const most = ceiling(Math.max(1, ...[...sent, ...received].map((p) => p[1] ?? 0)));
    const panel = (box, title, marks, low, high) => {
      out.push(shape("text", { class: "title", x: LEFT, y: box[0] - 6 }, title));
      for (const [value, label] of marks) {
        const y = box[1] - (value - low) / (high - low) * (box[1] - box[0]);
        out.push(shape("path", { class: "grid", d: `M${LEFT} ${y}H${WIDTH - RIGHT}` }), shape("text", { class: "end", x: LEFT - 6, y: y + 4 }, label));
      }
    };
    panel(upper, "operations per second", [0, most / 2, most].map((v) => [v, v.toLocaleString("en")]), 0, most);
    out.push(path(sent, upper, 0, most, "sent", true), path(received, upper, 0, most, "received", false));
    if (latencies.length) {
      const low = Math.floor(Math.log10(Math.min(...latencies))), high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...latencies))));
      const every = Math.max(1, Math.floor((high - low) / 3));
      const marks = [];
      for (let e = low; e <= high; e += every) marks.push([e, (10 ** e).toLocaleString("en", { maximumFractionDigits: 6 })]);
      panel(lower, "send latency, ms (log)", marks, low, high);
      const logs = (of) => of.map(([at, v]) => [at, v !== null && v > 0 ? Math.log10(v) : null]);
      out.push(path(logs(p50), lower, low, high, "p50", false), path(logs(p99), lower, low, high, "p99", false));
    }
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${bottom + 30}`);
    svg.setAttribute("aria-label", `throughput and latency from ${from.toFixed(1)} s to ${to.toFixed(1)} s` + (faults.length ? `; faults: ${faults.map((f) => f.fault).join(", ")}` : ""));
    svg.replaceChildren(...out);
    said.textContent = `${from.toFixed(2)} – ${to.toFixed(2)} s, ${found.bin.toPrecision(3)} s`;
    tell();
    svg.dataset.level = String(Math.round(Math.log(found.bin / data.bin_s) / Math.log(data.factor)));
  }

  // --- by hand
  const second = (event) => {
    const box = svg.getBoundingClientRect();
    return from + ((event.clientX - box.left) / box.width * WIDTH - LEFT) / (WIDTH - LEFT - RIGHT) * (to - from);
  };
  let start = null;
  svg.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse" && event.button === 0) start = [second(event), event.clientX]; });
  addEventListener("pointerup", (event) => {
    if (start && Math.abs(event.clientX - start[1]) > 8) { const stop = second(event); look(Math.min(start[0], stop), Math.max(start[0], stop)); }
    start = null;
  });
  svg.addEventListener("dblclick", () => look(0, end));
  svg.addEventListener("keydown", (event) => {
    const action = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), 0: () => look(0, end) }[event.key];
    if (action && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); action(); }
  });
  draw();
}
