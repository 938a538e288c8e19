
// ---- the chosen point, and points that are pinned to compare them

let chosen = null;
let pinned = []; // two at most
const LETTERS = ["A", "B"];

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

// Return what an operator asks first.
function answers(point) {
  const lines = [
    ["tokens/s/GPU", shown(value(point, "tgs")), "tgs"],
    [`${data.level} interval`, interval(point, "tgs"), data.intervals.tgs.join(", ")],
    ["TPOT", `${shown(value(point, "tpot_ms_mean"))} ms`, "tpot_ms_mean"],
    [`${data.level} interval`, interval(point, "tpot_ms_mean")?.concat(" ms") ?? null, data.intervals.tpot_ms_mean.join(", ")],
    ["requests in flight", shown(value(point, "requests_in_flight")), "requests_in_flight"],
    ["GPUs", shown(value(point, "gpus")), "gpus"],
  ];
  return lines.filter(([, text]) => text !== null);
}

function settings(point) {
  const names = data.columns.filter((name) => name.startsWith("set.") && value(point, name) !== null);
  return names.map((name) => [name.replace("set.", ""), shown(value(point, name)), name]);
}

function everyFigure(point) {
  const known = data.metrics.filter(([column]) => value(point, column) !== null);
  return known.map(([column, unit, title]) => [column, `${shown(value(point, column))} ${unit}`, title]);
}

function listed(lines) {
  const body = element("tbody");
  for (const [name, text, title] of lines) {
    body.append(
      element(
        "tr",
        { title },
        element("td", { textContent: name }),
        element("td", { className: "number", textContent: text }),
      ),
    );
  }
  return element("table", {}, body);
}

function buttons(point) {
  const copy = element("button", { type: "button", id: "copy", textContent: "Copy the command", title: commandOf(point) });
  copy.addEventListener("click", () => copied(copy, commandOf(point)));
  const pin = element("button", { type: "button", id: "pin", textContent: pinned.includes(point) ? "Unpin" : "Pin to compare" });
  pin.addEventListener("click", () => {
    pinned = pinned.includes(point) ? pinned.filter((one) => one !== point) : [...pinned, point].slice(-2);
    choose(point);
    document.getElementById("pin").focus();
  });
  return element("p", {}, pin, " ", copy);
}

async function copied(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    // A browser may keep the clipboard from pages that are files: the command can be selected.
    button.replaceWith(element("code", { textContent: text }));
  }
}

function choose(point) {
  chosen = point;
  const panel = document.getElementById("chosen-point");
  panel.replaceChildren(element("p", {}, element("strong", { textContent: nameOf(point) })));
  const reason = value(point, "reason");
  const simulated = value(point, "status") === "ok";
  panel.append(
    element("p", { textContent: reason ? `${value(point, "state")}: ${reason}` : value(point, "state") }),
    listed([...(simulated ? answers(point) : []), ...settings(point)]),
  );
  if (simulated) {
    const heading = (textContent) => element("h3", { textContent });
    panel.append(buttons(point));
    panel.append(heading("Busy and bubble, by pool"), utilisation(point));
    panel.append(heading("One layer, slowest server"), stageTimes(point));
    panel.append(heading("Where kernel times come from"), shares(point));
    panel.append(element("details", {}, element("summary", { textContent: "All figures" }), listed(everyFigure(point))));
  }
  for (const row of document.querySelectorAll("tr[aria-current]")) row.removeAttribute("aria-current");
  for (const row of [tableRow(point), document.querySelector(`#best tr[data-point="${point}"]`)]) {
    row?.setAttribute("aria-current", "true");
  }
  compare();
  ringPoints();
  if (drawn.has("pareto")) Plotly.redraw("pareto");
  if (drawn.has("cost")) Plotly.redraw("cost");
  remember();
}

// ---- two points in words

function compare() {
  const section = document.getElementById("compare");
  const [one, other] = pinned.length === 2 ? pinned : [pinned[0], chosen];
  section.hidden = one === undefined || one === other || value(other, "status") !== "ok";
  if (section.hidden) return;
  const said = [
    change(one, other, "tgs", "more tokens/s/GPU", "fewer tokens/s/GPU"),
    change(one, other, "tpot_ms_mean", "longer TPOT", "shorter TPOT"),
    change(one, other, "requests_in_flight", "more requests in flight", "fewer requests in flight"),
    change(one, other, "gpus", "more GPUs", "fewer GPUs"),
    change(one, other, "usd_per_1m_tokens", "more USD per 1M tokens", "fewer USD per 1M tokens"),
  ].filter(Boolean);
  section.replaceChildren(
    element("p", {}, element("strong", { textContent: "A " }), nameOf(one)),
    element("p", {}, element("strong", { textContent: "B " }), nameOf(other)),
    element("p", { textContent: said.length ? `B has ${said.join(", ")} than A.` : "B has the same figures as A." }),
    element("p", { textContent: overlap(one, other) }),
  );
}

function change(one, other, column, more, less) {
  const [a, b] = [value(one, column), value(other, column)];
  if (!a || b === null || Math.abs(b / a - 1) < 5e-4) return "";
  return `${Math.abs(100 * (b / a - 1)).toFixed(1)} % ${b > a ? more : less} (${shown(b)} against ${shown(a)})`;
}

function overlap(one, other) {
  const ends = [one, other].map((point) => data.intervals.tgs.map((name) => value(point, name)));
  if (ends.flat().includes(null)) return "";
  const apart = ends[0][1] < ends[1][0] || ends[1][1] < ends[0][0];
  return `Their ${data.level} intervals of tokens/s/GPU ${apart ? "lie apart" : "overlap"}.`;
}

// ---- rings around chosen and pinned points

function ringPoints() {
  ring("pareto", data.ring, [chosen].filter((point) => point !== null && inPicture(point)), xOf, yOf);
  ring("pareto", data.pinned, pinned.filter(inPicture), xOf, yOf);
  const [x, y] = ["tpot_ms_mean", "usd_per_1m_tokens"].map((column) => (point) => value(point, column));
  const priced = (point) => point !== null && x(point) !== null && y(point) !== null;
  ring("cost", data.ring, [chosen].filter(priced), x, y);
  ring("cost", data.pinned, pinned.filter(priced), x, y);
}

function ring(id, name, points, x, y) {
  const trace = figures[id]?.data.find((one) => one.name === name);
  if (!trace) return;
  Object.assign(trace, { x: points.map(x), y: points.map(y) });
  if (name === data.pinned) trace.text = points.map((point) => LETTERS[pinned.indexOf(point)]);
}
