// Sorting is all that needs a script. What is not known stays last in either direction.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const original = [...body.rows];
  heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
    const next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort") ?? "none"];
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    const sign = next === "descending" ? -1 : 1;
    const key = (row) => row.cells[column].dataset.value;
    const known = original.filter((row) => key(row) !== "");
    const compare = (a, b) => sign * (head.dataset.kind === "text" ? key(a).localeCompare(key(b)) : key(a) - key(b));
    if (next !== "none") {
      head.setAttribute("aria-sort", next);
      body.replaceChildren(...known.sort(compare), ...original.filter((row) => key(row) === ""));
    } else {
      body.replaceChildren(...original);
    }
  }));
}
