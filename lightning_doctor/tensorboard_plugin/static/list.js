// The list of runs: a verdict each, when what began, and which of them to compare.

import { count, h, plural } from "./dom.js";
import { STATE_ORDER, stateIcon, stateOf, stateWord } from "./signs.js";
import { strip } from "./timeline.js";

const collator = new Intl.Collator("en", { numeric: true });

export function ordered(runs) {
  return [...runs].sort((a, b) => STATE_ORDER.indexOf(stateOf(a.state)) - STATE_ORDER.indexOf(stateOf(b.state)) || collator.compare(a.run, b.run));
}

// view: {chosen, compared: Set, filter, states: Set}, on: {choose, compare, filter, toggle}
export function runList(runs, others, view, on) {
  const shown = ordered(runs).filter((run) => matches(run, view));
  const rows = shown.map((run) => row(run, view, on));
  const list = h("ul", { class: "runs", onkeydown: walk }, rows);
  return [
    h("input", { type: "search", class: "filter", placeholder: "Filter runs", "aria-label": "Filter runs", "data-key": "filter", value: view.filter, oninput: (event) => on.filter(event.target.value) }),
    chips(runs, view, on),
    view.compared.size
      ? h(
          "div",
          { class: "comparing" },
          h("button", { type: "button", class: "button", "data-key": "compare chosen", disabled: view.compared.size < 2, "aria-pressed": String(view.comparing), onclick: on.beside }, view.compared.size < 2 ? "Tick another run to compare" : `Compare ${view.compared.size} runs`),
          h("button", { type: "button", class: "link", "data-key": "compare none", onclick: on.none }, "Clear"),
        )
      : null,
    list,
    shown.length ? null : h("p", { class: "soft" }, "No run matches."),
    others.length ? without(others) : null,
  ];
}

function matches(run, view) {
  const fits = !view.states.size || view.states.has(stateOf(run.state));
  return fits && run.run.toLowerCase().includes(view.filter.trim().toLowerCase());
}

function chips(runs, view, on) {
  const states = STATE_ORDER.filter((state) => runs.some((run) => stateOf(run.state) === state));
  return h(
    "div",
    { class: "chips", role: "group", "aria-label": "Show only" },
    states.map((state) => {
      const amount = runs.filter((run) => stateOf(run.state) === state).length;
      const pressed = view.states.has(state);
      return h(
        "button",
        { type: "button", class: `state-chip state-${state}`, "aria-pressed": String(pressed), "data-key": `state ${state}`, onclick: () => on.toggle(state) },
        stateIcon(state),
        `${count(amount)} ${stateWord(state).toLowerCase()}`,
      );
    }),
  );
}

function row(run, view, on) {
  const chosen = view.chosen === run.run && !view.comparing;
  const state = stateOf(run.state);
  return h(
    "li",
    { class: `run state-${state}${chosen ? " chosen" : ""}` },
    h("input", { type: "checkbox", "aria-label": `Compare ${run.run}`, title: "Compare", "data-key": `compare ${run.run}`, checked: view.compared.has(run.run), onchange: (event) => on.compare(run.run, event.target.checked) }),
    h(
      "button",
      { type: "button", class: "run-button", "aria-current": chosen ? "true" : null, "data-key": `run ${run.run}`, onclick: () => on.choose(run.run) },
      h("span", { class: "run-name" }, stateIcon(state), h("span", { class: "hidden" }, `${stateWord(state)}: `), h("span", { class: "name", title: run.run }, run.run)),
      h("span", { class: "run-verdict" }, run.verdict),
      run.course.length ? strip(run.course, run.step) : null,
    ),
  );
}

// Arrow keys walk the list, as in any list.
function walk(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || !event.target.classList.contains("run-button")) return;
  const buttons = [...event.currentTarget.querySelectorAll(".run-button")];
  const next = buttons[buttons.indexOf(event.target) + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
}

function without(others) {
  return h(
    "details",
    { class: "others", "data-key": "others" },
    h("summary", {}, `${plural(others.length, "run")} without a doctor's report`),
    h("ul", {}, others.slice(0, 500).map((run) => h("li", {}, run))),
  );
}
