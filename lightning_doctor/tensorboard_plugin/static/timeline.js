// When what began and passed: a strip for the list of runs, and rows with names for one run.

import { count, h, s } from "./dom.js";
import { SEVERITY_ORDER, severityOf } from "./signs.js";
import { linear } from "./scale.js";

const STRIP = 240;
const MOST_ROWS = 10;

function span(finding, last) {
  const from = finding.onset ?? finding.step ?? 0;
  return [from, Math.max(from, finding.recovered_at ?? last)];
}

function gravest(findings) {
  return [...findings].sort((a, b) => SEVERITY_ORDER.indexOf(severityOf(a.severity)) - SEVERITY_ORDER.indexOf(severityOf(b.severity)));
}

// course: [[code, severity, onset, step, recovered_at]]
export function strip(course, last) {
  const findings = course.map(([code, severity, onset, step, recovered_at]) => ({ code, severity, onset, step, recovered_at }));
  const x = linear(0, Math.max(1, last), 0, STRIP);
  // The gravest lie over the others, and what has passed lies under what has not.
  const bars = gravest(findings).reverse().sort((a, b) => (a.recovered_at === null) - (b.recovered_at === null));
  return s(
    "svg",
    { class: "strip", viewBox: `0 0 ${STRIP} 6`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "track", x: 0, y: 2, width: STRIP, height: 2 }),
    bars.map((finding) => {
      const [from, to] = span(finding, last);
      const width = Math.min(STRIP, Math.max(3, x.place(to) - x.place(from)));
      const place = Math.min(x.place(from), STRIP - width);
      return s("rect", { class: `bar severity-${severityOf(finding.severity)}${finding.recovered_at === null ? "" : " passed"}`, x: place, y: finding.recovered_at === null ? 0 : 1, width, height: finding.recovered_at === null ? 6 : 4 });
    }),
  );
}

export function timeline(findings, recovered, last) {
  const all = [...findings, ...recovered];
  if (!all.length) return null;
  const shown = all.slice(0, MOST_ROWS);
  const end = Math.max(1, last);
  const percent = (step) => `${Math.min(100, Math.max(0, (step / end) * 100))}%`;
  const rows = shown.map((finding) => {
    const [from, to] = span(finding, last);
    const bar = h("div", { class: `span severity-${severityOf(finding.severity)}${finding.recovered_at === null ? "" : " passed"}` });
    // What began with the last step is as wide as can be seen, inside its lane.
    bar.style.left = `min(${percent(from)}, 100% - 6px)`;
    bar.style.width = percent(to - from);
    const track = h("div", { class: "lane" }, bar);
    const name = h("span", { class: `lane-name${finding.explained_by === null ? "" : " symptom"}` }, `${finding.code} ${finding.name.replaceAll("_", " ")}`);
    return h("li", { title: finding.course }, name, track, h("span", { class: "hidden" }, `: ${finding.course}`));
  });
  const axis = h("div", { class: "lane-axis", "aria-hidden": "true" }, h("span", {}, "step 0"), h("span", {}, `step ${count(last)}`));
  const more = all.length - shown.length;
  return h(
    "div",
    { class: "timeline" },
    h("ul", { class: "lanes", "aria-label": "When what began" }, rows),
    axis,
    more > 0 ? h("p", { class: "soft" }, `and ${count(more)} more`) : null,
  );
}
