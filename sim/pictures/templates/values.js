
// ---- values of points, and how people read them

const place = Object.fromEntries(data.columns.map((name, index) => [name, index]));
const everyPoint = data.rows.map((_row, point) => point);
const families = [...new Set(everyPoint.map((point) => value(point, "family")))];
const NUMBER = new Intl.NumberFormat("en", { maximumFractionDigits: 12 });

function value(point, column) {
  return column in place ? data.rows[point][place[column]] : null;
}

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

function nameOf(point) {
  return `${value(point, "family")} ${data.labels[point]}`;
}

function interval(point, column) {
  const ends = data.intervals[column].map((name) => value(point, name));
  if (ends.includes(null)) return null;
  return ends.map((end) => shown(Number(end.toPrecision(3)))).join(" to ");
}

function escaped(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Return a point's settings by path, those that its family has in common first.
function settingsOf(point) {
  const found = { ...data.common[value(point, "family")]?.[value(point, "base")] };
  for (const name of data.columns.filter((each) => each.startsWith("set."))) {
    if (value(point, name) !== null) found[name.slice(4)] = value(point, name);
  }
  return found;
}

// Return the command that simulates a point again.
function commandOf(point) {
  const quoted = (text) => (/^[\w.,:=/+-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const settings = Object.entries(settingsOf(point)).map(([path, raw]) => {
    const text = typeof raw === "string" ? raw : JSON.stringify(raw);
    return `--set ${quoted(`${path}=${text}`)}`;
  });
  return ["afdsim run", quoted(String(value(point, "base"))), ...settings].join(" ");
}
