// The series at a point: a drawing with the band between the outer quantiles, and the same numbers as a table.
import { clock, number, units } from "./api.js";

const WIDTH = 360, HEIGHT = 210, LEFT = 38, RIGHT = 8, TOP = 12, BOTTOM = 24;
const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const pairs = (one) => one ? one.times.map((t, i) => [t, one.values[i]]).filter((p) => p[1] !== null) : [];

const percent = (share) => Number((100 * share).toPrecision(4));

function niceStep(range) {
  const power = 10 ** Math.floor(Math.log10(range / 4));
  return [1, 2, 5, 10].find((factor) => factor * power * 5 >= range) * power;
}

// `lines`: {seen, mean, matched, quantiles: [[share, series]]}, each {times, values}; returns what moves the cursor. `amounts` begin at zero, as rain does.
export function chart(place, lines, unit, init, amounts) {
  const all = [lines.seen, lines.mean, lines.matched, ...lines.quantiles.map((q) => q[1])].flatMap(pairs);
  place.replaceChildren();
  if (!all.length) {
    place.append(element("p", "No values here."));
    return () => {};
  }
  const times = all.map((p) => p[0]), values = all.map((p) => p[1]);
  const first = Math.min(...times), last = Math.max(...times);
  const lowest = Math.min(...values), highest = Math.max(...values);
  const fromZero = lowest >= 0 && (amounts || highest - lowest >= lowest / 2);
  const step = niceStep(fromZero ? Math.max(highest, 0.4) : Math.max(highest - lowest, 1e-6));
  const bottom = fromZero ? 0 : Math.floor(lowest / step) * step;
  const top = Math.max(bottom + step, Math.ceil((fromZero ? Math.max(highest, 0.4) : highest) / step) * step);
  const x = (t) => LEFT + (t - first) / (last - first || 1) * (WIDTH - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - (v - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM);
  const path = (points, gap = Infinity) => points.map(([t, v], i) =>
    `${i && Math.abs(t - points[i - 1][0]) <= gap ? "L" : "M"}${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join("");
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "Series; the table below has its numbers" });
  for (let i = 0; i <= Math.round((top - bottom) / step); i++) {
    const v = bottom + step * i;
    svg.append(draw("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(v), y2: y(v) }));
    svg.append(draw("text", { x: LEFT - 4, y: y(v) + 4, "text-anchor": "end" }, Number(v.toPrecision(4))));
  }
  svg.append(draw("text", { x: LEFT + 3, y: TOP - 2 }, units(unit)));
  const minutes = [1, 2, 5, 10, 15, 20, 30, 60, 120, 180, 360].find((m) => (last - first) / 6e4 / m <= 6) || 720;
  for (let t = Math.ceil(first / (minutes * 6e4)) * minutes * 6e4; t <= last; t += minutes * 6e4) {
    const anchor = x(t) > WIDTH - 20 ? "end" : "middle";
    svg.append(draw("text", { x: x(t), y: HEIGHT - 8, "text-anchor": anchor }, clock(t)));
    svg.append(draw("line", { class: "axis", x1: x(t), x2: x(t), y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }));
  }
  const key = [];
  const shares = lines.quantiles.length;
  if (shares > 1) {
    for (let i = 0; i < Math.floor(shares / 2); i++) {  // the outer band first, those within on top of it
      const [[from, low], [to, high]] = [lines.quantiles[i], lines.quantiles[shares - 1 - i]];
      const className = i ? "band inner" : "band";
      svg.append(draw("path", { class: className, d: `${path([...pairs(low), ...pairs(high).reverse()])}Z` }));
      key.push([className, `${percent(from)} to ${percent(to)} % quantile`]);
    }
    const middle = lines.quantiles.find((q) => q[0] === 0.5);
    if (middle) {
      svg.append(draw("path", { class: "median", d: path(pairs(middle[1])) }));
      key.push(["median", "median"]);
    }
  }
  if (init > first && init < last) svg.append(draw("line", { class: "start", x1: x(init), x2: x(init), y1: TOP, y2: HEIGHT - BOTTOM }));
  for (const [name, label] of [["matched", "matched"], ["mean", "mean"], ["seen", "observed"]]) {
    const points = pairs(lines[name]);
    if (!points.length) continue;
    const steps = points.slice(1).map(([t], i) => t - points[i][0]);
    svg.append(draw("path", { class: name, d: path(points, 1.5 * Math.min(...steps)) }));  // no line over a missing frame
    if (name === "seen") for (const [t, v] of points) svg.append(draw("circle", { class: "seen-dot", cx: x(t), cy: y(v), r: 2 }));
    key.unshift([name, label]);
  }
  const cursor = draw("line", { class: "cursor", x1: 0, x2: 0, y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(cursor);
  const list = element("ul", undefined, "key");
  for (const [name, label] of key) {
    const item = element("li"), sample = draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" });
    sample.append(name.startsWith("band") ? draw("rect", { class: name, width: 26, height: 10 }) : draw("path", { class: name, d: "M0 5H26" }));
    item.append(sample, label);
    list.append(item);
  }
  place.append(svg, list);
  return (time) => {
    const inside = time >= first && time <= last;
    cursor.setAttribute("visibility", inside ? "visible" : "hidden");
    if (inside) for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(time));
  };
}

// `columns`: [[title, kind, {times, values}]]; rows are marked by their time.
export function table(place, columns) {
  const head = element("tr"), rows = new Map();
  head.append(element("th", "UTC"), ...columns.map(([title]) => element("th", title)));
  columns.forEach(([, kind, one], column) => one.times.forEach((time, i) => {
    if (!rows.has(time)) rows.set(time, Array(columns.length).fill(""));
    rows.get(time)[column] = number(one.values[i], kind);
  }));
  const body = [...rows.keys()].sort((a, b) => a - b).map((time) => {
    const row = element("tr");
    row.dataset.time = time;
    row.append(element("td", clock(time)), ...rows.get(time).map((text) => element("td", text)));
    return row;
  });
  place.replaceChildren(head, ...body);
}
