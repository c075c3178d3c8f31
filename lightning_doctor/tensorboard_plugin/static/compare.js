// Several runs beside each other: what comparing them comes to, their curves on one axis, their verdicts in columns.

import { lineChart, legendOf, swatch } from "./chart.js";
import { words } from "./cards.js";
import { coded, h, plural } from "./dom.js";
import { badge, stateIcon, stateOf, stateWord } from "./signs.js";

const SIGNALS = ["train_loss", "val_loss", "val_metric", "learning_rate"];

export function comparison(result, choose) {
  const { runs } = result;
  const drawn = SIGNALS.filter((signal) => runs.some((run) => Object.hasOwn(run.signals, signal)));
  return h(
    "article",
    {},
    h("header", { class: "banner state-unknown" }, h("div", { class: "banner-text" }, h("h2", {}, h("span", { class: "state-word" }, "Compare"), " ", plural(runs.length, "run")))),
    result.errors.map((error) => h("p", { class: "trouble" }, error)),
    result.rows.length ? panel("outcome", "What comparing them comes to", table(result), h("ul", { class: "remarks" }, result.lines.map((line) => h("li", {}, line)))) : null,
    panel(
      "curves",
      "Curves",
      legendOf(runs.map((run) => ({ name: run.run }))),
      h("div", { class: "charts wide" }, drawn.map((signal) => lineChart({ title: signal, curves: runs.map((run) => curveOf(run, signal)), legend: false }))),
    ),
    panel("columns-panel", "Side by side", h("div", { class: "beside" }, runs.map((run, index) => column(run, index, choose)))),
  );
}

// A run without this signal keeps its place, so that colours stay those of the legend.
function curveOf(run, signal) {
  return { name: run.run, ...(run.signals[signal] ?? { steps: [], values: [] }) };
}

function panel(key, title, ...content) {
  return h("section", { class: `panel ${key}`, "aria-labelledby": `title-${key}` }, h("h2", { id: `title-${key}` }, title), content);
}

function table({ headings, rows, runs }) {
  const states = new Map(runs.map((run) => [run.run, stateOf(run.state)]));
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "group", "aria-label": "Figures of the runs" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, [...headings, "its own report"].map((heading) => h("th", { scope: "col" }, heading)))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, index) => (index ? h("td", {}, cell) : h("th", { scope: "row" }, cell))), own(states.get(row[0]))))),
    ),
  );
}

function own(state) {
  return h("td", {}, state === undefined ? null : h("span", { class: `state-line state-${state}` }, stateIcon(state), h("b", { class: "state-word" }, stateWord(state))));
}

function column(run, index, choose) {
  const roots = run.findings.filter((finding) => finding.explained_by === null);
  return h(
    "section",
    { class: `run-column state-${stateOf(run.state)}` },
    h("h3", {}, swatch(index), " ", h("button", { type: "button", class: "link", "data-key": `column ${run.run}`, onclick: () => choose(run.run) }, run.run)),
    h("p", { class: "state-line" }, stateIcon(run.state), " ", h("b", { class: "state-word" }, stateWord(run.state)), h("span", { class: "soft" }, run.stage)),
    h("p", {}, run.verdict),
    roots.slice(0, 4).map((finding) =>
      h("div", { class: "brief" }, h("p", {}, badge(finding.severity), " ", h("b", {}, `${finding.code} ${words(finding.name)}`)), h("p", {}, coded(finding.summary)), h("p", { class: "soft" }, "→ ", coded(finding.remedy))),
    ),
    roots.length > 4 ? h("p", { class: "soft" }, `and ${roots.length - 4} more`) : null,
    h("p", { class: "soft" }, `The tree ends at ${run.conclusion}. Cost of the doctor: ${run.cost}.`),
  );
}
