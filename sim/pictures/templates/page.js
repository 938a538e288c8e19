"use strict";

// What all pages share: figures that are drawn when they come near the view, in the colours of the
// page (light, dark, paper).

const figures = JSON.parse(document.getElementById("figures").textContent);
const drawn = new Set();

// Plotly offers to upload a figure: what is in this file stays in it.
const CONFIG = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d"],
};

// ---- colours

const INKS = new Set(["#000000", "#f2f5f7"]); // what figures draw in the page's ink: light, dark

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function paintTrace(trace, strong) {
  for (const part of [trace.marker, trace.line, trace.marker?.line, trace.textfont]) {
    if (part && INKS.has(part.color)) part.color = strong;
  }
}

// Put the page's colours into a figure's traces and layout.
function paint({ data: traces, layout }) {
  const [ink, faint, line, paper, strong] = ["ink", "faint", "line", "paper", "strong"].map(colour);
  for (const trace of traces) paintTrace(trace, strong);
  Object.assign(layout, { paper_bgcolor: paper, plot_bgcolor: paper });
  layout.font = { ...layout.font, family: "system-ui, sans-serif", color: ink };
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: paper, bordercolor: faint, font: { size: 12, color: ink } };
  layout.modebar = { ...layout.modebar, bgcolor: "rgba(0,0,0,0)", color: faint, activecolor: ink };
  for (const name of Object.keys(layout).filter((key) => /^[xy]axis\d*$/.test(key))) {
    layout[name] = { ...layout[name], gridcolor: line, zerolinecolor: line, linecolor: faint };
  }
  for (const note of layout.annotations ?? []) {
    if (note.bgcolor) note.bgcolor = `${paper}c0`; // lets what is behind through
  }
}

function repaint() {
  for (const id of drawn) {
    const target = document.getElementById(id);
    paint({ data: target.data, layout: target.layout });
    Plotly.redraw(target);
  }
}

window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);

// ---- drawing

const afterDrawing = {}; // by figure: what listens to it

function draw(target) {
  if (drawn.has(target.id)) return;
  const figure = figures[target.id];
  paint(figure);
  Plotly.newPlot(target, figure.data, figure.layout, CONFIG);
  drawn.add(target.id);
  afterDrawing[target.id]?.(target);
}

// There may be many figures, and the first should be quick.
function drawAsOneScrolls() {
  const watcher = new IntersectionObserver(
    (entries) => {
      for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
        watcher.unobserve(target);
        draw(target);
      }
    },
    { rootMargin: "300px" },
  );
  for (const target of document.querySelectorAll(".figure")) watcher.observe(target);
}

// Paper has no scrolling and is white: all is drawn, as wide as A4 between its margins.
const PAPER_PX = 680;
window.addEventListener("beforeprint", () => {
  document.documentElement.classList.add("on-paper");
  for (const target of document.querySelectorAll(".figure")) draw(target);
  repaint();
  for (const id of drawn) Plotly.relayout(id, { width: PAPER_PX });
});
window.addEventListener("afterprint", () => {
  document.documentElement.classList.remove("on-paper");
  repaint();
  for (const id of drawn) Plotly.relayout(id, { width: null, autosize: true });
});
