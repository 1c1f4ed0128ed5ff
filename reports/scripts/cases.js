// Filters of the matrix of cases; what is chosen stands in the address, so a view can be sent to somebody.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = $("filters");
  const fields = { q: $("f-text"), section: $("f-section"), level: $("f-level"), target: $("f-target"), verdict: $("f-verdict") };
  const boxes = { differs: $("f-differs"), loud: $("f-loud"), odd: $("f-odd") };
  const rows = all("tr.case").map((row) => ({
    row,
    text: row.cells[0].textContent.toLowerCase(),
    section: row.parentElement.dataset.section,
    cells: all("td[data-label]", row),
  }));
  form.hidden = false;

  function read() {
    const said = new URLSearchParams(location.hash.slice(1));
    for (const [name, field] of Object.entries(fields)) field.value = said.get(name) || "";
    for (const [name, box] of Object.entries(boxes)) box.checked = said.has(name);
  }

  function write() {
    const said = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value) said.set(name, field.value);
    for (const [name, box] of Object.entries(boxes)) if (box.checked) said.set(name, "1");
    if (location.hash.slice(1) !== said.toString()) location.replace("#" + said);
  }

  function apply() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const target = fields.target.value;
    let found = 0;
    for (const { row, text, section, cells } of rows) {
      const mine = cells.filter((cell) => cell.dataset.verdict && (!target || cell.dataset.label === target));
      const show =
        mine.length > 0 &&
        (!fields.section.value || section === fields.section.value) &&
        (!fields.level.value || row.dataset.level === fields.level.value) &&
        (!fields.verdict.value || mine.some((cell) => cell.dataset.verdict === fields.verdict.value)) &&
        (!boxes.differs.checked || row.dataset.differs === "1") &&
        (!boxes.loud.checked || mine.some((cell) => !["PASS", "INFO", "SKIP"].includes(cell.dataset.verdict))) &&
        (!boxes.odd.checked || mine.some((cell) => cell.dataset.odd)) &&
        words.every((word) => text.includes(word));
      row.hidden = !show;
      found += show;
      for (const cell of cells) cell.hidden = Boolean(target) && cell.dataset.label !== target;
    }
    for (const head of all("th[data-column]")) head.hidden = Boolean(target) && head.dataset.column !== target;
    $("found").textContent = found === rows.length ? `${found} cases` : `${found} of ${rows.length} cases`;
    $("nothing").hidden = found > 0;
  }

  form.addEventListener("input", () => { write(); apply(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  $("f-reset").addEventListener("click", () => { form.reset(); write(); apply(); });
  addEventListener("hashchange", () => { read(); apply(); });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    fields.q.focus();
  });
  read();
  apply();
})();
