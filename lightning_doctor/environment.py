"""``LIGHTNING_DOCTOR=1 python train.py``: a Doctor in every Trainer, with no change to any code.

Lightning calls :func:`callbacks` at every ``Trainer()``; whatever it raised would break every Trainer on the machine.
"""

from __future__ import annotations

import difflib
import os
import warnings
from typing import Any

VARIABLE = "LIGHTNING_DOCTOR"

_OFF = ("", "0", "false", "no", "off")
_ON = ("1", "true", "yes", "on")
_OPTIONS = ("overhead", "every_n_steps", "select", "ignore", "metric", "stop_on", "holdout", "reference", "strict")
_warned: set[str] = set()


def callbacks() -> list[Any]:
    """Returns a Doctor if the environment asks for one, else nothing; never raises."""
    value = os.environ.get(VARIABLE, "").strip()
    if value.lower() in _OFF:
        return []
    try:
        options = parse(value)

        from lightning_doctor.callbacks.doctor import Doctor

        doctor = Doctor(**options)
        doctor.from_environment = True
    except Exception as error:  # noqa: BLE001
        if value not in _warned:
            _warned.add(value)
            warnings.warn(f"{VARIABLE}={value!r} starts no doctor: {error}", stacklevel=2)
        return []
    return [doctor]


def parse(value: str) -> dict[str, Any]:
    """Reads ``"1"`` or options such as ``"overhead=0.01,stop_on=error,ignore=LD107+LD504,LD504.patience=8"``.

    Returns:
        The keyword arguments of the Doctor.

    Raises:
        ValueError: For anything else; the message says what would be right.
    """
    if value.lower() in _ON:
        return {}
    options: dict[str, Any] = {}
    for item in value.split(","):
        key, equals, text = (part.strip() for part in item.partition("="))
        rule, dot, threshold = key.partition(".")
        if not equals:
            raise ValueError(f"write it as 1, or as option=value, got {item.strip()!r}")
        if dot:
            options.setdefault("thresholds", {}).setdefault(rule, {})[threshold] = _number(key, text)
        elif key not in _OPTIONS:
            near = difflib.get_close_matches(key, _OPTIONS, n=1)
            hint = f", did you mean {near[0]!r}?" if near else f"; there are {', '.join(_OPTIONS)}"
            raise ValueError(f"there is no option {key!r}{hint}")
        elif key in ("select", "ignore"):
            options[key] = [name for name in text.split("+") if name]
        elif key in ("overhead", "holdout", "reference"):
            options[key] = _number(key, text)
        elif key == "every_n_steps":
            options[key] = int(number) if (number := _number(key, text)).is_integer() else number
        elif key == "strict":
            if text.lower() not in _ON + _OFF[1:]:
                raise ValueError(f"strict must be true or false, got {text!r}")
            options[key] = text.lower() in _ON
        else:
            options[key] = text
    return options


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{key} must be a number, got {text!r}") from None
