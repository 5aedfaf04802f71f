"use strict";
// Tables that can be sorted and searched. Without this script they stand in the order of the model.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells], order = [...body.rows];
  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? (cell.dataset.value === "" ? -Infinity : Number(cell.dataset.value)) : cell.textContent.trim().toLowerCase();
  };
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = "value" in order[0].cells[column].dataset ? "descending" : "ascending";
      const other = first === "descending" ? "ascending" : "descending";
      const now = head.getAttribute("aria-sort");
      const next = now === null ? first : now === first ? other : null;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      const rows = [...order];
      if (next !== null) {
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows.sort((a, b) => sign * compare(value(a, column), value(b, column)));
      }
      body.append(...rows);
    });
  });
  const label = document.createElement("label"), input = document.createElement("input"), found = document.createElement("span");
  input.type = "search";
  found.setAttribute("role", "status");
  label.className = "search small muted";
  label.append("Search ", input, " ", found);
  const search = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of order) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    found.textContent = `${shown} of ${order.length}`;
  };
  input.addEventListener("input", search);
  search();
  table.parentElement.before(label);
}
// What is folded on the screen is open on paper.
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
document.documentElement.dataset.ready = "";
