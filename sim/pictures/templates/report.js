"use strict";

// Draws the figures, fills in the table, and keeps table, figures and panel at one chosen point.

const data = JSON.parse(document.getElementById("data").textContent);
const figures = JSON.parse(document.getElementById("figures").textContent);
const place = Object.fromEntries(data.columns.map((name, index) => [name, index]));

// Plotly offers to upload a figure: what is in this file stays in it.
const CONFIG = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d"],
};
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 12 });

function value(point, column) {
  return column in place ? data.rows[point][place[column]] : null;
}

// ---- values as people read them

function shown(raw) {
  if (raw === null || raw === undefined || raw === "") return "–";
  if (typeof raw === "boolean") return raw ? "yes" : "no";
  if (typeof raw === "object") return JSON.stringify(raw);
  if (typeof raw !== "number") return String(raw);
  const rounded = Math.abs(raw) >= 1000 ? Math.round(raw) : Number(raw.toPrecision(4));
  return NUMBER.format(rounded);
}

function percent(share) {
  return share === null ? "–" : `${(100 * share).toFixed(1)} %`;
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// ---- the chosen point

function bars(lines) {
  const grid = element("div", { className: "bars" });
  for (const { name, length, text, title, whole } of lines) {
    const fill = element("span");
    fill.style.width = `${100 * length}%`;
    grid.append(
      element("span", { textContent: name, title }),
      element("div", { className: whole ? "bar whole" : "bar", title }, fill),
      element("span", { className: "value", textContent: text, title }),
    );
  }
  return grid;
}

function utilisation(point) {
  const pools = data.columns.filter((name) => name.startsWith("utilisation."));
  return bars(
    pools
      .filter((name) => value(point, name) !== null)
      .map((name) => {
        const busy = value(point, name);
        return {
          name: name.replace("utilisation.", ""),
          length: busy,
          text: `${percent(busy)}, bubble ${percent(1 - busy)}`,
          title: `busy share ${busy}, bubble ${1 - busy}`,
          whole: true,
        };
      }),
  );
}

function stageTimes(point) {
  const stages = [
    ["attention", "t_a_layer_us"],
    ["to the FFN", "t_a2f_layer_us"],
    ["FFN", "t_f_layer_us"],
    ["back", "t_f2a_layer_us"],
  ];
  const times = stages.map(([, column]) => value(point, column) ?? 0);
  const longest = Math.max(...times, Number.MIN_VALUE);
  return bars(
    stages.map(([name, column], index) => ({
      name,
      length: times[index] / longest,
      text: `${shown(times[index])} µs`,
      title: `${column}: ${times[index]} µs`,
    })),
  );
}

function shares(point) {
  return bars(
    ["calibrated", "extrapolated", "uncalibrated"].map((status) => {
      const share = value(point, `${status}_share`);
      return { name: status, length: share ?? 0, text: percent(share), title: `${share}`, whole: true };
    }),
  );
}

function yields(point) {
  const figures = [["tokens/s/GPU", "tgs", ""], ["TPOT", "tpot_ms_mean", "ms"]];
  const lines = figures.flatMap(([name, column, unit]) => [
    [name, value(point, column), unit, column],
    [`${data.level} interval`, interval(point, column), unit, data.intervals[column].join(", ")],
  ]);
  return lines.filter(([, raw]) => raw !== null);
}

function settings(point) {
  const names = data.columns.filter((name) => name.startsWith("set.") && value(point, name) !== null);
  return names.map((name) => [name.replace("set.", ""), value(point, name), "", name]);
}

function listed(lines) {
  const body = element("tbody");
  for (const [name, raw, unit, title] of lines) {
    body.append(
      element(
        "tr",
        { title: `${title}: ${raw} ${unit}` },
        element("td", { textContent: name }),
        element("td", { className: "number", textContent: `${shown(raw)} ${unit}` }),
      ),
    );
  }
  return element("table", {}, body);
}

// ---- how sure figures are

function interval(point, column) {
  const ends = data.intervals[column].map((name) => value(point, name));
  if (ends.includes(null)) return null;
  return ends.map((end) => shown(Number(end.toPrecision(3)))).join(" to ");
}

// The bands of families that are switched off in the legend stay away until they are back.
function showBands() {
  const traces = document.getElementById("pareto").data ?? figures.pareto.data;
  const off = new Set(traces.filter((one) => one.visible === "legendonly").map((one) => one.legendgroup));
  const visible = [];
  const indices = [];
  traces.forEach(({ meta, legendgroup }, index) => {
    if (!meta || !("band" in meta)) return;
    const on = bandsOf.value === "all" || (bandsOf.value === "first" && firstBands.has(meta.band));
    visible.push(on && off.has(legendgroup) ? "legendonly" : on);
    indices.push(index);
  });
  if (drawn.has("pareto")) Plotly.restyle("pareto", { visible }, indices);
  else indices.forEach((index, place) => Object.assign(traces[index], { visible: visible[place] }));
}

// In the legend, one entry stands for all bands.
function isKeyOfBands({ curveNumber, fullData }) {
  return Boolean(fullData[curveNumber].meta?.key);
}

function switchBands() {
  bandsOf.value = bandsOf.value === "none" ? bandsOf.dataset.last : "none";
  bandsOf.dispatchEvent(new Event("change"));
}

function choose(point) {
  const panel = document.getElementById("chosen-point");
  const name = `${value(point, "family")} ${data.labels[point]}`;
  panel.replaceChildren(element("p", {}, element("strong", { textContent: name })));
  const reason = value(point, "reason");
  panel.append(
    element("p", { textContent: reason ? `${value(point, "state")}: ${reason}` : value(point, "state") }),
    listed([
      ...(value(point, "status") === "ok" ? yields(point) : []),
      ...settings(point),
    ]),
  );
  if (value(point, "status") === "ok") {
    const heading = (textContent) => element("h3", { textContent });
    panel.append(heading("Busy and bubble, by pool"), utilisation(point));
    panel.append(heading("One layer, slowest server"), stageTimes(point));
    panel.append(heading("Where kernel times come from"), shares(point));
    const all = data.metrics.map(([column, unit, title]) => [column, value(point, column), unit, title]);
    panel.append(element("details", {}, element("summary", { textContent: "All figures" }), listed(all)));
  }
  for (const row of document.querySelectorAll("#points tr.chosen")) row.classList.remove("chosen");
  tableRow(point).classList.add("chosen");
  ring("pareto", value(point, "tokens_per_s_per_user"), value(point, "tgs"));
  ring("cost", value(point, "tpot_ms_mean"), value(point, "usd_per_1m_tokens"));
}

function ring(id, x, y) {
  const figure = figures[id];
  if (!figure) return;
  const trace = figure.data.findIndex((one) => one.name === data.ring);
  const exists = x !== null && y !== null;
  const at = { x: exists ? [x] : [], y: exists ? [y] : [] };
  if (drawn.has(id)) Plotly.restyle(id, { x: [at.x], y: [at.y] }, [trace]);
  else Object.assign(figure.data[trace], at);
}

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
      words.every((word) => textOf(point).includes(word)),
  );
  tableBody.replaceChildren();
  showPage();
  const count = `${NUMBER.format(kept.length)} of ${NUMBER.format(data.rows.length)} points`;
  document.getElementById("count").textContent = count;
}

function textOf(point) {
  texts[point] ??= data.table.map(({ column }) => shown(value(point, column))).join(" ").toLowerCase();
  return texts[point];
}

function showPage() {
  const begun = tableBody.children.length;
  tableBody.append(...kept.slice(begun, begun + PAGE).map(tableRow));
}

// ---- start

const tableBody = document.querySelector("#points tbody");
const numeric = new Set(
  data.columns.filter((_name, index) => data.rows.some((row) => typeof row[index] === "number")),
);
const tableRows = [];
const texts = [];
const order = data.rows.map((_row, point) => point);
let kept = order;
const drawn = new Set();

document.querySelector("#points thead").append(heads());
tableBody.addEventListener("click", (event) => {
  choose(Number(event.target.closest("tr").dataset.point));
});
tableBody.addEventListener("keydown", (event) => {
  const row = event.target.closest("tr");
  if (event.key === "Enter" || event.key === " ") choose(Number(row.dataset.point));
  else if (event.key === "ArrowDown") row.nextElementSibling?.focus();
  else if (event.key === "ArrowUp") row.previousElementSibling?.focus();
  else return;
  event.preventDefault();
});
document.querySelector(".scroll").addEventListener("scroll", ({ target }) => {
  if (target.scrollTop + 2 * target.clientHeight > target.scrollHeight) showPage();
});
const filters = document.getElementById("filters");
// A search field sends input as one types; of a choice, some browsers send only change.
for (const kind of ["input", "change"]) filters.addEventListener(kind, filter);
filters.addEventListener("submit", (event) => event.preventDefault());
const bandsOf = document.getElementById("intervals");
const firstBands = new Set(
  figures.pareto.data.filter(({ meta, visible }) => meta && "band" in meta && visible).map(({ meta }) => meta.band),
);
bandsOf?.addEventListener("change", () => {
  if (bandsOf.value !== "none") bandsOf.dataset.last = bandsOf.value;
  showBands();
});
if (bandsOf) bandsOf.dataset.last = [...bandsOf.options].find((one) => one.value !== "none").value;
filter();
if (data.chosen !== null) choose(data.chosen);

// A figure is drawn when it comes near the view: there may be many, and the first should be quick.
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { target } of entries.filter((entry) => entry.isIntersecting)) draw(target);
  },
  { rootMargin: "300px" },
);

function draw(target) {
  watcher.unobserve(target);
  const { data: traces, layout } = figures[target.id];
  Plotly.newPlot(target, traces, layout, CONFIG);
  drawn.add(target.id);
  target.on("plotly_legendclick", (event) => {
    if (!isKeyOfBands(event)) return true;
    switchBands();
    return false;
  });
  target.on("plotly_legenddoubleclick", (event) => !isKeyOfBands(event));
  target.on("plotly_click", ({ points }) => {
    const point = points[0].customdata?.[0];
    if (Number.isInteger(point)) choose(point);
  });
}

for (const target of document.querySelectorAll(".figure")) watcher.observe(target);

// Paper has no scrolling: all is drawn, as wide as a sheet of A4 between its margins.
const PAPER_PX = 680;
window.addEventListener("beforeprint", () => {
  while (tableBody.children.length < kept.length) showPage();
  for (const target of document.querySelectorAll(".figure")) {
    if (!drawn.has(target.id)) draw(target);
    Plotly.relayout(target, { width: PAPER_PX });
  }
});
window.addEventListener("afterprint", () => {
  for (const id of drawn) Plotly.relayout(id, { width: null, autosize: true });
});
