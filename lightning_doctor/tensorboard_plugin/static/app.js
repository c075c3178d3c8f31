// The page: what is chosen, what is shown, and how it stays up to date.

import { comparison } from "./compare.js";
import { detail } from "./detail.js";
import { h } from "./dom.js";
import { ordered, runList } from "./list.js";
import { stateWord } from "./signs.js";

const EVERY = 5000;
const MOST_COMPARED = 12;

// source: {list(known), run(name), compare(names), rule(code), live}
export function start(root, source) {
  const side = h("nav", { class: "side-bar", "aria-label": "Runs" });
  const main = h("main", { id: "report", tabindex: "-1", "aria-label": "Report" });
  const news = h("div", { class: "hidden", role: "status" });
  const skip = h("button", { type: "button", class: "skip button", "data-key": "skip", onclick: () => main.focus() }, "Skip to the report");
  root.append(h("h1", { class: "hidden" }, "Lightning doctor"), skip, side, main, news);

  const view = { chosen: null, compared: new Set(), comparing: false, filter: "", states: new Set() };
  const seen = { fingerprint: "", runs: [], others: [], shown: "" };
  // What is asked last is what is shown, whatever comes back first.
  let asked = 0;

  const on = {
    choose(run) {
      view.chosen = run;
      view.comparing = false;
      drawSide();
      drawMain(true);
    },
    compare(run, wanted) {
      if (wanted && view.compared.size >= MOST_COMPARED) {
        news.textContent = `No more than ${MOST_COMPARED} runs can be compared.`;
        drawSide();
        return;
      }
      if (wanted) view.compared.add(run);
      else view.compared.delete(run);
      view.comparing = view.compared.size > 1;
      drawSide();
      drawMain(true);
    },
    beside() {
      view.comparing = true;
      drawSide();
      drawMain(true);
    },
    none() {
      view.compared.clear();
      view.comparing = false;
      drawSide();
      drawMain(true);
    },
    filter(text) {
      view.filter = text;
      drawSide();
    },
    toggle(state) {
      if (!view.states.delete(state)) view.states.add(state);
      drawSide();
    },
  };

  function drawSide() {
    keeping(side, () => side.replaceChildren(...runList(seen.runs, seen.others, view, on).filter((part) => part !== null)));
    root.classList.toggle("alone", !source.live && seen.runs.length < 2);
  }

  async function drawMain(anew) {
    const stamps = (view.comparing ? [...view.compared] : [view.chosen]).map((name) => seen.runs.find((run) => run.run === name)?.stamp);
    const wanted = JSON.stringify([view.comparing, view.chosen, [...view.compared], stamps]);
    if (wanted === seen.shown && !anew) return;
    const turn = ++asked;
    const content = await page();
    if (turn !== asked) return;
    const place = anew ? 0 : main.scrollTop;
    seen.shown = wanted;
    keeping(main, () => main.replaceChildren(content));
    main.scrollTop = place;
  }

  async function page() {
    if (!seen.runs.length) return empty(seen.others.length);
    try {
      if (view.comparing) return comparison(await source.compare([...view.compared]), on.choose);
      return detail(view.chosen, await source.run(view.chosen), source);
    } catch (error) {
      return h("p", { class: "trouble" }, `This cannot be shown: ${error.message}`);
    }
  }

  async function refresh() {
    let told;
    try {
      told = await source.list(seen.fingerprint);
      root.classList.remove("lost");
    } catch {
      root.classList.add("lost");
      news.textContent = "TensorBoard does not answer.";
      return;
    }
    if (told.unchanged) return;
    const before = seen.runs.find((run) => run.run === view.chosen);
    Object.assign(seen, { fingerprint: told.fingerprint, runs: told.runs, others: told.others });
    const there = new Set(told.runs.map((run) => run.run));
    view.compared = new Set([...view.compared].filter((run) => there.has(run)));
    view.comparing = view.comparing && view.compared.size > 1;
    if (!there.has(view.chosen)) view.chosen = ordered(told.runs)[0]?.run ?? null;
    const now = told.runs.find((run) => run.run === view.chosen);
    if (before && now && before.run === now.run && before.verdict !== now.verdict) news.textContent = `${now.run}: ${stateWord(now.state)}. ${now.verdict}`;
    drawSide();
    await drawMain(false);
  }

  let running = null;
  const update = () => (running ??= refresh().finally(() => (running = null)));
  if (source.live) {
    setInterval(() => document.visibilityState === "visible" && update(), EVERY);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && update());
  }
  update();
  return { update };
}

// Draws anew with focus, caret, scroll and what is open as they were.
function keeping(place, draw) {
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  const key = focused?.dataset.key;
  const caret = key && focused.selectionStart !== undefined ? focused.selectionStart : null;
  const open = new Map([...place.querySelectorAll("details[data-key]")].map((node) => [node.dataset.key, node.open]));
  const scroll = place.scrollTop;
  draw();
  for (const node of place.querySelectorAll("details[data-key]")) {
    if (open.has(node.dataset.key)) node.open = open.get(node.dataset.key);
  }
  place.scrollTop = scroll;
  const next = key ? [...place.querySelectorAll("[data-key]")].find((node) => node.dataset.key === key) : null;
  if (next) {
    next.focus({ preventScroll: true });
    if (caret !== null && next.type === "search") next.setSelectionRange(caret, caret);
  }
}

function empty(others) {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, others ? "No run here has seen a doctor" : "There is no run here yet"),
    h("p", {}, "Add one to your Trainer, and its diagnosis is shown here while it trains:"),
    h("pre", {}, "from lightning_doctor import Doctor\n\nTrainer(callbacks=[Doctor()])"),
  );
}
