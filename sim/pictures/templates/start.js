
// ---- what a reader has chosen stands in the fragment of the address: a link shows the same

const viewForm = document.getElementById("view");
let restoring = true;

function remember() {
  if (restoring) return;
  const said = new URLSearchParams();
  const keep = (name, text, usual = "") => text !== usual && said.set(name, text);
  keep("y", view.y, "tgs");
  keep("log", view.log ? "1" : "");
  keep("all", view.all ? "1" : "");
  keep("context", view.context, data.contexts[data.chosen ?? 0] ?? "");
  for (const [name, typed] of [["usd", usd], ["watts", watts]]) {
    for (const [family, figure] of Object.entries(typed)) said.append(name, `${figure} ${family}`);
  }
  for (const name of ["text", "family", "state"]) keep(name, filters.elements[name].value);
  keep("point", chosen === null ? "" : String(chosen), String(data.chosen));
  keep("pinned", pinned.join(" "));
  history.replaceState(null, "", `#${said}`);
}

function recall() {
  const said = new URLSearchParams(location.hash.slice(1));
  const point = (text) => (/^\d+$/.test(text ?? "") && Number(text) < data.rows.length ? Number(text) : null);
  if (Object.hasOwn(titleOfY, said.get("y"))) view.y = said.get("y");
  view.log = said.has("log");
  view.all = said.has("all");
  if (data.contexts.includes(said.get("context"))) view.context = said.get("context");
  for (const [name, typed] of [["usd", usd], ["watts", watts]]) {
    for (const text of said.getAll(name)) {
      const [figure, family] = [Number(text.split(" ")[0]), text.slice(text.indexOf(" ") + 1)];
      if (figure > 0 && families.includes(family)) typed[family] = figure;
    }
  }
  for (const name of ["text", "family", "state"]) filters.elements[name].value = said.get(name) ?? "";
  pinned = (said.get("pinned") ?? "").split(" ").map(point).filter((one) => one !== null).slice(0, 2);
  return point(said.get("point")) ?? data.chosen;
}

function showControls() {
  viewForm.elements.y.value = view.y;
  viewForm.elements.log.checked = view.log;
  viewForm.elements.all.checked = view.all;
  if (viewForm.elements.context) viewForm.elements.context.value = view.context;
  for (const [name, typed] of [["usd", usd], ["watts", watts]]) {
    const fieldset = document.getElementById(name);
    fieldset.hidden = view.y !== { usd: "usd", watts: "kw" }[name];
    for (const input of fieldset.querySelectorAll("input")) {
      const family = input.dataset.family;
      if (document.activeElement !== input) input.value = typed[family] ?? "";
      input.placeholder = name === "usd" ? rentInRows(family) : "";
    }
  }
}

// Return what the rows were simulated with, where a family has one rent.
function rentInRows(family) {
  const mine = everyPoint.filter((point) => value(point, "family") === family && value(point, "usd_per_1m_tokens"));
  const rents = mine.map((point) => (value(point, "usd_per_1m_tokens") * value(point, "tgs") * 3600) / 1e6);
  if (!rents.length) return "";
  return Math.max(...rents) / Math.min(...rents) < 1.001 ? shown(Number(rents[0].toPrecision(4))) : "of the cards";
}

viewForm.addEventListener("submit", (event) => event.preventDefault());
viewForm.addEventListener("change", ({ target }) => {
  if (target === bandsOf) {
    if (bandsOf.value !== "none") bandsOf.dataset.last = bandsOf.value;
  } else if (target.dataset.family !== undefined) {
    const typed = target.closest("fieldset").id === "usd" ? usd : watts;
    if (Number(target.value) > 0) typed[target.dataset.family] = Number(target.value);
    else delete typed[target.dataset.family];
  } else if (target.type === "checkbox") view[target.name] = target.checked;
  else view[target.name] = target.value;
  showControls();
  refresh();
  remember();
});
if (bandsOf) bandsOf.dataset.last = [...bandsOf.options].find((one) => one.value !== "none").value;

const first = recall();
showControls();
filter();
refresh();
if (first !== null) choose(first);
restoring = false;

function listen(target) {
  target.on("plotly_click", ({ points }) => {
    const point = points[0].customdata?.[0];
    if (Number.isInteger(point)) choose(point);
  });
}

afterDrawing.cost = listen;
afterDrawing.pareto = (target) => {
  listen(target);
  refresh();
  target.on("plotly_legendclick", (event) => {
    if (!isKeyOfBands(event)) return setTimeout(refresh, 400) > 0;
    switchBands();
    return false;
  });
  target.on("plotly_legenddoubleclick", (event) => !isKeyOfBands(event));
  // After a zoom, names have other room.
  target.on("plotly_relayout", (changed) => {
    if ("annotations" in changed) return;
    keepZoom(changed);
    Plotly.relayout(target, { annotations: notes() });
  });
  target.on("plotly_doubleclick", () => {
    zoom = {};
    refresh();
  });
};
for (const trace of figures.cost?.data ?? []) {
  if (trace.meta?.role === "points") trace.text = trace.customdata.map(([point]) => told(point));
}

drawAsOneScrolls();
