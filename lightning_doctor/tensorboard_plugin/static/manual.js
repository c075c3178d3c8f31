// A rule's manual page, as shipped with the package, in a dialog.

import { coded, h } from "./dom.js";

export function opener(code, source) {
  // Codes come from event files: only what looks like one is asked for.
  if (!/^LD\d{3}$/.test(code)) return null;
  return h("button", { type: "button", class: "link", "data-key": `manual ${code}`, onclick: () => open(code, source) }, `About ${code}`);
}

async function open(code, source) {
  const page = await source.rule(code);
  const title = h("h2", { id: "manual-title" }, h("span", { class: "code" }, page.code), " ", page.name.replaceAll("_", " "));
  const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  const dialog = h(
    "dialog",
    { class: "manual", "aria-labelledby": "manual-title" },
    h("header", {}, title, close),
    h("p", { class: "lead" }, page.title),
    page.sections.map((section) => [h("h3", {}, section.heading), section.paragraphs.map((text) => h("p", {}, coded(text)))]),
  );
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
}
