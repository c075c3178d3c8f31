// One run: its verdict, when what began, its findings, the walk through the tree, and what could not be judged.

import { cards, chartOf, recoveredCards } from "./cards.js";
import { curvature } from "./curvature.js";
import { count, h, plural } from "./dom.js";
import { stateIcon, stateOf, stateWord } from "./signs.js";
import { timeline } from "./timeline.js";
import { tree } from "./tree.js";

const VITAL = ["train_loss", "val_loss", "val_metric", "learning_rate"];

export function detail(name, snapshot, source) {
  if (snapshot.error) return h("article", {}, banner(name, { state: "unread", verdict: snapshot.error }));
  const vital = VITAL.filter((signal) => Object.hasOwn(snapshot.signals, signal));
  const found = cards(snapshot, source);
  const aside = section("walk", "The way through the tree", tree(snapshot.answers, snapshot.end, snapshot.conclusion));
  const main = [
    found.length ? section("findings", plural(snapshot.findings.length, "finding"), found, leftOut(snapshot)) : null,
    vital.length ? section("vital", "Vital signs", h("div", { class: "charts" }, vital.map((signal) => chartOf(signal, null, snapshot)))) : null,
    snapshot.curvature === null ? null : section("curvature", "Curvature", curvature(snapshot.curvature, snapshot.step)),
    snapshot.recovered.length ? section("recovered", "Passed", recoveredCards(snapshot, source)) : null,
    section("judged", "What could be judged", judged(snapshot)),
    snapshot.notes.length ? section("notes", "About the doctor itself", snapshot.notes.map((note) => h("pre", {}, note))) : null,
  ];
  return h("article", {}, banner(name, snapshot), h("div", { class: "columns" }, h("div", { class: "column" }, main), h("div", { class: "column side" }, aside)));
}

function banner(name, snapshot) {
  const state = stateOf(snapshot.state);
  return h(
    "header",
    { class: `banner state-${state}` },
    stateIcon(state),
    h(
      "div",
      { class: "banner-text" },
      h("p", { class: "banner-run" }, name),
      h("h2", {}, h("span", { class: "state-word" }, stateWord(state)), " ", h("span", { class: "verdict" }, snapshot.verdict)),
      snapshot.stage === undefined
        ? null
        : h(
            "ul",
            { class: "facts" },
            h("li", {}, snapshot.ended ? snapshot.stage : `${snapshot.stage}, as far as it is seen`),
            snapshot.patient ? h("li", {}, snapshot.patient) : null,
            h("li", { title: "the time that the doctor itself has taken" }, `cost of the doctor: ${snapshot.cost}`),
          ),
      snapshot.findings === undefined ? null : timeline(snapshot.findings, snapshot.recovered, snapshot.step),
    ),
  );
}

function section(key, title, ...content) {
  return h("section", { class: `panel ${key}`, "aria-labelledby": `title-${key}` }, h("h2", { id: `title-${key}` }, title), content);
}

function leftOut(snapshot) {
  return snapshot.left_out > 0 ? h("p", { class: "soft" }, `${plural(snapshot.left_out, "finding")} more did not fit; doctor.json has them all.`) : null;
}

function judged(snapshot) {
  const unassessed = snapshot.unassessed.reduce((sum, group) => sum + group.rules.length, 0);
  const rows = snapshot.unassessed.map((group) => h("tr", {}, h("td", {}, group.rules.map((rule) => h("div", {}, words(rule)))), h("td", {}, group.reason)));
  const table = h(
    "table",
    {},
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Not judged"), h("th", { scope: "col" }, "Because"))),
    h("tbody", {}, rows),
  );
  return [
    h("p", {}, `${snapshot.judged[0].toUpperCase()}${snapshot.judged.slice(1)}.`),
    snapshot.healthy.length
      ? h("details", { "data-key": "healthy" }, h("summary", {}, `${count(snapshot.healthy.length)} looked and found it well`), h("ul", { class: "rules" }, snapshot.healthy.map((rule) => h("li", {}, words(rule)))))
      : null,
    rows.length ? h("details", { "data-key": "unassessed" }, h("summary", {}, `${count(unassessed)} could not judge, and why`), table) : null,
  ];
}

function words(title) {
  return title.replaceAll("_", " ");
}
