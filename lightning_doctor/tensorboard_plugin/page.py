"""The same view as one HTML file that holds everything and asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from lightning_doctor.report import Report
from lightning_doctor.rules import all_rules
from lightning_doctor.sinks.snapshot import snapshot
from lightning_doctor.tensorboard_plugin.views import brief, compared, manual_page

# How many runs have a comparison of all of them.
_MOST_COMPARED = 12

_IMPORT = re.compile(r"^import (\{[^}]*\}) from \"\./(\w+)\.js\";$", re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?(?:function|const) (\w+))", re.MULTILINE)

_START = """
const data = JSON.parse(document.getElementById("data").textContent);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", theme);
theme();
$app.start(document.body, {
  live: false,
  list: async () => ({ fingerprint: "1", runs: data.list, others: [] }),
  run: async (name) => data.runs[name],
  compare: async (names) => beside(data, names),
  rule: async (code) => data.rules[code],
});
"""
# The table and the sentences are of all runs of the page together.
_BESIDE = """
function beside({ comparison, runs }, names) {
  const all = comparison !== null && names.length === comparison.runs.length;
  const chosen = names.map((name) => ({ run: name, ...runs[name] }));
  return all ? comparison : { runs: chosen, headings: [], rows: [], lines: [], errors: [] };
}
"""


def page(reports: Mapping[str, Report], title: str) -> str:
    """Returns the page.

    Args:
        reports: By the names of their runs, at least one.
        title: Of the page.
    """
    runs = {name: snapshot(report) for name, report in reports.items()}
    data = {
        "list": [brief(name, [0, 0.0], table) for name, table in runs.items()],
        "runs": runs,
        "comparison": compared(runs) if 2 <= len(runs) <= _MOST_COMPARED else None,
        "rules": {rule.code: manual_page(rule.code) for rule in all_rules()},
    }
    style, script = _asset("style.css"), _bundle("app") + _BESIDE + _START
    # Nothing but these two is run or applied, and nothing is fetched, whatever a name in the data says.
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; base-uri 'none'"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{_text(title)}</title>",
            f"<style>{style}</style>",
            "<body>",
            f'<script type="application/json" id="data">{_embedded(data)}</script>',
            f'<script type="module">{script}</script>',
            "</body>",
            "</html>",
            "",
        ]
    )


def _bundle(name: str) -> str:
    """Joins a module and those it imports into one script: each becomes a function that returns what it exports."""
    joined: dict[str, str] = {}

    def visit(module: str) -> None:
        text = _asset(f"{module}.js")
        for _, needed in _IMPORT.findall(text):
            if needed not in joined:
                visit(needed)
        exported = ", ".join(found[1] for found in _EXPORT.findall(text))
        body = _EXPORT.sub(r"\1", _IMPORT.sub(r"const \1 = $\2;", text))
        joined[module] = f"const ${module} = (() => {{\n{body}\nreturn {{ {exported} }};\n}})();"

    visit(name)
    return "\n".join(joined.values())


def _asset(name: str) -> str:
    return (files("lightning_doctor.tensorboard_plugin") / "static" / name).read_text("utf-8")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _embedded(data: Any) -> str:
    # As ASCII, so that half a surrogate pair can be written; without "<" no end tag can stand in it.
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _text(title: str) -> str:
    return title.encode("utf-8", "replace").decode("utf-8").replace("&", "&amp;").replace("<", "&lt;")
