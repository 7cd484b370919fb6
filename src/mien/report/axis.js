"use strict";
// Draws the persona map from the JSON beside it. Text of the data is hostile: it becomes text nodes, never markup.
(() => {
const data = JSON.parse(document.getElementById("axis-data").textContent);
const find = id => document.getElementById(id);
const stage = find("stage"), plot = find("plot"), box = find("told"), slider = find("layer"), list = find("ranking");
const STEPS = 10, REACH = 26, SIDES = ["right", "left", "above", "below"];
let k = data.start, pinned = null, hovered = null, frame = null, ramp = null;

// --- words and elements ---------------------------------------------------------------------------------------------
const known = value => value !== null && value !== undefined;
const number = (value, digits = 2) => {
  if (!known(value)) return "not measured";
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
};
const signed = (value, digits = 2) => (known(value) && Number(value.toFixed(digits)) > 0 ? "+" : "") + number(value, digits);
const percent = value => known(value) ? number(100 * value, value < 0.0995 ? 1 : 0) + "%" : "not measured";
const plain = name => name.replaceAll("_", " ");
const cut = (text, most) => text.length > most ? text.slice(0, most - 1).trimEnd() + "\u2026" : text;
const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const short = value => String(Number(value.toPrecision(4))).replace("-", "\u2212");

function element(name, className, text) {
  const node = document.createElement(name);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function shape(name, attributes = {}, parent = null, text = undefined) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  if (parent) parent.append(node);
  return node;
}

// --- colour: the mean role is the middle, the spread of the roles the ends --------------------------------------------
function makeRamp() {
  const values = data.roles.map(role => role.p[k]).filter(known);
  if (!values.length) return null;
  const middle = values.reduce((sum, value) => sum + value, 0) / values.length;
  const far = values.map(value => Math.abs(value - middle)).sort((a, b) => a - b);
  // A few extreme roles must not leave all others grey.
  return { middle, reach: far[Math.floor(0.95 * (far.length - 1))] || far[far.length - 1] || 1 };
}
const share = value => Math.min(Math.max((value - ramp.middle) / ramp.reach, -1), 1) / 2 + 0.5;
const tint = value => known(value) && ramp ? "k" + Math.round(share(value) * STEPS) : "";

function drawLegend() {
  const colours = element("div", "ramp"), marks = element("div", "marks");
  find("legend").replaceChildren(colours, marks);
  if (!ramp) return;
  for (let step = 0; step <= STEPS; step++) colours.append(element("span", "k" + step));
  const { middle, reach } = ramp, most = middle + reach;
  for (const [at, value, name] of [[0, middle - reach, "and below: far from the Assistant"],
    [50, middle, "mean of the roles"], [100, most, "and above: near the Assistant"]]) {
    const mark = element("span", "", name), figure = element("b", "", `${number(value, 1)} sigma`);
    mark.prepend(figure);
    mark.style.left = at + "%";
    marks.append(mark);
  }
}

// --- what stands on the map -------------------------------------------------------------------------------------------
// Names lie above all dots, in a layer of their own.
const [back, rays, dots, tags] = [0, 1, 2, 3].map(() => shape("g", {}, plot));
const axisLine = shape("line", { class: "the-axis moving", x2: 1, "vector-effect": "non-scaling-stroke" }, rays);

function thing(kind, from, parent, name) {
  const node = shape("g", { class: `${kind} moving` }, parent), tag = shape("g", { class: `${kind}-tag moving` }, tags);
  return { kind, from, node, tag, name, label: shape("text", {}, tag, cut(name, 26)), at: null, wide: 0 };
}
const roles = data.roles.map(from => {
  const item = thing("role", from, dots, plain(from.name));
  item.dot = shape("circle", { r: 5 }, item.node);
  return item;
});
const traits = data.traits.map(from => {
  const item = thing("trait", from, rays, plain(from.name));
  item.ray = shape("line", { class: "ray moving", x2: 1, "vector-effect": "non-scaling-stroke" }, rays);
  item.head = shape("path", { class: "moving", d: "M3 0L-6 -4L-4 0L-6 4Z" }, item.node);
  return item;
});
const home = thing("home", data, rays, "Assistant");
const star = Array.from({ length: 10 }, (_, i) => {
  const radius = i % 2 ? 4.6 : 11, angle = Math.PI * (i / 5 - 0.5);
  return `${(radius * Math.cos(angle)).toFixed(1)} ${(radius * Math.sin(angle)).toFixed(1)}`;
});
shape("path", { d: `M${star.join("L")}Z` }, home.node);
const things = [home, ...roles, ...traits];
dots.append(home.node);

// --- places -----------------------------------------------------------------------------------------------------------
function makeFrame() {
  const width = Math.max(stage.clientWidth, 280) - 2;
  const height = Math.round(Math.min(Math.max(width * 0.74, 340), 620));
  const spots = [...data.roles, data].map(p => [p.x[k], p.y[k]]).filter(p => known(p[0]) && known(p[1]));
  if (!spots.length) return { width, height, scale: 1, x: () => width / 2, y: () => height / 2, bounds: [0, 0, 1, 1] };
  const xs = spots.map(p => p[0]), ys = spots.map(p => p[1]);
  const bounds = [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
  const margin = width < 500 ? [30, 34] : [62, 44];
  const scale = Math.min((width - 2 * margin[0]) / (bounds[2] - bounds[0] || 1), (height - 2 * margin[1]) / (bounds[3] - bounds[1] || 1));
  // One unit is as long across as up, or distances would lie.
  const x = value => width / 2 + scale * (value - (bounds[0] + bounds[2]) / 2);
  const y = value => height / 2 - scale * (value - (bounds[1] + bounds[3]) / 2);
  return { width, height, scale, x, y, bounds };
}

function put(item, at) {
  item.at = at;
  for (const node of [item.node, item.tag]) {
    node.style.display = at ? "" : "none";
    if (at) node.style.transform = `translate(${at[0].toFixed(1)}px, ${at[1].toFixed(1)}px)`;
  }
}

// A line of length one, turned and stretched: transforms move smoothly, end points do not. Turns the shorter way round.
function stretch(line, from, to) {
  const dx = to[0] - from[0], dy = to[1] - from[1], before = line.turned || 0;
  let angle = Math.atan2(dy, dx) * 180 / Math.PI;
  angle += 360 * Math.round((before - angle) / 360);
  line.turned = angle;
  line.style.transform = `translate(${from[0].toFixed(1)}px, ${from[1].toFixed(1)}px) rotate(${angle.toFixed(2)}deg) `
    + `scale(${Math.hypot(dx, dy).toFixed(1)}, 1)`;
  return angle;
}

function placeAll() {
  frame = makeFrame();
  plot.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  plot.setAttribute("height", frame.height);
  const spot = from => known(from.x[k]) && known(from.y[k]) ? [frame.x(from.x[k]), frame.y(from.y[k])] : null;
  for (const item of roles) {
    put(item, spot(item.from));
    item.node.setAttribute("class", `role moving ${tint(item.from.p[k])}`);
    item.dot.setAttribute("r", frame.width < 500 ? 4.2 : roles.length > 200 ? 4.6 : 5.4);
  }
  put(home, spot(data));
  placeRays();
}

function placeRays() {
  const seen = roles.filter(item => item.at);
  const mean = [0, 1].map(side => seen.reduce((sum, item) => sum + item.at[side], 0) / (seen.length || 1));
  axisLine.style.display = seen.length && home.at ? "" : "none";
  if (seen.length && home.at) stretch(axisLine, mean, home.at);
  const length = item => known(item.from.x[k]) && known(item.from.y[k]) ? Math.hypot(item.from.x[k], item.from.y[k]) : 0;
  const longest = Math.max(0, ...traits.map(length)), origin = [frame.x(0), frame.y(0)];
  const room = arrowRoom(origin, longest);
  for (const item of traits) {
    const there = length(item) > 0;
    put(item, there ? [origin[0] + room * item.from.x[k], origin[1] - room * item.from.y[k]] : null);
    item.ray.style.display = there ? "" : "none";
    if (there) item.head.style.transform = `rotate(${stretch(item.ray, origin, item.at).toFixed(2)}deg)`;
  }
  if (find("longest")) find("longest").textContent = longest ? `the longest has cosine ${number(longest)} with the plane.` : "none does here.";
}

// Pixels for a cosine of 1: as long as all tips, with their names, still lie inside.
function arrowRoom(origin, longest) {
  let room = 0.4 * Math.min(frame.width, frame.height) / (longest || 1);
  for (const item of traits) {
    const dx = item.from.x[k] || 0, dy = -item.from.y[k] || 0;
    if (dx) room = Math.min(room, Math.max(dx > 0 ? frame.width - 40 - origin[0] : origin[0] - 40, 40) / Math.abs(dx));
    if (dy) room = Math.min(room, Math.max(dy > 0 ? frame.height - 40 - origin[1] : origin[1] - 36, 40) / Math.abs(dy));
  }
  return room;
}

function drawBack() {
  back.replaceChildren();
  const { width, height, scale, x, y } = frame, layer = data.layers[k];
  const rough = 90 / scale, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough * 0.999);
  const first = (from, to) => Array.from({ length: 40 }, (_, i) => (Math.ceil(from / step) + i) * step).filter(value => value <= to);
  const inverse = (pixel, along) => (pixel - along(0)) / (along(1) - along(0));
  for (const value of first(inverse(0, x), inverse(width, x))) {
    shape("line", { class: "grid", x1: x(value), x2: x(value), y1: 0, y2: height - 18 }, back);
    if (x(value) > 50 && x(value) < width - 18) shape("text", { class: "tick middle", x: x(value), y: height - 6 }, back, short(value));
  }
  for (const value of first(inverse(height, y), inverse(0, y))) {
    shape("line", { class: "grid", x1: 0, x2: width, y1: y(value), y2: y(value) }, back);
    if (y(value) > 44 && y(value) < height - 30) shape("text", { class: "tick", x: 6, y: y(value) - 4 }, back, short(value));
  }
  const told = part => known(layer.variance[part]) ? `PC${part + 1}, ${percent(layer.variance[part])} of the variance` : `PC${part + 1}`;
  shape("text", { class: "faint", x: 6, y: 16 }, back, `\u2191 ${told(1)}`);
  shape("text", { class: "faint end", x: width - 8, y: height - 24 }, back, `${told(0)} \u2192`);
}

// --- names that do not overlap ----------------------------------------------------------------------------------------
function labelBox(item, side) {
  const [x, y] = item.at, gap = item.kind === "home" ? 13 : 8, wide = item.wide, half = wide / 2;
  if (side === "right") return [x + gap, y - 8, x + gap + wide, y + 7];
  if (side === "left") return [x - gap - wide, y - 8, x - gap, y + 7];
  if (side === "above") return [x - half, y - gap - 13, x + half, y - gap + 1];
  return [x - half, y + gap - 1, x + half, y + gap + 13];
}
const meet = (a, b) => a[0] < b[2] + 2 && b[0] < a[2] + 2 && a[1] < b[3] && b[1] < a[3];

function write(item, side, area) {
  const anchor = side === "right" ? "start" : side === "left" ? "end" : "middle";
  const x = side === "right" ? area[0] : side === "left" ? area[2] : (area[0] + area[2]) / 2;
  item.label.style.textAnchor = anchor;
  item.label.setAttribute("x", (x - item.at[0]).toFixed(1));
  item.label.setAttribute("y", (area[3] - 3 - item.at[1]).toFixed(1));
}

// The side that covers the fewest dots, if any side is free of other names; `patience` dots may be covered.
function tryLabel(item, taken, patience) {
  if (!item.at) return false;
  let best = null;
  const sides = item.kind === "trait" && item.at[0] < frame.x(0) ? ["left", "right", "above", "below"] : SIDES;
  for (const side of sides) {
    const area = labelBox(item, side);
    if (area[0] < 2 || area[1] < 20 || area[2] > frame.width - 2 || area[3] > frame.height - 20) continue;
    if (taken.some(other => meet(area, other))) continue;
    const covered = roles.filter(dot => dot !== item && dot.at && meet(area, [dot.at[0] - 4, dot.at[1] - 4, dot.at[0] + 4, dot.at[1] + 4])).length;
    if (!best || covered < best.covered) best = { side, area, covered };
  }
  if (!best || best.covered > patience) return false;
  write(item, best.side, best.area);
  taken.push(best.area);
  return true;
}

// The ends of the axis first, then from the rim of the cloud inwards: the middle is where roles are alike.
function telling() {
  const seen = roles.filter(item => item.at), ranked = byProjection().filter(item => item.at);
  const mean = [0, 1].map(side => seen.reduce((sum, item) => sum + item.at[side], 0) / (seen.length || 1));
  const away = item => Math.hypot(item.at[0] - mean[0], item.at[1] - mean[1]);
  const rim = [...seen].sort((a, b) => away(b) - away(a));
  return [...new Set([...ranked.slice(0, 4), ...ranked.slice(-4), ...rim])];
}

function placeLabels() {
  for (const item of things.filter(item => item.at)) {
    item.wide = item.wide || item.label.getComputedTextLength() || 6.5 * item.name.length;
    const side = item.at[0] > 0.7 * frame.width ? "left" : "right"; // for a name that is shown only when pointed at
    write(item, side, labelBox(item, side));
  }
  const taken = [];
  if (home.at) {
    taken.push([home.at[0] - 11, home.at[1] - 11, home.at[0] + 11, home.at[1] + 11]);
    tryLabel(home, taken, 1e9);
  }
  const sought = roles.filter(item => item.node.classList.contains("match"));
  const named = new Set(sought.slice(0, 40).filter(item => tryLabel(item, taken, 1e9)));
  if (!find("arrows") || find("arrows").checked)
    for (const item of traits) item.tag.classList.toggle("named", tryLabel(item, taken, 3));
  const room = sought.length || !find("names").checked ? 0 : Math.round(frame.width * frame.height / 9000);
  for (const item of telling())
    if (named.size < room && !named.has(item) && tryLabel(item, taken, 0)) named.add(item);
  for (const item of roles) item.tag.classList.toggle("named", named.has(item));
}

// --- lists and figures beside the map ---------------------------------------------------------------------------------
const byProjection = () => roles.filter(item => known(item.from.p[k])).sort((a, b) => b.from.p[k] - a.from.p[k]);

function makeRow(name, role) {
  const row = element("div", "row"), who = element("span", "who"), track = element("span", "track");
  row.setAttribute("role", role);
  who.append(element("bdi", "", name));
  row.title = name;
  row.bar = element("i");
  row.zero = element("u");
  row.figure = element("span", "figure");
  track.append(row.bar, row.zero);
  row.append(who, track, row.figure);
  return row;
}

function fillRow(row, value, low, high, digits) {
  const at = part => 100 * (part - low) / (high - low || 1), there = known(value);
  row.zero.style.left = `calc(${at(0).toFixed(2)}% - 0.5px)`;
  row.bar.hidden = !there;
  row.bar.style.left = there ? Math.min(at(value), at(0)).toFixed(2) + "%" : "0";
  row.bar.style.width = there ? Math.abs(at(value) - at(0)).toFixed(2) + "%" : "0";
  row.figure.textContent = there ? signed(value, digits) : "\u2013";
}

roles.forEach((item, index) => {
  item.row = makeRow(item.name, "option");
  item.row.id = "role-" + index;
  item.row.addEventListener("pointerenter", event => event.pointerType === "mouse" && hover(item));
  item.row.addEventListener("pointerleave", () => hover(null));
  item.row.addEventListener("click", () => pin(pinned === item ? null : item));
});
for (const item of traits) {
  item.row = makeRow(item.name, "listitem");
  find("traits").append(item.row);
}

function drawLists() {
  const values = roles.map(item => item.from.p[k]).filter(known);
  const low = Math.min(0, ...values), high = Math.max(0, ...values), ranked = byProjection();
  const order = [...ranked, ...roles.filter(item => !known(item.from.p[k]))];
  order.forEach((item, rank) => {
    item.rank = rank + 1;
    const kept = ["now"].filter(name => item.row.classList.contains(name));
    item.row.className = ["row", tint(item.from.p[k]), ...kept].join(" ");
    fillRow(item.row, item.from.p[k], low, high, 1);
  });
  list.append(...order.map(item => item.row));
  const sorted = [...traits].sort((a, b) => (b.from.c[k] ?? -2) - (a.from.c[k] ?? -2));
  const most = Math.max(0.1, ...traits.map(item => Math.abs(item.from.c[k] ?? 0)));
  for (const item of sorted) {
    item.row.className = "row " + (item.from.c[k] < 0 ? "away" : "toward");
    fillRow(item.row, item.from.c[k], -most, most, 2);
    find("traits").append(item.row);
  }
}

function drawFigures() {
  const layer = data.layers[k], chosen = k === data.start;
  const shown = layer.variance.slice(0, 2).filter(known);
  const say = (id, text) => { find(id).textContent = text; find(id).classList.toggle("unknown", text === "not measured"); };
  say("fig-variance", shown.length ? percent(shown.reduce((sum, part) => sum + part, 0)) : "not measured");
  say("fig-70", layer.components70 > 0 ? String(layer.components70) : "not measured");
  say("fig-cosine", number(known(layer.cosine) ? Math.abs(layer.cosine) : null));
  say("fig-roles", number(layer.roles));
  say("fig-questions", number(layer.questions));
  say("fig-norm", known(layer.norm) ? short(layer.norm) : "not measured");
  find("layer-name").textContent = layer.layer + (chosen ? ", recommended" : "");
  find("layer-again").textContent = layer.layer;
  slider.setAttribute("aria-valuetext", `layer ${layer.layer}${chosen ? ", recommended" : ""}`);
  find("back").hidden = chosen;
  find("back").textContent = `back to ${data.layers[data.start].layer}`;
}

function drawVariance() {
  const svg = find("variance"), width = Math.max(svg.parentElement.clientWidth, 240), height = 220, foot = 22;
  const layer = data.layers[k], parts = layer.variance.slice(0, 12).filter(known), most = Math.max(0.01, ...parts);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  const slot = Math.min(width / Math.max(parts.length, 1), 64);
  parts.forEach((part, i) => {
    const tall = (height - foot - 20) * part / most, left = i * slot + 2, middle = left + (slot - 4) / 2;
    const rest = layer.components70 > 0 && i >= layer.components70 ? " rest" : "";
    shape("rect", { class: "vbar" + rest, x: left, y: height - foot - tall, width: slot - 4, height: tall }, svg);
    shape("text", { class: "middle", x: middle, y: height - foot - tall - 5 }, svg, slot < 36 ? number(100 * part, 0) : percent(part));
    shape("text", { class: "tick middle", x: middle, y: height - 6 }, svg, slot < 36 ? i + 1 : `PC${i + 1}`);
  });
  shape("line", { class: "axis", x1: 0, x2: slot * parts.length, y1: height - foot, y2: height - foot }, svg);
  const sum = parts.reduce((total, part) => total + part, 0), need = layer.components70;
  svg.style.display = parts.length ? "" : "none";
  find("variance-caption").textContent = parts.length ? `Percent of the variance. The ${counted(parts.length, "component")} `
    + `drawn ${parts.length === 1 ? "holds" : "hold"} ${percent(sum)}` + (need > parts.length ? `; 70% needs ${need}.`
      : need > 0 ? `; the first ${need === 1 ? "alone holds" : `${need} (dark) hold`} 70%.` : ".") : "Not measured at this layer.";
}

// --- pointing, pinning, searching -------------------------------------------------------------------------------------
function roleWords(item) {
  const { from } = item, where = element("p", "where"), swatch = element("i", tint(from.p[k]));
  const facts = [`${item.rank} of ${roles.length}, nearest the Assistant first`, counted(from.n, "answer")];
  if (from.distance) facts.push(`meant as ${from.distance}`);
  where.append(swatch, known(from.p[k]) ? `${signed(from.p[k], 1)} sigma on the axis` : "not measured at this layer");
  const parts = [where, element("p", "asked", facts.join(" \u00b7 "))];
  if (from.description) parts.push(element("p", "", from.description));
  if (from.question) parts.push(element("p", "asked", "Asked: " + from.question));
  if (from.example) parts.push(element("p", "said", from.example));
  return parts;
}

function words(item) {
  if (item.kind === "role") return roleWords(item);
  if (item.kind === "home") return [element("p", "", "Where the model's answers lie when it is asked to play no role: 0 sigma.")];
  const { c, x, y } = item.from;
  const side = !known(c[k]) ? "" : c[k] < 0 ? ": it points away from the Assistant" : ": it points towards the Assistant";
  return [element("p", "where", `cosine ${signed(c[k])} with the axis${side}`),
    element("p", "asked", `A trait's direction; cosine ${number(Math.hypot(x[k], y[k]))} with the plane of the map.`)];
}

function showTold() {
  const item = pinned || hovered;
  for (const other of things)
    for (const node of [other.node, other.tag, other.ray]) if (node) node.classList.toggle("now", other === item);
  for (const other of roles) {
    other.row.classList.toggle("now", other === item);
    other.row.setAttribute("aria-selected", String(other === pinned));
  }
  box.classList.toggle("pinned", Boolean(pinned));
  box.replaceChildren();
  if (!item) { list.removeAttribute("aria-activedescendant"); return; }
  if (item.kind === "role") { dots.append(item.node); list.setAttribute("aria-activedescendant", item.row.id); }
  const title = element("h4");
  title.append(element("bdi", "", item.kind === "home" ? "the default Assistant" : item.name));
  box.append(title, ...words(item));
  for (const part of box.children) part.dir = "auto";
  if (!item.at) return;
  const wide = box.offsetWidth, tall = box.offsetHeight, right = item.at[0] < frame.width / 2;
  box.style.left = Math.max(right ? item.at[0] + 20 : item.at[0] - 20 - wide, right ? 0 : -wide / 4) + "px";
  box.style.top = Math.max(Math.min(item.at[1] - tall / 2, frame.height - tall), 0) + "px";
}

function hover(item) {
  if (hovered === item) return;
  hovered = item;
  if (!pinned) showTold();
}

function pin(item) {
  pinned = item;
  if (!item) hovered = null;
  showTold();
  if (item && item.row && item.kind === "role") {
    const top = item.row.offsetTop - list.offsetTop;
    if (top < list.scrollTop || top + item.row.offsetHeight > list.scrollTop + list.clientHeight)
      list.scrollTop = top - list.clientHeight / 2;
  }
}

function nearest(event) {
  const area = plot.getBoundingClientRect(), ratio = frame.width / area.width;
  const x = (event.clientX - area.left) * ratio, y = (event.clientY - area.top) * ratio;
  const arrows = !find("arrows") || find("arrows").checked;
  let best = null, least = REACH;
  for (const item of things) {
    if (!item.at || (item.kind === "trait" && !arrows)) continue;
    const distance = Math.hypot(item.at[0] - x, item.at[1] - y);
    if (distance < least) { least = distance; best = item; }
  }
  return best;
}
plot.addEventListener("pointermove", event => { if (event.pointerType === "mouse") hover(nearest(event)); });
plot.addEventListener("pointerleave", () => hover(null));
plot.addEventListener("click", event => { const item = nearest(event); pin(item === pinned ? null : item); });

const WAYS = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
plot.addEventListener("keydown", event => {
  if (event.key === "Escape") return pin(null);
  const way = WAYS[event.key];
  if (!way) return;
  event.preventDefault();
  const from = pinned && pinned.at ? pinned : home.at ? home : roles.find(item => item.at);
  let best = null, least = Infinity;
  for (const item of [home, ...roles]) {
    if (!item.at || item === from || !from) continue;
    const dx = item.at[0] - from.at[0], dy = item.at[1] - from.at[1];
    const ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
    if (ahead > 0 && aside <= 2 * ahead && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = item; }
  }
  if (best) pin(best);
});
list.addEventListener("keydown", event => {
  if (event.key === "Escape") return pin(null);
  const rows = [...list.children].filter(row => !row.hidden), at = rows.findIndex(row => pinned && row === pinned.row);
  const next = { ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: rows.length - 1 }[event.key];
  if (next === undefined || !rows.length) return;
  event.preventDefault();
  const row = rows[Math.min(Math.max(next, 0), rows.length - 1)];
  pin(roles.find(item => item.row === row));
});

function seek() {
  const query = plain(find("search").value.trim().toLowerCase());
  const matches = item => item.name.toLowerCase().includes(query) || item.from.description.toLowerCase().includes(query);
  const hits = query ? roles.filter(matches) : [];
  for (const item of roles) {
    const hit = hits.includes(item);
    item.node.classList.toggle("match", hit);
    item.node.classList.toggle("dim", Boolean(query) && !hit);
    item.row.hidden = Boolean(query) && !hit;
  }
  find("found").textContent = query ? counted(hits.length, "role") : "";
  placeLabels();
}
find("search").addEventListener("input", seek);
find("search").addEventListener("keydown", event => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  event.preventDefault();
  if (event.key === "Escape") { event.target.value = ""; seek(); pin(null); return; }
  const row = [...list.children].find(other => !other.hidden);
  if (row) pin(roles.find(item => item.row === row));
});
find("names").addEventListener("change", placeLabels);
function showArrows() {
  plot.classList.toggle("no-arrows", !find("arrows").checked);
  placeLabels();
}
if (find("arrows")) find("arrows").addEventListener("change", showArrows);

// --- all of it --------------------------------------------------------------------------------------------------------
function draw() {
  ramp = makeRamp();
  placeAll();
  drawBack();
  drawLegend();
  drawLists();
  drawFigures();
  drawVariance();
  seek();
  showTold();
}
function still() {
  plot.classList.add("still");
  draw();
  plot.getBoundingClientRect(); // the places are taken before motion is allowed again
  requestAnimationFrame(() => plot.classList.remove("still"));
}
function go(to) { k = to; slider.value = to; draw(); }
slider.addEventListener("input", () => go(Number(slider.value)));
find("back").addEventListener("click", () => { go(data.start); slider.focus(); });
slider.value = k;
still();
if (find("arrows") && frame.width < 500) { find("arrows").checked = false; showArrows(); } // no room for both
let width = stage.clientWidth;
new ResizeObserver(() => { if (stage.clientWidth !== width) { width = stage.clientWidth; still(); } }).observe(stage);
})();
