// Filters, links into folded parts, copy buttons. Without it the page is whole: everything stands in the HTML.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const { cells } = JSON.parse($("data").textContent);

  // --- a link to a folded part opens it and all that it lies in
  function reveal() {
    let target = null;
    try {
      target = $(decodeURIComponent(location.hash.slice(1)));
    } catch {
      return; // not a name of ours
    }
    if (!target) return;
    for (let at = target; at; at = at.parentElement) {
      if (at.tagName === "DETAILS") at.open = true;
      at.hidden = false;
    }
    target.scrollIntoView();
    const summary = target.querySelector("summary");
    if (summary) summary.focus({ preventScroll: true });
  }
  addEventListener("hashchange", reveal);
  // A second click on the same link changes no hash.
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[href^='#']");
    if (link && link.hash === location.hash) reveal();
  });

  // --- copy buttons
  function copied(button, done) {
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => (button.textContent = "Copy"), 1600);
  }
  for (const button of all("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        copied(button, true);
      } catch {
        // Pages from disk may not use the clipboard; selecting leaves one key to press.
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        let done = false;
        try {
          done = document.execCommand("copy");
        } catch { /* then by hand */ }
        copied(button, done);
      }
    });
  }

  // --- filters
  const form = $("filters");
  if (form) {
    const chips = new Map(all("a.chip").map((chip) => [chip.dataset.cell, chip]));
    const heads = all("th[data-column]");
    form.hidden = false;
    all(".buttons").forEach((span) => (span.hidden = false));

    function apply() {
      const words = $("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
      const broker = $("f-broker").value;
      const verdicts = new Set(all("input[name=verdict]:checked", form).map((box) => box.value));
      const odd = $("f-odd").checked;
      let found = 0;
      for (const cell of cells) {
        const show =
          (!broker || cell.broker === broker) &&
          verdicts.has(cell.verdict) &&
          (!odd || cell.unexpected) &&
          words.every((word) => cell.text.includes(word));
        found += show;
        chips.get(cell.id).hidden = !show;
        $(cell.id).hidden = !show;
      }
      for (const [i, head] of heads.entries()) {
        const hide = Boolean(broker) && head.dataset.column !== broker;
        head.hidden = hide;
        for (const row of all("tr.claim")) row.cells[i + 1].hidden = hide;
      }
      for (const body of all(".matrix tbody")) {
        let rows = 0;
        for (const row of all("tr.claim", body)) {
          row.hidden = !all("a.chip", row).some((chip) => !chip.hidden);
          rows += !row.hidden;
        }
        body.hidden = !rows;
      }
      $("found").textContent = found === cells.length ? `${found} cells` : `${found} of ${cells.length} cells`;
      $("nothing").hidden = found > 0;
    }
    form.addEventListener("input", apply);
    form.addEventListener("submit", (event) => event.preventDefault());
    $("f-reset").addEventListener("click", () => {
      form.reset();
      apply();
    });
    document.addEventListener("keydown", (event) => {
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
      if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
      event.preventDefault();
      $("f-text").focus();
    });
    const shown = () => all("details.cell").filter((cell) => !cell.hidden);
    $("open-all").addEventListener("click", () => shown().forEach((cell) => (cell.open = true)));
    $("close-all").addEventListener("click", () => shown().forEach((cell) => (cell.open = false)));
    apply();
  }

  // --- paper has nothing to click: what is open on screen is printed, and of a page all closed, every cell
  let opened = [];
  addEventListener("beforeprint", () => {
    const shown = all("details.cell").filter((cell) => !cell.hidden);
    if (shown.some((cell) => cell.open)) return;
    opened = shown;
    opened.forEach((cell) => (cell.open = true));
  });
  addEventListener("afterprint", () => {
    opened.forEach((cell) => (cell.open = false));
    opened = [];
  });

  reveal();
})();
