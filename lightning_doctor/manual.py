"""The manual: what a rule's docstring and signature tell its reader."""

from __future__ import annotations

from typing import Any

from lightning_doctor.rule import Rule


def described(rule: Rule) -> dict[str, Any]:
    """Returns what a program may want to know of a rule, as plain builtins."""
    return {
        "code": rule.code,
        "name": rule.name,
        "title": rule.title,
        "needs": dict(rule.needs),
        "explains": list(rule.explains),
        "thresholds": dict(rule.thresholds),
    }


def page(rule: Rule) -> str:
    """Returns the manual page: sections under headings that end in a colon, names between double backticks."""
    sections = [f"{rule.code} {rule.name}", rule.manual.rstrip()]
    for heading, lines in (
        ("Needs", [f"``{name}``: at least {least} values" for name, least in rule.needs.items()]),
        ("Explains", [f"``{name}``" for name in rule.explains]),
        ("Defaults", [f"``{rule.code}.{name}={value}``" for name, value in rule.thresholds.items()]),
    ):
        if lines:
            sections.append(f"{heading}:\n" + "\n".join(f"    {line}" for line in lines))
    return "\n\n".join(sections)
