// Search and filters of the matrix. What is chosen stands in the address.
"use strict";
document.addEventListener("DOMContentLoaded", () => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const form = $("filters");
  const fields = { q: $("f-text"), section: $("f-section"), broker: $("f-target"), verdict: $("f-verdict") };
  const boxes = { differs: $("f-differs"), odd: $("f-odd"), changed: $("f-changed") };

  const rows = all("tr.claim").map((row) => {
    const cells = all("td[data-label]", row).filter((cell) => cell.className !== "none");
    return {
      row,
      text: row.textContent.toLowerCase(),
      section: row.parentElement.dataset.section,
      // Of a chip, what the filters ask for; each with the broker it stands under.
      chips: cells.flatMap((cell) => all("a.chip,a.mini", cell).map((chip) => ({
        label: cell.dataset.label,
        odd: Boolean(chip.querySelector(".flag")),
        changed: /V/.test((chip.querySelector(".spark path") || { getAttribute: () => "" }).getAttribute("d")),
        // By its class: the word itself may be said in another language.
        verdict: /\b[vc]-([A-Z]+)/.exec((chip.querySelector(".case-verdict") || chip).className)[1],
      }))),
    };
  });
  const columns = all("thead th[data-column]").map((head) => ({
    head, name: head.dataset.column, cells: all(`td:nth-child(${head.cellIndex + 1})`, head.closest("table")),
  }));
  form.hidden = false;

  // "kafka" is every version of it, "kafka 4.3.1" that one.
  const under = (label, broker) => !broker || label === broker || (!broker.includes(" ") && label.startsWith(broker + " "));

  function read() {
    const said = brokerproof.chosen();
    for (const [name, field] of Object.entries(fields)) field.value = said.get(name) || "";
    for (const field of [fields.section, fields.broker, fields.verdict]) if (field.selectedIndex < 0) field.value = "";
    for (const [name, box] of Object.entries(boxes)) box.checked = said.has(name);
  }

  function write() {
    const said = new URLSearchParams();
    for (const [name, field] of Object.entries(fields)) if (field.value) said.set(name, field.value);
    for (const [name, box] of Object.entries(boxes)) if (box.checked) said.set(name, "1");
    brokerproof.choose(said);
  }

  function apply() {
    const words = fields.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const broker = fields.broker.value;
    let found = 0;
    for (const { row, text, section, chips } of rows) {
      const mine = chips.filter((chip) => under(chip.label, broker));
      const told = new Set(mine.map((chip) => chip.verdict).filter((v) => v !== "UNSUPPORTED" && v !== "SKIP"));
      const show =
        mine.length > 0 &&
        (!fields.section.value || section === fields.section.value) &&
        (!fields.verdict.value || mine.some((chip) => chip.verdict === fields.verdict.value)) &&
        (!boxes.differs.checked || told.size > 1) &&
        (!boxes.odd.checked || mine.some((chip) => chip.odd)) &&
        (!boxes.changed.checked || mine.some((chip) => chip.changed)) &&
        words.every((w) => text.includes(w));
      row.hidden = !show;
      found += show;
    }
    for (const { head, name, cells } of columns) {
      const hide = !under(name, broker);
      if (head.hidden === hide) continue;
      head.hidden = hide;
      for (const cell of cells) cell.hidden = hide;
    }
    for (const body of all("tbody[data-section]")) body.hidden = !all("tr.claim", body).some((row) => !row.hidden);
    for (const part of all(".part")) part.hidden = !all("tr.claim", part).some((row) => !row.hidden);
    $("found").textContent = found === rows.length ? `${found}` : `${found} / ${rows.length}`;
    $("nothing").hidden = found > 0;
  }

  form.addEventListener("input", () => { write(); apply(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  $("f-reset").addEventListener("click", () => { form.reset(); write(); apply(); });
  addEventListener("hashchange", () => { read(); apply(); });
  read();
  apply();
  document.documentElement.dataset.ready = "1";
});
