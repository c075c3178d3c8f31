"""The catalogue: every file of this folder holds one rule of the same name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from lightning_doctor.rule import Rule


@cache
def all_rules() -> tuple[Rule, ...]:
    """Returns every rule of the catalogue, ordered by code."""
    found = [getattr(import_module(f"{__name__}.{module.name}"), module.name) for module in iter_modules(__path__)]
    return tuple(sorted(found, key=lambda rule: rule.code))


def find_rule(name: str) -> Rule:
    """Returns the rule with this code or name.

    Raises:
        ValueError: Where there is none; the message names the nearest.
    """
    if not isinstance(name, str):
        raise ValueError(f"a rule is named by its code or name, got {name!r}")
    wanted = name.strip().lower()
    for rule in all_rules():
        if wanted in (rule.code.lower(), rule.name):
            return rule
    names = [n for rule in all_rules() for n in (rule.code, rule.name)]
    raise ValueError(f"no rule is called {name!r}{_nearest(name, names)}; `lightning-doctor rules` lists them all")


def choose_rules(select: Iterable[str] | None = None, ignore: Iterable[str] = ()) -> tuple[Rule, ...]:
    """Returns the rules that ``select`` names (all where it is None) less those that ``ignore`` names.

    A name is a code (``LD501``), the beginning of codes (``LD5``) or a rule's name (``overfitting``).

    Raises:
        ValueError: Where a name fits no rule.
    """
    chosen = set(all_rules()) if select is None else _named(select, "select")
    return tuple(rule for rule in all_rules() if rule in chosen - _named(ignore, "ignore"))


def check_thresholds(thresholds: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Returns thresholds by rule code, from thresholds by rule code or name.

    Raises:
        ValueError: For an unknown rule or threshold, or a value that is not a number; the message names what would
            be right.
    """
    checked: dict[str, dict[str, float]] = {}
    if not isinstance(thresholds, Mapping):
        raise ValueError(f"thresholds must map a rule to its thresholds, got {thresholds!r}")
    for name, values in thresholds.items():
        rule = find_rule(name)
        if not isinstance(values, Mapping):
            raise ValueError(f"the thresholds of {name} must map names to numbers, got {values!r}")
        for key, value in values.items():
            if key not in rule.thresholds:
                raise ValueError(
                    f"{rule.code} {rule.name} has no threshold {key!r}{_nearest(key, list(rule.thresholds))}; "
                    f"it has {', '.join(rule.thresholds) or 'none'}"
                )
            if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
                raise ValueError(f"threshold {rule.name}.{key} must be a number, got {value!r}")
            # Counts slice and index: 5.0, as YAML may say, would raise in the rule.
            if isinstance(rule.thresholds[key], int):
                if value < 1 or value % 1:
                    raise ValueError(f"threshold {rule.name}.{key} must be a whole number of at least 1, got {value!r}")
                value = int(value)
            if value < 0:
                raise ValueError(f"threshold {rule.name}.{key} must be at least 0, got {value!r}")
            checked.setdefault(rule.code, {})[key] = value
    return checked


def _named(names: Iterable[str], argument: str) -> set[Rule]:
    if isinstance(names, str):
        raise ValueError(f"{argument} must be a list of rule codes or names, got the string {names!r}")
    chosen: set[Rule] = set()
    for name in names:
        beginning = name.strip().upper() if isinstance(name, str) else ""
        family = {rule for rule in all_rules() if rule.code.startswith(beginning)} if beginning else set()
        chosen |= family or {find_rule(name)}
    return chosen


def _nearest(name: str, names: list[str]) -> str:
    matches = difflib.get_close_matches(name, names, n=1, cutoff=0.5) or difflib.get_close_matches(
        name.upper(), names, n=1, cutoff=0.5
    )
    return f", did you mean {matches[0]!r}" if matches else ""
