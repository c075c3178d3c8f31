// Findings: a card for each root cause, its symptoms under it.

import { lineChart } from "./chart.js";
import { coded, h, plural } from "./dom.js";
import { opener } from "./manual.js";
import { badge } from "./signs.js";

// As many begin open; charts of the others are drawn when they are opened.
const OPEN = 4;
const MOST_CHARTS = 3;

export function cards(snapshot, source) {
  const roots = snapshot.findings.filter((finding) => finding.explained_by === null);
  const known = new Set(roots.map((finding) => finding.code));
  // One whose cause is not here stands for itself.
  const stray = snapshot.findings.filter((finding) => finding.explained_by !== null && !known.has(finding.explained_by));
  return [...roots, ...stray].map((finding, index) => {
    const symptoms = snapshot.findings.filter((other) => other.explained_by === finding.code && other.explained_by !== null && !stray.includes(other));
    return card(finding, { snapshot, source, symptoms, open: index < OPEN, cause: true });
  });
}

export function recoveredCards(snapshot, source) {
  return snapshot.recovered.map((finding) => card(finding, { snapshot, source, symptoms: [], open: false, cause: true }));
}

function card(finding, { snapshot, source, symptoms, open, cause }) {
  const body = h("div", { class: "card-body" });
  const fill = () => {
    if (body.childElementCount) return;
    body.append(...contents(finding, { snapshot, source, symptoms, cause }));
  };
  const title = h(
    "summary",
    {},
    badge(finding.severity),
    h(cause ? "h3" : "h5", {}, h("span", { class: "code" }, finding.code), " ", words(finding.name)),
    finding.confidence === "suspected" ? h("span", { class: "chip" }, "suspected") : null,
    h("span", { class: "since" }, finding.recovered_at === null ? `since step ${finding.onset ?? finding.step}` : `passed by step ${finding.recovered_at}`),
  );
  const details = h("details", { class: `card severity-${finding.severity}`, "data-key": `card ${finding.code} ${finding.name}`, open }, title, body);
  if (open) fill();
  details.addEventListener("toggle", () => details.open && fill());
  return details;
}

function contents(finding, { snapshot, source, symptoms, cause }) {
  // Under the heading of the card itself.
  const heading = cause ? "h4" : "h6";
  const signals = finding.signals.filter((name) => Object.hasOwn(snapshot.signals, name)).slice(0, MOST_CHARTS);
  return [
    h("p", { class: "summary" }, coded(finding.summary)),
    finding.remedy ? h("div", { class: "remedy" }, h(heading, {}, cause ? "What to do" : "If it stays"), h("p", {}, coded(finding.remedy))) : null,
    signals.length ? h("div", { class: "charts" }, signals.map((name) => chartOf(name, finding, snapshot))) : null,
    signals.length && finding.no_level ? h("p", { class: "soft no-level" }, `No level is drawn: ${finding.no_level}.`) : null,
    evidence(finding, heading),
    symptoms.length
      ? h(
          "section",
          { class: "symptoms" },
          h("h4", {}, `${plural(symptoms.length, "symptom")} of it, to pass when it is treated`),
          symptoms.map((symptom) => card(symptom, { snapshot, source, symptoms: [], open: false, cause: false })),
        )
      : null,
    h("p", { class: "foot" }, h("span", { class: "soft" }, sentence(finding.course)), opener(finding.code, source)),
  ].filter((part) => part !== null);
}

export function chartOf(name, finding, snapshot) {
  const curve = snapshot.signals[name];
  return lineChart({
    title: name,
    curves: [{ name, ...curve }],
    onset: finding?.onset ?? null,
    levels: finding?.levels?.[name] ?? [],
    end: snapshot.step,
  });
}

function evidence(finding, heading) {
  if (!finding.evidence.length) return null;
  const rows = finding.evidence.map(([key, value]) => h("div", {}, h("dt", {}, key.replaceAll("_", " ")), h("dd", {}, value)));
  return h("div", { class: "evidence" }, h(heading, {}, "Evidence"), h("dl", {}, rows));
}

export function words(name) {
  return name.replaceAll("_", " ");
}

function sentence(clause) {
  return clause ? `${clause[0].toUpperCase()}${clause.slice(1)}.` : "";
}
