
// ---- the table

// Rows are made when they are first shown, and shown in pages: few people read all of thousands.
const PAGE = 200;

function tableRow(point) {
  tableRows[point] ??= madeRow(point);
  return tableRows[point];
}

function madeRow(point) {
  const row = element("tr");
  for (const { column } of data.table) {
    const raw = value(point, column);
    const cell = element("td", { textContent: shown(raw) });
    if (numeric.has(column)) cell.className = "number";
    if (raw !== null) cell.title = raw;
    row.append(cell);
  }
  row.dataset.point = point;
  row.tabIndex = 0;
  return row;
}

function heads() {
  const row = element("tr");
  for (const { column, label, unit, title } of data.table) {
    const button = element("button", { type: "button" });
    for (const part of (unit ? `${label}, ${unit}` : label).split(/(?<=[._])/)) {
      button.append(part, element("wbr"));
    }
    const head = element("th", { title, scope: "col" }, button);
    if (numeric.has(column)) head.className = "number";
    button.addEventListener("click", () => sortBy(column, head));
    row.append(head);
  }
  return row;
}

function sortBy(column, head) {
  const falling = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const index = place[column];
  const collator = new Intl.Collator("en", { numeric: true });
  // Points without a value come last, whichever way the others go.
  order.sort((one, other) => {
    const [a, b] = [data.rows[one][index], data.rows[other][index]];
    if (a === null || b === null) return (a === null) - (b === null) || one - other;
    const rise = typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b);
    return (falling ? -rise : rise) || one - other;
  });
  filter();
}

function filter() {
  const [text, family, state] = ["text", "family", "state"].map((name) => filters.elements[name].value);
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  kept = order.filter(
    (point) =>
      (!family || value(point, "family") === family) &&
      (!state || value(point, "state") === state) &&
      words.every((word) => wordsOf(point).has(word)),
  );
  tableBody.replaceChildren();
  showPage();
  const count = `${NUMBER.format(kept.length)} of ${NUMBER.format(data.rows.length)} points`;
  document.getElementById("count").textContent = count;
}

// Return the words of a point's row. `384` is no part of `1384`; `2A2F` is a word, and so is `fp8`.
function wordsOf(point) {
  if (!texts[point]) {
    const text = data.table.map(({ column }) => shown(value(point, column))).join(" ").toLowerCase();
    texts[point] = new Set([...text.split(/\s+/), ...text.split(/[^\p{L}\p{N}.,_]+/u)]);
  }
  return texts[point];
}

function showPage() {
  const begun = tableBody.children.length;
  tableBody.append(...kept.slice(begun, begun + PAGE).map(tableRow));
}

// Of the points that meet their SLO the one that yields most comes first; refused points last.
function byYield() {
  const rank = (point) => [value(point, "state") !== "SLO met", value(point, "status") !== "ok"];
  return [...everyPoint].sort((one, other) => {
    const [a, b] = [rank(one), rank(other)];
    return a[1] - b[1] || a[0] - b[0] || (value(other, "tgs") ?? 0) - (value(one, "tgs") ?? 0) || one - other;
  });
}

// ---- the points that are listed, as CSV

function csvOf(points) {
  const cell = (raw) => {
    const text = raw === null ? "" : typeof raw === "object" ? JSON.stringify(raw) : String(raw);
    return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const lines = points.map((point) => data.rows[point].map(cell).join(","));
  return [data.columns.map(cell).join(","), ...lines, ""].join("\n");
}

document.getElementById("export").addEventListener("click", () => {
  const url = URL.createObjectURL(new Blob([csvOf(kept)], { type: "text/csv" }));
  element("a", { href: url, download: "points.csv" }).click();
  URL.revokeObjectURL(url);
});

const tableBody = document.querySelector("#points tbody");
const numeric = new Set(
  data.columns.filter((_name, index) => data.rows.some((row) => typeof row[index] === "number")),
);
const tableRows = [];
const texts = [];
const order = byYield();
let kept = order;

function chooseByClick(event) {
  const row = event.target.closest("tr");
  if (row) choose(Number(row.dataset.point));
}

function chooseByKey(event) {
  const row = event.target.closest("tr");
  if (event.key === "Enter" || event.key === " ") choose(Number(row.dataset.point));
  else if (event.key === "ArrowDown") row.nextElementSibling?.focus();
  else if (event.key === "ArrowUp") row.previousElementSibling?.focus();
  else return;
  event.preventDefault();
}

for (const body of [tableBody, document.querySelector("#best tbody")]) {
  body?.addEventListener("click", chooseByClick);
  body?.addEventListener("keydown", chooseByKey);
}
document.querySelector("#points thead").append(heads());
document.querySelector(".list").addEventListener("scroll", ({ target }) => {
  if (target.scrollTop + 2 * target.clientHeight > target.scrollHeight) showPage();
});
const filters = document.getElementById("filters");
// A search field sends input as one types; of a choice, some browsers send only change.
for (const kind of ["input", "change"]) {
  filters.addEventListener(kind, () => {
    filter();
    remember();
  });
}
filters.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("beforeprint", () => {
  while (tableBody.children.length < kept.length) showPage();
});
