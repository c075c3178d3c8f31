// The curvature panel: what kind of point the run is at, the spectrum, the line scan, sharpness against its limit.

import { HEIGHT, WIDTH, lineChart } from "./chart.js";
import { figure, h, number, s } from "./dom.js";
import { linear } from "./scale.js";

export function curvature(table, last) {
  const charts = [spectrum(table.density), scan(table), sharpness(table, last)].filter((chart) => chart !== null);
  const kind = table.kind ? h("p", {}, h("b", {}, table.kind), table.because ? `: ${table.because}` : "", table.step === null ? "" : ` (step ${table.step})`) : null;
  return [kind, h("div", { class: "charts" }, charts)];
}

function sharpness(table, last) {
  if (!table.sharpness.steps.length) return null;
  const levels = [];
  if (table.low !== null) levels.push([table.low === table.high ? "limit" : "limit of small batches", table.low]);
  if (table.high !== null && table.high !== table.low) levels.push(["limit of large batches", table.high]);
  const name = table.gauge.replace("curvature/", "");
  const chart = lineChart({ title: `${name} against its limit`, curves: [{ name, ...table.sharpness }], levels, end: last });
  if (table.source) chart.append(h("p", { class: "soft source" }, `Limit: ${table.source}`));
  return chart;
}

function scan(table) {
  if (table.line.length < 3) return null;
  const which = table.escape === null ? "the gradient" : "the way down";
  return lineChart({
    title: `loss along ${which}`,
    curves: [{ name: "loss", steps: table.line.map(([x]) => x), values: table.line.map(([, y]) => y) }],
    across: "distance",
  });
}

// A bar for each point, as high as the logarithm of its share of the eigenvalues.
function spectrum(density) {
  const bars = density.map(([x, share]) => [number(x), number(share)]).filter(([, share]) => share > 0);
  if (bars.length < 2) return null;
  const [left, right, top, bottom] = [50, 10, 12, 24];
  const logs = bars.map(([place, share]) => [place, Math.log10(share)]);
  const floor = Math.min(...logs.map(([, height]) => height)) - 0.5;
  const x = linear(Math.min(...logs.map(([place]) => place)), Math.max(...logs.map(([place]) => place)), left + 4, WIDTH - right - 4);
  const y = linear(floor, 0, HEIGHT - bottom, top);
  const svg = s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
  svg.setAttribute("aria-label", `Spectrum of the Hessian: eigenvalues from ${figure(x.low)} to ${figure(x.high)}.`);
  for (const power of y.ticks(4)) {
    const place = y.place(power);
    svg.append(
      s("line", { class: "grid", x1: left, x2: WIDTH - right, y1: place, y2: place }),
      s("text", { class: "tick", x: left - 5, y: place + 3.5, "text-anchor": "end" }, figure(10 ** power)),
    );
  }
  for (const tick of x.ticks(4)) svg.append(s("text", { class: "tick", x: x.place(tick), y: HEIGHT - 8, "text-anchor": "middle" }, figure(tick)));
  if (x.low < 0 && x.high > 0) svg.append(s("line", { class: "axis", x1: x.place(0), x2: x.place(0), y1: top, y2: HEIGHT - bottom }));
  for (const [place, height] of logs) {
    svg.append(s("rect", { class: place < 0 ? "stick negative" : "stick", x: x.place(place) - 1.5, width: 3, y: y.place(height), height: HEIGHT - bottom - y.place(height) }));
  }
  return h(
    "figure",
    { class: "figure" },
    h("figcaption", {}, h("span", { class: "chart-title" }, "spectrum of the Hessian"), h("span", { class: "soft" }, "share, log")),
    svg,
  );
}
