// Small line charts, drawn by hand: curves over steps, with the onset of a finding and the levels it is judged by.

import { count, figure, h, number, plural, s } from "./dom.js";
import { linear, vertical } from "./scale.js";

export const WIDTH = 340;
export const HEIGHT = 156;
const LEFT = 50;
const RIGHT = 10;
const TOP = 12;
const BOTTOM = 24;
const FEW = 16;
export const COLOURS = 8;
// Of two colours that some eyes take for one the curves differ in their dashes.
const DASHES = [0, 1, 2, 1, 0, 1, 0, 2];

// curves: [{name, steps, values}], onset: a step or null, levels: [[name, value]].
export function lineChart({ title, curves, onset = null, levels = [], across = "step", legend = curves.length > 1, end = null }) {
  const lines = curves.map((curve) => ({
    name: curve.name,
    points: curve.steps.map((step, index) => [number(step), number(curve.values[index])]),
  }));
  const all = lines.flatMap((line) => line.points);
  if (!all.length) return h("p", { class: "soft" }, `${title}: no values`);
  const steps = all.map(([step]) => step).concat(end === null ? [] : [end]);
  const kept = levels.map(([name, value]) => [String(name).replaceAll("_", " "), number(value)]);
  const [first, last] = bounds(steps);
  const x = linear(across === "step" ? Math.min(0, first) : first, last, LEFT, WIDTH - RIGHT);
  const y = vertical(all.map(([, value]) => value).concat(kept.map(([, value]) => value)), HEIGHT - BOTTOM, TOP);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.setAttribute("aria-label", described(title, lines, onset, kept, across));
  axes(svg, x, y, across);
  if (y.empty) svg.append(s("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no finite value"));
  if (onset !== null && onset >= x.low && onset <= x.high) {
    const place = x.place(onset);
    const late = place > WIDTH / 2;
    // Under the marks of values that are not finite.
    const height = all.every(([, value]) => Number.isFinite(value)) ? TOP + 2 : TOP + 14;
    svg.append(
      s("line", { class: "onset", x1: place, x2: place, y1: TOP - 4, y2: HEIGHT - BOTTOM }),
      s("text", { class: "onset-name", x: place + (late ? -4 : 4), y: height, "text-anchor": late ? "end" : "start" }, "onset"),
    );
  }
  lines.forEach((line, index) => svg.append(path(line.points, x, y, index, lines.length > 1)));
  // Over the curves: their names must be read.
  levelLines(svg, kept, y);
  const readout = h("span", { class: "readout" }, ending(lines));
  follow(svg, lines, x, y, readout);
  return h(
    "figure",
    { class: "figure" },
    h("figcaption", {}, h("span", { class: "chart-title" }, title), y.log ? h("span", { class: "soft" }, "log") : null, readout),
    svg,
    legend ? legendOf(lines) : null,
  );
}

export function legendOf(lines) {
  return h(
    "ul",
    { class: "legend" },
    lines.map((line, index) => h("li", {}, swatch(index), h("span", {}, line.name))),
  );
}

export function swatch(index) {
  return s(
    "svg",
    { class: "swatch", viewBox: "0 0 24 8", "aria-hidden": "true" },
    s("line", { class: lineClass(index), x1: 0, x2: 24, y1: 4, y2: 4 }),
  );
}

function lineClass(index) {
  return `curve colour-${index % COLOURS} dash-${Math.floor(index / COLOURS) % 2 ? "long" : DASHES[index % COLOURS]}`;
}

function bounds(values) {
  return [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
}

function axes(svg, x, y, across) {
  const ticks = y.empty ? [] : y.ticks(4);
  const names = apart(ticks);
  for (const [index, tick] of ticks.entries()) {
    const place = y.place(tick);
    svg.append(
      s("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: place, y2: place }),
      s("text", { class: "tick", x: LEFT - 5, y: place + 3.5, "text-anchor": "end" }, names[index]),
    );
  }
  for (const tick of x.ticks(4)) {
    const name = across === "step" ? count(tick) : figure(tick);
    // The name of the last one stays inside.
    svg.append(s("text", { class: "tick", x: Math.min(x.place(tick), WIDTH - 3.6 * name.length), y: HEIGHT - 8, "text-anchor": "middle" }, name));
  }
  svg.append(s("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM }));
}

// Figures of ticks with as many digits as tell them apart.
function apart(ticks) {
  const names = ticks.map((tick) => figure(tick));
  for (let digits = 5; digits < 9 && new Set(names).size < names.length; digits++) {
    ticks.forEach((tick, index) => (names[index] = String(Number(tick.toPrecision(digits)))));
  }
  return names;
}

function levelLines(svg, levels, y) {
  // Names of two that lie together would write over each other: they take sides.
  let last = null;
  let side = false;
  for (const [name, value] of [...levels].sort((one, other) => one[1] - other[1])) {
    if (!Number.isFinite(value)) continue;
    const place = y.place(value);
    const crowded = last !== null && Math.abs(last - place) < 11;
    const left = crowded && !side;
    svg.append(
      s("line", { class: "level", x1: LEFT, x2: WIDTH - RIGHT, y1: place, y2: place }),
      s(
        "text",
        { class: "level-name", x: left ? LEFT + 4 : WIDTH - RIGHT, y: place + (place < TOP + 10 ? 10 : -3), "text-anchor": left ? "start" : "end" },
        `${name} ${figure(value)}`,
      ),
    );
    last = place;
    side = left;
  }
}

function path(points, x, y, index, several) {
  const group = s("g", {});
  const finite = ([, value]) => Number.isFinite(value) && (!y.log || value > 0);
  let d = "";
  points.forEach((point, at) => {
    if (!finite(point)) return;
    const begins = at === 0 || !finite(points[at - 1]);
    d += `${begins ? "M" : "L"}${x.place(point[0]).toFixed(1)} ${y.place(point[1]).toFixed(1)}`;
    const alone = begins && (at === points.length - 1 || !finite(points[at + 1]));
    // Few points: a reader shall see that the line between them was not measured.
    if (alone || points.length <= FEW) group.append(s("circle", { class: `dot colour-${index % COLOURS}`, cx: x.place(point[0]), cy: y.place(point[1]), r: 2 }));
  });
  if (d) group.append(s("path", { class: lineClass(index), d }));
  let last = -Infinity;
  for (const [step, value] of points) {
    const place = x.place(step);
    if (Number.isFinite(value) || place < last + 9) continue;
    last = place;
    group.append(s("path", { class: several ? `broken colour-${index % COLOURS}` : "broken", d: `M${place - 3} ${TOP - 5}l6 6m-6 0l6-6` }));
  }
  return group;
}

function ending(lines) {
  const points = lines.length === 1 ? lines[0].points : [];
  return points.length ? figure(points[points.length - 1][1]) : "";
}

// The pointer's nearest point, in words, beside the title.
function follow(svg, lines, x, y, readout) {
  const before = readout.textContent;
  const marker = s("line", { class: "pointer", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" });
  svg.append(marker);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const wanted = ((event.clientX - box.left) / box.width) * WIDTH;
    const near = lines.map((line) => line.points.reduce((a, b) => (Math.abs(x.place(b[0]) - wanted) < Math.abs(x.place(a[0]) - wanted) ? b : a), line.points[0]));
    const at = near.find((point) => point !== undefined);
    if (at === undefined) return;
    marker.setAttribute("x1", x.place(at[0]));
    marker.setAttribute("x2", x.place(at[0]));
    marker.setAttribute("visibility", "visible");
    readout.textContent = `${figure(at[0])}: ${near.map((point) => (point ? figure(point[1]) : "–")).join(" · ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    marker.setAttribute("visibility", "hidden");
    readout.textContent = before;
  });
}

function described(title, lines, onset, levels, across) {
  const parts = lines.slice(0, 4).map(({ name, points }) => {
    if (!points.length) return `${name}: no values`;
    const [first, last] = [points[0], points[points.length - 1]];
    const broken = points.filter(([, value]) => !Number.isFinite(value)).length;
    const gaps = broken ? `, ${plural(broken, "value")} not finite` : "";
    return `${name} goes from ${figure(first[1])} at ${across} ${figure(first[0])} to ${figure(last[1])} at ${across} ${figure(last[0])}${gaps}`;
  });
  if (onset !== null) parts.push(`onset at step ${onset}`);
  for (const [name, value] of levels) parts.push(`level ${name} at ${figure(value)}`);
  return `Chart of ${title}: ${parts.join("; ")}.`;
}
