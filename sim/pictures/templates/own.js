
// ---- the reader's own measurements: rows of operating points, as crosses and in words

const OWN = "own measurements";

// Return the rows of a CSV file as objects.
function rowsOfCsv(text) {
  const cells = (line) =>
    [...`,${line}`.matchAll(/,(?:"((?:[^"]|"")*)"|([^,]*))/g)].map(([, quoted, plain]) => quoted?.replaceAll('""', '"') ?? plain);
  const [head, ...lines] = text.replace(/^\ufeff/, "").split(/\r?\n/).filter(Boolean);
  const names = cells(head ?? "");
  return lines.map((line) => Object.fromEntries(cells(line).map((cell, index) => [names[index], cell])));
}

// Return a measurement; null if the row has neither. Either gives the other (Little's law).
function measurement(row) {
  const number = (name) => Number(row[name]) || 0;
  const each = 1000 * number("requests_per_gpu");
  const tpot = number("measured_tpot_ms") || (number("measured_tgs") && each / number("measured_tgs"));
  const tgs = number("measured_tgs") || (tpot && each / tpot);
  return tpot > 0 && tgs > 0 ? { id: row.id || "measured", tpot, tgs } : null;
}

// Return what the front over all yields at an interactivity, tokens/s/GPU; null beyond its end.
function foreseen(x) {
  const yields = everyPoint.filter((point) => inPicture(point) && xOf(point) >= x).map((point) => value(point, "tgs"));
  return yields.length ? Math.max(...yields) : null;
}

function sentence({ id, tpot, tgs }) {
  const best = foreseen(1000 / tpot);
  const measured = `${id}: measured ${shown(tgs)} tokens/s/GPU at a TPOT of ${shown(tpot)} ms`;
  if (best === null) return `${measured}; no point here is as fast.`;
  const error = 100 * (best / tgs - 1);
  return `${measured}; the front yields ${shown(best)} there (${error < 0 ? "−" : "+"}${Math.abs(error).toFixed(1)} %).`;
}

async function layOver(file) {
  const found = rowsOfCsv(await file.text()).map(measurement).filter(Boolean);
  pareto.data = pareto.data.filter(({ name }) => name !== OWN);
  if (found.length) {
    pareto.data.push({
      type: "scatter", mode: "markers", name: OWN,
      x: found.map(({ tpot }) => 1000 / tpot), y: found.map(({ tgs }) => tgs),
      text: found.map((one) => escaped(sentence(one))), hoverinfo: "text",
      marker: { symbol: "x-thin", size: 11, line: { width: 3, color: "#000000" } },
      meta: { role: "published", families: [] },
    });
  }
  const none = `${file.name}: no row has measured_tpot_ms or measured_tgs, and requests_per_gpu.`;
  const told = found.length ? found.map(sentence) : [none];
  document.getElementById("own").replaceChildren(...told.map((textContent) => element("p", { className: "sure", textContent })));
  refresh();
}

document.getElementById("measurements").addEventListener("change", ({ target }) => {
  if (target.files.length) layOver(target.files[0]);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dropping", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) layOver(event.dataTransfer.files[0]);
  });
}
