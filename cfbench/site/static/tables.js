"use strict";
// Sorting, filters, tabs, and what stands behind a number on hover and focus.
(() => {
  const $ = window.itables.jQuery;
  const order = $.fn.dataTable.ext.type.order;
  // A cell is sorted by a letter, c of a control or m of a method, and its value: controls stay below, and so do,
  // within each group, rows without a score.
  const within = (compare) => (a, b) => (a[0] === b[0] ? compare(a.slice(1), b.slice(1)) : a[0] < b[0] ? 1 : -1);
  const scores = (sign) => (a, b) => (a === "" || b === "" ? (a === "") - (b === "") : sign * (a - b));
  order["score-asc"] = within(scores(1));
  order["score-desc"] = within(scores(-1));
  order["word-asc"] = within((a, b) => a.localeCompare(b));
  order["word-desc"] = within((a, b) => b.localeCompare(a));

  const filters = [...document.querySelectorAll("[data-filter]")];
  const controls = document.getElementById("controls");
  const weak = document.getElementById("weak");
  const search = document.getElementById("search");

  const isShown = (row) =>
    filters.every((f) => !f.value || row.dataset[f.dataset.filter] === undefined || row.dataset[f.dataset.filter] === f.value) &&
    (controls.checked || !row.classList.contains("control")) &&
    row.cells[0].textContent.toLowerCase().includes(search.value.trim().toLowerCase());

  const made = [...document.querySelectorAll("table.ranked")].map((table) => {
    const heads = [...table.tHead.rows[0].cells];
    const api = $(table).DataTable({
      paging: false,
      info: false,
      autoWidth: false,
      orderClasses: false,
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      order: [],
      columnDefs: heads.map((head, i) => ({
        targets: i,
        type: head.dataset.higher === undefined ? "word" : "score",
        orderSequence: head.dataset.higher === "1" ? ["desc", "asc"] : ["asc", "desc"],
      })),
    });
    api.search.fixed("page", (text, data, index) => isShown(api.row(index).node()));
    return api;
  });

  const update = () => {
    const dataset = filters.find((f) => f.dataset.filter === "dataset")?.value ?? "";
    for (const section of document.querySelectorAll(".dataset")) {
      section.hidden = Boolean(dataset) && section.dataset.dataset !== dataset;
    }
    for (const api of made) {
      api.draw();
      api.columns(".from").visible(!dataset, false);
      const rows = api.rows({ search: "applied" }).nodes().toArray();
      api.columns("[data-higher]").every(function (i) {
        const filled = rows.some((row) => api.cell(row, i).node().textContent !== "");
        const head = this.header();
        const wanted = filled && (weak.checked || !head.classList.contains("weak"));
        if (this.visible() !== wanted) this.visible(wanted, false);
      });
    }
    const first = made[0];
    const shown = first.rows({ search: "applied" }).count();
    document.getElementById("count").textContent = `${shown} of ${first.rows().count()} rows`;
  };

  // One cell of a table takes part in the Tab order; the arrow keys move from it.
  const focusable = (body) => {
    body.querySelector("[tabindex='0']")?.setAttribute("tabindex", "-1");
    body.querySelector("td[data-tip]")?.setAttribute("tabindex", "0");
  };
  const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hide();
    const cell = event.target.closest?.("td[data-tip]");
    if (!cell || !steps[event.key]) return;
    const [down, right] = steps[event.key];
    const rows = [...cell.closest("tbody").rows];
    let [y, x] = [rows.indexOf(cell.parentNode), cell.cellIndex];
    for (;;) {
      [y, x] = [y + down, x + right];
      const next = rows[y]?.cells[x];
      if (!next) return;
      if (next.dataset.tip === undefined) continue;
      cell.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
      event.preventDefault();
      return;
    }
  });

  const tip = document.getElementById("tip");
  const hide = () => {
    tip.hidden = true;
    document.querySelector("[aria-describedby=tip]")?.removeAttribute("aria-describedby");
  };
  // What is said of a cell, after the names of its row and column, which may be out of view.
  const described = (cell) => {
    if (cell.tagName === "TH") return cell.dataset.tip;
    const heading = cell.closest("table").tHead.rows[0].cells[cell.cellIndex];
    return `${cell.parentNode.cells[0].textContent}, ${heading.innerText.replace(/\s+/g, " ").trim()}: ${cell.dataset.tip}`;
  };
  const show = (event) => {
    const cell = event.target.closest?.("[data-tip]");
    if (!cell) return hide();
    hide();
    tip.textContent = described(cell);
    tip.hidden = false;
    cell.setAttribute("aria-describedby", "tip");
    const [place, size] = [cell.getBoundingClientRect(), tip.getBoundingClientRect()];
    tip.style.left = `${Math.max(4, Math.min(place.left, innerWidth - size.width - 4))}px`;
    const fits = place.bottom + size.height + 6 < innerHeight;
    tip.style.top = `${fits ? place.bottom + 6 : place.top - size.height - 6}px`;
  };
  document.addEventListener("mouseover", show);
  document.addEventListener("focusin", show);
  document.addEventListener("focusout", hide);
  document.addEventListener("scroll", hide, true);

  for (const list of document.querySelectorAll("[role=tablist]")) {
    const tabs = [...list.querySelectorAll("[role=tab]")];
    const choose = (tab) => {
      for (const each of tabs) {
        const chosen = each === tab;
        each.setAttribute("aria-selected", String(chosen));
        each.setAttribute("tabindex", chosen ? "0" : "-1");
        document.getElementById(each.getAttribute("aria-controls")).hidden = !chosen;
      }
    };
    list.addEventListener("click", (event) => {
      const tab = event.target.closest("[role=tab]");
      if (tab) choose(tab);
    });
    list.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
      choose(next);
      next.focus();
    });
  }

  for (const control of [...filters, controls, weak]) control.addEventListener("change", update);
  search.addEventListener("input", update);
  document.querySelector("form.filters").addEventListener("submit", (event) => event.preventDefault());
  for (const api of made) api.on("draw.dt", () => focusable(api.table().body()));
  update();
})();
