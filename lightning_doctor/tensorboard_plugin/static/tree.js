// The decision tree of a network that fails to train or to generalize, with the path that this run took lit.

import { h } from "./dom.js";

const end = (conclusion, title, text) => ({ conclusion, title, text });
const ask = (question, ...branches) => ({ question, branches });
const on = (reply, node) => ({ reply, node });

const TREE = ask(
  "Is the training loss low enough?",
  on(
    "no",
    ask(
      "Could this model do better?",
      on("yes", end("optimization", "Optimization", "its training does not get out of the model what is in it")),
      on(
        "",
        ask(
          "Is the gradient near zero?",
          on(
            "yes",
            ask(
              "What is this critical point?",
              on("saddle", end(null, "Saddle", "a way down exists")),
              on("minimum", end(null, "Minimum", "start again, or widen")),
              on("flat", end(null, "Flat", "dead or saturated units")),
            ),
          ),
        ),
      ),
      on("no", end("model_bias", "Model bias", "the model cannot express the task")),
    ),
  ),
  on(
    "",
    ask("Do the inputs say anything about the targets?", on("no", end("nothing_to_learn", "Nothing to learn", "labels, or their pairing"))),
  ),
  on(
    "yes",
    ask(
      "Is the validation loss low too?",
      on(
        "no",
        ask(
          "Does held-out data of the training distribution do well?",
          on("no", end("overfitting", "Overfitting", "it learned its samples, not the task")),
          on("yes", end("distribution_mismatch", "Mismatch", "validation comes from another distribution")),
        ),
      ),
      on("yes", end("healthy", "Healthy", "both losses are low")),
    ),
  ),
);

export function tree(answers, conclusion, sentence) {
  const asked = new Map(answers.map((answer) => [answer.question, answer]));
  const drawn = new Set();
  const list = h("ul", { class: "tree" }, node(TREE, { asked, conclusion, drawn, sentence, last: answers.at(-1) }, null));
  const others = answers.filter((answer) => !drawn.has(answer.question));
  return h(
    "div",
    {},
    list,
    others.length ? h("ul", { class: "tree also" }, others.map((answer) => h("li", { class: "node lit" }, box(answer.question, answer)))) : null,
  );
}

function node(tree, walk, edge) {
  const label = edge === null || edge.reply === "" ? null : h("span", { class: "edge" }, edge.reply);
  if (tree.question === undefined) {
    const lit = tree.conclusion === null ? edge.taken : tree.conclusion === walk.conclusion;
    return h(
      "li",
      { class: `node leaf${lit ? " lit" : ""}${lit && tree.conclusion !== null ? " end" : ""}${lit && !edge.taken ? " assumed" : ""}`, "aria-current": lit && tree.conclusion !== null ? "step" : null },
      label,
      h("span", { class: "box" }, h("b", {}, tree.title), h("small", {}, tree.text), lit && tree.conclusion !== null ? h("span", { class: "hidden" }, " (the walk ends here)") : null),
    );
  }
  const answer = walk.asked.get(tree.question);
  if (answer !== undefined) walk.drawn.add(tree.question);
  const unsettled = answer !== undefined && answer === walk.last && walk.conclusion === "unknown";
  return h(
    "li",
    { class: `node${answer === undefined ? "" : " lit"}${edge !== null && answer !== undefined && edge.reply && !edge.taken ? " assumed" : ""}` },
    label,
    box(tree.question, answer),
    h(
      "ul",
      {},
      tree.branches.map((branch) => node(branch.node, walk, { reply: branch.reply, taken: answer !== undefined && answer.reply === branch.reply })),
      unsettled ? h("li", { class: "node leaf lit end", "aria-current": "step" }, h("span", { class: "box" }, h("b", {}, "Not settled"), h("small", {}, walk.sentence))) : null,
    ),
  );
}

function box(question, answer) {
  return h(
    "span",
    { class: "box" },
    h("span", { class: "question" }, question, answer === undefined ? null : [" ", h("b", { class: "reply" }, answer.reply)]),
    answer === undefined ? null : h("small", {}, answer.because),
  );
}
