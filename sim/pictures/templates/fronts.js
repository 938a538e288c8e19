
// ---- fronts: what the picture shows, recomputed from the points for each choice of the reader

const view = { y: "tgs", log: false, all: false, context: data.contexts[data.chosen ?? 0] ?? "" };
const usd = {}; // by family, per hour of a GPU, as typed
const watts = {}; // by family, as typed
const pareto = figures.pareto;
const notesOfFigure = pareto.layout.annotations ?? [];
const titleOfY = {
  tgs: pareto.layout.yaxis.title.text,
  kw: "output tokens/s per kW of rated power",
  usd: "USD per 1M output tokens",
};

function rentOf(family) {
  return usd[family] ?? null;
}

// Return what a throughput of a family's GPUs is in the chosen figure; null if that is not known.
function asChosen(family, tgs) {
  if (view.y === "tgs") return tgs;
  if (view.y === "kw") return watts[family] ? (1000 * tgs) / watts[family] : null;
  return rentOf(family) && tgs ? ((rentOf(family) / 3600) * 1e6) / tgs : null;
}

function yOf(point) {
  const typed = asChosen(value(point, "family"), value(point, "tgs"));
  return typed === null && view.y === "usd" ? value(point, "usd_per_1m_tokens") : typed;
}

function xOf(point) {
  return value(point, "tokens_per_s_per_user");
}

function inPicture(point) {
  const there = value(point, "status") === "ok" && data.contexts[point] === view.context;
  return there && xOf(point) !== null && yOf(point) !== null;
}

// Return the points that none beats in both figures, the slowest first.
function frontOf(points) {
  const sign = view.y === "usd" ? -1 : 1;
  const falling = [...points].sort((a, b) => xOf(b) - xOf(a) || sign * (yOf(b) - yOf(a)));
  let best = -Infinity;
  const kept = falling.filter((point) => {
    const better = sign * yOf(point) > best;
    if (better) best = sign * yOf(point);
    return better;
  });
  return kept.reverse();
}

// ---- hover: six lines at most

function told(point) {
  const flight = value(point, "requests_in_flight");
  const gpus = value(point, "gpus");
  const sure = interval(point, "tgs");
  const usdOfPoint = view.y === "usd" ? yOf(point) : value(point, "usd_per_1m_tokens");
  const lines = [
    `<b>${escaped(nameOf(point))}</b>`,
    `${shown(value(point, "tgs"))} tokens/s/GPU${sure ? ` (${data.level}: ${sure})` : ""}`,
    `TPOT ${shown(value(point, "tpot_ms_mean"))} ms, ${shown(xOf(point))} tokens/s/user`,
    `${shown(flight)} requests in flight on ${shown(gpus)} GPUs (${shown(flight / gpus)} each)`,
    view.y === "kw" ? `${shown(yOf(point))} tokens/s per kW` : `${shown(usdOfPoint)} USD per 1M tokens`,
    `${percent(value(point, "calibrated_share"))} of kernel time calibrated`,
  ];
  return lines.join("<br>");
}

// ---- stretches of a front, by the shape that owns them

function stretchesOf(front) {
  const found = [];
  for (const point of front) {
    const policy = data.policies[point];
    if (found.at(-1)?.policy === policy) found.at(-1).points.push(point);
    else found.push({ policy, points: [point] });
  }
  return found;
}

const CHARACTER_PX = 7;
const LINE_PX = 19;
const MARKER_PX = 4;
const GAP_PX = 6;
const PUBLISHED_PX = 7.5; // a character of a measurement's name

// Return annotations of the stretches that have room: at the middle of each, beside no other.
function namesAlong(fronts) {
  const { xaxis, yaxis } = pareto.layout;
  const [across, up] = ["xaxis", "yaxis"].map((axis) => document.getElementById("pareto")._fullLayout[axis]._length);
  const notes = [];
  const atX = (x) => ((xaxis.type === "log" ? Math.log10(x) : x) - xaxis.range[0]) / (xaxis.range[1] - xaxis.range[0]);
  const atY = (y) => ((yaxis.type === "log" ? Math.log10(y) : y) - yaxis.range[0]) / (yaxis.range[1] - yaxis.range[0]);
  const free = (box) =>
    box.left >= 0 && box.right <= across && box.bottom >= 0 && box.top <= up &&
    taken.every((other) => box.right < other.left || box.left > other.right || box.top < other.bottom || box.bottom > other.top);
  const centre = (point) => [atX(xOf(point)) * across, atY(yOf(point)) * up];
  // No name lies over a marker.
  const taken = fronts.flatMap(([, front]) => front.map(centre)).map(([x, y]) => (
    { left: x - MARKER_PX, right: x + MARKER_PX, bottom: y - MARKER_PX, top: y + MARKER_PX }
  ));
  for (const [family, front] of fronts) {
    for (const { policy, points } of stretchesOf(front)) {
      const point = points[Math.floor(points.length / 2)];
      const [x, y] = centre(point);
      const width = CHARACTER_PX * policy.length + GAP_PX;
      // Above and to the right of a front is nothing of its own.
      for (const [dx, dy, xanchor] of [[8, 12, "left"], [0, 17, "center"], [-8, -14, "right"]]) {
        const left = x + dx - { left: 0, center: width / 2, right: width }[xanchor];
        const box = { left, right: left + width, bottom: y + dy - LINE_PX / 2, top: y + dy + LINE_PX / 2 };
        if (!free(box)) continue;
        taken.push(box);
        notes.push({
          x: xaxis.type === "log" ? Math.log10(xOf(point)) : xOf(point),
          y: yaxis.type === "log" ? Math.log10(yOf(point)) : yOf(point),
          text: escaped(policy), showarrow: false, xanchor, xshift: dx, yshift: dy,
          name: "stretch", font: { size: 11, color: lookOf(family) },
        });
        break;
      }
    }
  }
  return notes;
}

function lookOf(family) {
  return pareto.data.find(({ meta }) => meta?.role === "front" && meta.family === family)?.line.color ?? "#000000";
}

// Return the shapes along a front in words; shapes that take turns are told once.
function path(front) {
  const names = stretchesOf(front).map(({ policy }) => policy);
  const once = [...new Set(names)];
  return names.length > 2 * once.length ? `${once.join(" and ")} by turns` : names.join(" → ");
}

// The names of all stretches stand below the picture, whether they have room in it or not.
function listFronts(fronts) {
  const list = document.getElementById("fronts");
  list.replaceChildren(
    ...fronts.filter(([, front]) => front.length).map(([family, front]) => {
      const swatch = element("span", { className: "swatch" });
      swatch.style.background = lookOf(family);
      const box = element("input", { type: "checkbox", checked: !switchedOff().has(family) });
      box.addEventListener("change", () => switchFamily(family, box.checked));
      return element("li", {}, element("label", {}, box, " ", swatch, element("strong", { textContent: family })), ` ${path(front)}`);
    }),
  );
}

// ---- families that are switched off, here or in the legend

function switchedOff() {
  const off = pareto.data.filter(({ meta, visible }) => meta?.role === "front" && visible === "legendonly");
  return new Set(off.map(({ meta }) => meta.family));
}

function switchFamily(family, on) {
  for (const trace of pareto.data) {
    if (trace.meta?.role === "front" && trace.meta.family === family) trace.visible = on || "legendonly";
  }
  refresh();
}

// ---- the picture

function fill(trace, points) {
  Object.assign(trace, {
    x: points.map(xOf),
    y: points.map(yOf),
    customdata: points.map((point) => [point, value(point, "shape")]),
    text: points.map(told),
    hoverinfo: "text",
  });
}

// Published throughputs, intervals and what is foreseen follow the figure that is shown.
function follow(trace, families) {
  trace.throughputs ??= trace.y;
  trace.y = trace.throughputs.map((tgs, index) => (tgs === null ? null : asChosen(families[index] ?? families[0], tgs)));
}

// Fit the axes to what is drawn. Plotly would fit them to names too, which need no room of their own.
function fitAxes() {
  const { xaxis, yaxis } = pareto.layout;
  const shownTraces = pareto.data.filter(({ visible, meta }) => (visible ?? true) === true && meta);
  const pairs = shownTraces.flatMap(({ x, y }) => x.map((one, index) => [one, y[index]]));
  const known = pairs.filter(([x, y]) => Number.isFinite(x) && Number.isFinite(y) && x > 0 && y > 0);
  yaxis.title = { ...yaxis.title, text: titleOfY[view.y] };
  for (const [axis, at] of [[xaxis, 0], [yaxis, 1]]) {
    const values = known.map((pair) => pair[at]);
    axis.type = view.log ? "log" : "linear";
    axis.range = values.length ? rangeOf(Math.min(...values), Math.max(...values), at === 1) : [0, 1];
    axis.autorange = false;
  }
  if (zoom.log !== view.log) return;
  if (zoom.x) xaxis.range = zoom.x;
  if (zoom.y && zoom.of === view.y) yaxis.range = zoom.y;
}

// A zoom along x survives another figure on y.
let zoom = {};

function keepZoom(changed) {
  const [x, y] = ["x", "y"].map((axis) =>
    `${axis}axis.range[0]` in changed ? [0, 1].map((end) => changed[`${axis}axis.range[${end}]`]) : null,
  );
  if (x) zoom = { ...zoom, x, log: view.log };
  if (y) zoom = { ...zoom, y, of: view.y, log: view.log };
  if (changed["xaxis.autorange"] || changed["yaxis.autorange"]) zoom = {};
}

function rangeOf(low, most, isY) {
  // Small batches cost a hundred times as much as large ones.
  const high = isY && view.y === "usd" ? Math.min(most, (view.log ? 12 : 6) * low) : most;
  if (view.log) {
    const margin = 0.04 * Math.log10(high / low) + 0.01;
    return [Math.log10(low) - margin, Math.log10(high) + margin];
  }
  const margin = 0.05 * (high - low) || 0.05 * high;
  // A zero helps where the points reach down to it.
  return [low < 0.3 * high ? 0 : low - margin, high + margin];
}

function refresh() {
  const off = switchedOff();
  const points = everyPoint.filter(inPicture);
  const fronts = [];
  for (const trace of pareto.data) {
    const { role, family, band } = trace.meta ?? {};
    const mine = points.filter((point) => value(point, "family") === family);
    const hidden = off.has(family) ? "legendonly" : true;
    if (role === "points") {
      if (view.all) fill(trace, mine);
      trace.visible = view.all && hidden;
    } else if (role === "front") {
      fill(trace, frontOf(mine));
      fronts.push([family, trace.customdata.map(([point]) => point)]);
    } else if (role === "overall") {
      const all = frontOf(points.filter((point) => !off.has(value(point, "family"))));
      Object.assign(trace, { x: all.map(xOf), y: all.map(yOf) });
    } else if (role === "foreseen" || band !== undefined) {
      follow(trace, [family ?? band]);
    } else if (role === "published") {
      follow(trace, trace.meta.families);
    }
  }
  if (bandsOf) setBands();
  fitAxes();
  listFronts(fronts);
  ringPoints();
  shownFronts = fronts;
  if (!drawn.has("pareto")) return;
  pareto.layout.annotations = notes();
  paint(pareto);
  Plotly.react("pareto", pareto.data, pareto.layout, CONFIG);
}

let shownFronts = [];

// Return the notes of the figure, and the names along what is shown of its fronts.
function notes() {
  const on = shownFronts.filter(([family]) => !switchedOff().has(family));
  const fixed = notesOfFigure.filter((note) => note.yref?.endsWith("domain") || view.y === "tgs");
  const at = (raw) => (view.log ? Math.log10(raw) : raw);
  const { range } = pareto.layout.xaxis;
  const across = document.getElementById("pareto")._fullLayout.xaxis._length;
  const moved = fixed.map((note) => {
    const upright = note.yref?.endsWith("domain");
    const left = ((at(note.x) - range[0]) / (range[1] - range[0])) * across;
    // A measurement's name ends above its cross; where there is no room, it begins at the axis.
    const isLong = !upright && left < PUBLISHED_PX * note.text.length;
    const put = isLong ? { x: range[0], xanchor: "left", xshift: 2, yshift: 8 } : { x: at(note.x) };
    return { ...note, y: upright ? note.y : at(note.y), ...put };
  });
  return [...moved, ...namesAlong(on)];
}

// ---- bands of prediction intervals

const bandsOf = document.getElementById("intervals");
const firstBands = new Set(
  pareto.data.filter(({ meta, visible }) => meta && "band" in meta && visible).map(({ meta }) => meta.band),
);

// The bands of families that are switched off stay away until they are back.
function setBands() {
  const off = switchedOff();
  for (const trace of pareto.data.filter(({ meta }) => meta && "band" in meta)) {
    const { band } = trace.meta;
    const on = bandsOf.value === "all" || (bandsOf.value === "first" && firstBands.has(band));
    trace.visible = on && off.has(band) ? "legendonly" : on;
  }
}

// In the legend, one entry stands for all bands.
function isKeyOfBands({ curveNumber, fullData }) {
  return Boolean(fullData[curveNumber].meta?.key);
}

function switchBands() {
  bandsOf.value = bandsOf.value === "none" ? bandsOf.dataset.last : "none";
  bandsOf.dispatchEvent(new Event("change", { bubbles: true }));
}
