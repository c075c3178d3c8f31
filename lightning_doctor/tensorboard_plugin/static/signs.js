// How states and severities look: each has a shape and a word of its own beside its colour.

import { h, s } from "./dom.js";

const STATES = {
  ill: { word: "Ill", shape: "octagon" },
  watch: { word: "Watch", shape: "eye" },
  well: { word: "Well", shape: "check" },
  unknown: { word: "Not judged", shape: "question" },
  unread: { word: "Not readable", shape: "question" },
};
const SEVERITIES = {
  error: { word: "Error", shape: "octagon" },
  warning: { word: "Warning", shape: "triangle" },
  note: { word: "Note", shape: "info" },
};

const SHAPES = {
  octagon: ["M7.2 1.5h9.6L22.5 7.2v9.6l-5.7 5.7H7.2l-5.7-5.7V7.2z", "M8 8l8 8M16 8l-8 8"],
  triangle: ["M12 2.2 23 21.5H1z", "M12 9v6M12 17.6v.8"],
  check: ["M12 1.5a10.5 10.5 0 1 0 0 21 10.5 10.5 0 0 0 0-21z", "M7 12.4l3.4 3.4L17 9"],
  info: ["M12 1.5a10.5 10.5 0 1 0 0 21 10.5 10.5 0 0 0 0-21z", "M12 11v6M12 7v.8"],
  question: ["M3 3h18v18H3z", "M9.2 9.2a2.8 2.8 0 1 1 3.9 2.9c-.8.4-1.1.9-1.1 1.9M12 17.2v.6"],
  eye: ["M12 4.5C6.5 4.5 2.6 8.6 1 12c1.6 3.4 5.5 7.5 11 7.5s9.4-4.1 11-7.5c-1.6-3.4-5.500-7.500-11-7.500z", "M12 9a3 3 0 1 0 0 6 3 3 0 0 0 0-6z"],
};

function icon(shape, className) {
  const [body, mark] = SHAPES[shape];
  return s(
    "svg",
    { class: `icon ${className}`, viewBox: "0 0 24 24", "aria-hidden": "true" },
    s("path", { class: "icon-body", d: body }),
    s("path", { class: "icon-mark", d: mark }),
  );
}

export function stateOf(name) {
  return Object.hasOwn(STATES, name) ? name : "unknown";
}

export function stateWord(name) {
  return STATES[stateOf(name)].word;
}

export function stateIcon(name) {
  return icon(STATES[stateOf(name)].shape, `state-${stateOf(name)}`);
}

export function severityOf(name) {
  return Object.hasOwn(SEVERITIES, name) ? name : "note";
}

export function severityIcon(name) {
  return icon(SEVERITIES[severityOf(name)].shape, `severity-${severityOf(name)}`);
}

export function badge(name) {
  return h("span", { class: `badge severity-${severityOf(name)}` }, severityIcon(name), SEVERITIES[severityOf(name)].word);
}

// The gravest first.
export const STATE_ORDER = ["ill", "watch", "unread", "unknown", "well"];
export const SEVERITY_ORDER = ["error", "warning", "note"];
