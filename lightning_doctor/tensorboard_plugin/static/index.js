// The entry that TensorBoard calls, inside an iframe of its own origin.

import { start } from "./app.js";
import { h } from "./dom.js";

export async function render() {
  document.documentElement.lang = "en";
  document.title = "Doctor";
  await styled("./style.css");
  followTheme();
  const { update } = start(document.body, { live: true, list, run, compare, rule });
  whenReloaded(update);
}

async function styled(address) {
  const link = h("link", { rel: "stylesheet", href: address });
  const loaded = new Promise((resolve) => {
    link.addEventListener("load", resolve);
    link.addEventListener("error", resolve);
  });
  document.head.append(link);
  await loaded;
}

// TensorBoard marks its own body; the frame is of the same origin.
function followTheme() {
  const outer = window.parent.document.body;
  const set = () => document.documentElement.classList.toggle("dark", outer.classList.contains("dark-mode"));
  new MutationObserver(set).observe(outer, { attributes: true, attributeFilter: ["class"] });
  set();
}

// TensorBoard tells its plugins over a port when it has reloaded; every message of its wants an answer.
function whenReloaded(update) {
  const channel = new MessageChannel();
  channel.port1.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.isReply) return;
    channel.port1.postMessage(JSON.stringify({ type: message.type, id: message.id, payload: null, error: null, isReply: true }));
    if (message.type === "experimental.DataReloaded" || message.type === "experimental.RunsChanged") update();
  };
  window.parent.postMessage("experimental.bootstrap", window.location.origin, [channel.port2]);
}

async function answer(route, parameters) {
  const query = new URLSearchParams(parameters).toString();
  const response = await fetch(`./${route}${query ? `?${query}` : ""}`);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

const list = (known) => answer("runs", known ? { known } : {});
const run = (name) => answer("run", { run: name });
const compare = (names) => answer("compare", names.map((name) => ["run", name]));
const rule = (code) => answer("rule", { code });
