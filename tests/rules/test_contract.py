"""What holds for every rule there is, whatever a run looks like."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_doctor.diagnose import diagnose
from lightning_doctor.findings import Finding, Severity
from lightning_doctor.guide import walk
from lightning_doctor.history import History
from lightning_doctor.jsonable import to_jsonable
from lightning_doctor.rule import Rule, Undecided
from lightning_doctor.rules import all_rules
from tests.histories import decay, gauss, noisy

NAN, INF = float("nan"), float("inf")
RULES = {rule.name: rule for rule in all_rules()}
SIGNALS = (
    "train_loss",
    "train_loss/0",
    "train_loss/1",
    "val_loss",
    "val_loss/1",
    "val_metric",
    "learning_rate",
    "learning_rate/1",
    "momentum",
    "adagrad_step",
    "grad_norm",
    "grad_norm_clipped",
    "clip_factor",
    "grad_non_finite",
    "scaler_skips",
    "grad_norm/encoder",
    "grad_norm/middle",
    "grad_norm/late",
    "grad_norm/head",
    "skill",
    "baseline_loss",
    "train_accuracy",
    "output_spread",
    "output_level",
    "worst_share",
    "worst_ratio",
    "typical_error",
    "activation_std/encoder",
    "activation_std/middle",
    "activation_std/late",
    "activation_std/head",
    "activation_mean/encoder",
    "activation_mean/head",
    "dead_share",
    "dead_share/middle",
    "dead_share/late",
    "saturated_share/middle",
    "saturated_share/late",
    "preactivation_std/middle",
    "preactivation_std/late",
    "constant_share/encoder",
    "constant_share/head",
    "equal_share/encoder",
    "equal_share/middle",
    "batch_size",
    "batch_non_finite",
    "data_wait",
    "data_wait_seconds",
    "label_run",
    "label_drift",
    "batch_repeat",
    "order_repeat",
    "duplicate_share",
    "update_ratio",
    "update_ratio/encoder",
    "update_ratio/middle",
    "update_ratio/late",
    "update_ratio/head",
    "weight_norm",
    "weight_norm/encoder",
    "weight_norm/head",
    "gradient_cosine",
    "update_cosine",
    "gradients_kept",
    "zero_gradient_share",
    "zero_gradient_share/encoder",
    "zero_gradient_share/head",
    "loss_scale",
    "scan/0.015625",
    "scan/0.0625",
    "scan/0.25",
    "scan/1",
    "scan/4",
    "scan/16",
    "scan/64",
    "scan_limit",
    "scan_best",
    "mode_gap",
    "eval_loss/train",
    "eval_loss/validation",
    "eval_loss/holdout",
    "eval_error/train",
    "eval_error/validation",
    "eval_error/holdout",
    "eval_accuracy/train",
    "eval_accuracy/validation",
    "eval_skill/train",
    "eval_skill/validation",
    "eval_skill/holdout",
    "curvature/loss",
    "curvature/high",
    "curvature/low",
    "curvature/sharpness",
    "curvature/step_ratio",
    "curvature/preconditioned",
    "curvature/trace",
    "curvature/noise_scale",
    "curvature/gradient_noise",
    "curvature/least_noise_scale",
    "curvature/gradient_norm",
)
FACTS: dict[str, Any] = {
    "model": {
        "class": "Net",
        "parameters": 5000,
        "layers": {"Linear": 4, "ReLU": 3},
        "layer_names": ["encoder", "middle", "late", "head"],
        "dropout": {"middle": 0.9},
    },
    "optimizers": [{"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}]}],
    "schedulers": [{"class": "StepLR", "interval": "step", "frequency": 1}],
    "trainer": {
        "max_epochs": 10,
        "planned_steps": 600,
        "batches_per_epoch": 30,
        "steps_per_epoch": 30,
        "accumulate_grad_batches": 1,
        "gradient_clip_val": 1.0,
        "gradient_clip_algorithm": "norm",
        "precision": "32-true",
        "callbacks": ["ModelCheckpoint"],
    },
    "data": {"batch_size": 32, "train_samples": 960, "val_samples": 200},
    "validation": {"metric": "val_acc", "mode": "max"},
    "run": {"ended": "completed", "ended_step": 600},
    "loss_head": {
        "loss": "mse",
        "written_by_hand": False,
        "reduction": "sum",
        "activation": "sigmoid",
        "output_shape": [32, 1],
        "target_shape": [32],
        "broadcast": True,
        "targets": "real",
        "classes": None,
        "weighted": False,
        "label_smoothing": False,
        "terms": 1,
        "output_min": 0.0,
        "output_max": 1.0,
        "target_min": -3.0,
        "target_max": 40.0,
        "target_mean": 12.0,
        "target_std": 9.0,
    },
    "labels": {"counts": {"0": 990, "1": 10}, "samples": 1000},
    "predictions": {"counts": {"0": 512}, "recall": {"0": 1.0, "1": 0.0}, "samples": 512},
    "batch": {"leaves": [{"key": "[0]", "shape": [32, 2], "dtype": "float32"}], "inputs": "[0]", "targets": "[1]"},
    "inputs": {
        "features": 2,
        "mean_min": 0.0,
        "mean_max": 50.0,
        "std_min": 0.01,
        "std_max": 29.0,
        "std_median": 14.5,
        "abs_max": 100.0,
        "samples": 640,
        "integers": False,
        "constant_features": 0,
        "largest": [{"feature": 1, "mean": 50.0, "std": 29.0}],
        "smallest": [{"feature": 0, "mean": 0.0, "std": 0.01}],
    },
    "parameters": {
        "tensors": 8,
        "trainable": 8,
        "trained": 6,
        "trainable_share": 1.0,
        "frozen_share": 0.0,
        "last_layer": {"name": "head", "trained": False},
        "frozen": [],
        "not_in_optimizer": ["head.weight", "head.bias"],
        "no_gradient": [],
        "zero_gradient": [],
        "zero_learning_rate": [],
        "unchanged": ["head.weight", "head.bias"],
        "unregistered": [],
        "counts": {"frozen": 0, "not_in_optimizer": 2, "no_gradient": 0, "zero_gradient": 0, "unchanged": 2},
        "unchanged_share": 0.5,
        "steps": 12,
    },
    "activations": [
        {
            "layer": "encoder",
            "class": "Linear",
            "kind": "linear",
            "units": 8,
            "last": False,
            "features": 2,
            "fed_by": "",
        },
        {"layer": "middle", "class": "ReLU", "kind": "relu", "units": 8, "last": False},
        {"layer": "late", "class": "Tanh", "kind": "tanh", "units": 8, "last": False},
        {
            "layer": "head",
            "class": "Linear",
            "kind": "linear",
            "units": 1,
            "last": True,
            "features": 8,
            "fed_by": "encoder",
        },
    ],
    "leak": {"tested": True, "changed": 0.5},
    "scored": {"train": 500, "validation": 200, "holdout": 100},
    "comparison": {
        "step": 29,
        "inputs": {
            "p_value": 0.0025,
            "separation": 0.97,
            "rows": [500, 200],
            "columns": 2,
            "shifted": 1,
            "largest": [
                {"name": "[0][1]", "means": [0.3, 82.1], "spreads": [1.0, 30.0], "shift": 3.8, "ratio": 30.0},
                {"name": "[0][0]", "means": [0.0, 0.1], "spreads": [1.0, 1.0], "shift": 0.1, "ratio": 1.0},
            ],
        },
        "targets": {"reason": "which part of the batch this is cannot be told"},
    },
    "holdout": {"rows": 20, "share": 0.02},
    "reference": {
        "step": 590,
        "rows": 250,
        "hidden": 32,
        "network": 1.8,
        "constant": 2.3,
        "constant_error": 0.02,
        "linear": 0.3,
        "linear_error": 0.02,
        "shallow": 0.2,
        "shallow_error": 0.02,
    },
    "overlap": {
        "train_rows": 960,
        "validation_rows": 200,
        "exact": 0.2,
        "rounded": 0.25,
        "repeated": 0.0,
        "repeated_validation": 0.0,
    },
    "curvature": {
        "step": 590,
        "samples": 256,
        "parameters": 5000,
        "products": 60,
        "converged": True,
        "backend": "exact",
        "notes": [],
        "kind": "saddle",
        "because": "the gradient promises nothing, and a way down exists",
        "loss": 1.3,
        "low": {"value": -2.0, "residual": 0.01},
        "high": {"value": 2.0, "residual": 0.01},
        "epsilon": 0.01,
        "failure": 0.001,
        "gradient": {
            "norm": 1e-4,
            "predicted_fall": 1e-5,
            "curvature_fall": 1e-3,
            "standard_error": 1e-4,
            "near_zero": True,
        },
        "escape": {"distance": 0.4, "fall": 0.12, "share": 0.09, "standard_error": 0.01, "samples": 256},
        "noise_scale": {"samples": 400.0, "error": 30.0, "reason": ""},
        "line": [[0.0, 1.3], [0.4, 1.18]],
        "density": [[-2.0, 0.1], [2.0, 0.1]],
    },
}
# Values and steps may be anything; facts may be missing, but for these.
KNOWN: dict[str, dict[str, Any]] = {"all facts": FACTS, "no facts": {}, "empty facts": {key: {} for key in FACTS}}


def everywhere(
    values: Sequence[float], steps: Sequence[int] | None = None, facts: dict[str, Any] | None = None
) -> History:
    """The same values in every signal."""
    history = History()
    history.facts = FACTS if facts is None else facts
    for name in SIGNALS:
        for index, value in enumerate(values):
            history.record(name, index if steps is None else steps[index], value)
    bad = next((index for index, value in enumerate(values) if not math.isfinite(value)), None)
    if bad is not None:
        step = bad if steps is None else steps[bad]
        history.happened("non_finite_gradient", step, layers=["encoder", "middle"], loss=values[max(0, bad - 1)])
    return history


def _printed(history: History) -> tuple[str, list[tuple[int, int, str]]]:
    """All facts, and a little of each series: quick, for it is asked thousands of times."""
    series = [(len(s), sum(s.steps), repr(s.values[-9:])) for s in map(history.__getitem__, history.names())]
    return repr((history.facts, history.absent, history.events)), series


def check(rule: Rule, history: History) -> Finding | None:
    """Asks a rule and holds it to what every finding must be."""
    if rule.lacks(history) is not None:
        return None
    before = _printed(history)
    finding = None
    with suppress(Undecided):
        finding = rule(history)
    assert _printed(history) == before, "a rule looks, it does not touch"
    if finding is None:
        return None
    assert (finding.code, finding.name) == (rule.code, rule.name)
    assert finding.summary.strip()
    assert finding.remedy.strip()
    assert "\n" not in finding.summary + finding.remedy
    assert all(isinstance(key, str) for key in finding.evidence)
    assert all(isinstance(value, (int, float, str)) for value in finding.evidence.values())
    assert finding.onset is None or isinstance(finding.onset, int)
    assert all(isinstance(signal, str) for signal in finding.signals)
    table = json.loads(json.dumps(finding.to_dict(), allow_nan=False))
    assert Finding.from_dict(table).to_dict() == finding.to_dict()
    return finding


SHAPES: dict[str, list[float]] = {
    "empty": [],
    "one point": [1.0],
    "two points": [1.0, 2.0],
    "short": [1.0, 0.9, 0.8, 0.7, 0.6],
    "constant": [0.7] * 300,
    "all zero": [0.0] * 300,
    "huge": noisy([1e300] * 300, 1e299),
    "at the edge of float64": [1.7e308, -1.7e308, 1.7e308, 1e308] * 75,
    "tiny": noisy([1e-300] * 300, 1e-301),
    "denormal": [5e-324, 1e-323, 0.0, 5e-324] * 75,
    "from huge to tiny": [10.0 ** (300 - 2 * i) for i in range(300)],
    "from tiny to huge": [10.0 ** (2 * i - 300) for i in range(300)],
    "all NaN": [NAN] * 300,
    "all infinite": [INF] * 300,
    "NaN first": [NAN, *[0.5] * 299],
    "NaN in the middle": [*[0.5] * 150, NAN, *[0.5] * 149],
    "NaN last": [*[0.5] * 299, NAN],
    "infinite then NaN": [*[0.5] * 100, INF, -INF, *[NAN] * 198],
    "NaN now and then": [NAN if i % 7 == 3 else 0.5 for i in range(300)],
    "negative": noisy([-3.0] * 300, 0.5),
    "from positive to negative": [1.0 - i / 100 for i in range(300)],
    "jumping": [1e6 if i % 2 else 1e-6 for i in range(300)],
    "one jump": [*[1.0] * 150, *[1e9] * 150],
    "falling": noisy(decay(2.3, 0.1, 40, 300), 0.01),
    "rising": [1.01**i for i in range(300)],
    "long": noisy(decay(2.3, 0.1, 400, 5000), 0.01),
}


@cache
def shaped(shape: str, known: str) -> History:
    """One history for all rules: `check` holds each of them to leaving it as it is."""
    return everywhere(SHAPES[shape], facts=KNOWN[known])


@cache
def numbered(shape: str, numbering: str) -> History:
    values = SHAPES[shape]
    return everywhere(values, [STEPS[numbering](i) for i in range(len(values))])


@cache
def lacking(shape: str, missing: str) -> History:
    return everywhere(SHAPES[shape], facts={key: value for key, value in FACTS.items() if key != missing})


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("known", KNOWN)
@pytest.mark.parametrize("shape", SHAPES)
def test_no_history_makes_a_rule_raise(name: str, shape: str, known: str) -> None:
    check(RULES[name], shaped(shape, known))


STEPS: dict[str, Callable[[int], int]] = {
    "all equal": lambda i: 7,
    "repeated": lambda i: i // 3,
    "with gaps": lambda i: i * i,
    "far out": lambda i: 10**15 + i,
    "backwards": lambda i: 1000 - i,
    "begun anew": lambda i: i % 100,
}


@pytest.mark.parametrize("numbering", STEPS)
@pytest.mark.parametrize(
    "shape", ["constant", "falling", "rising", "one jump", "NaN in the middle", "infinite then NaN"]
)
@pytest.mark.parametrize("name", RULES)
def test_no_numbering_of_the_steps_makes_a_rule_raise(name: str, shape: str, numbering: str) -> None:
    check(RULES[name], numbered(shape, numbering))


@pytest.mark.parametrize("missing", sorted(FACTS))
@pytest.mark.parametrize("shape", ["falling", "rising", "one jump", "constant", "NaN last"])
@pytest.mark.parametrize("name", RULES)
def test_no_missing_fact_makes_a_rule_raise(name: str, shape: str, missing: str) -> None:
    check(RULES[name], lacking(shape, missing))


DETAILS = [(part, detail) for part, details in FACTS.items() if isinstance(details, dict) for detail in details]


@pytest.mark.parametrize("shape", ["falling", "one jump", "NaN last"])
@pytest.mark.parametrize(("part", "detail"), DETAILS)
def test_no_single_missing_detail_makes_a_rule_raise(part: str, detail: str, shape: str) -> None:
    facts = {**FACTS, part: {key: value for key, value in FACTS[part].items() if key != detail}}
    history = everywhere(SHAPES[shape], facts=facts)
    for rule in RULES.values():
        check(rule, history)


POINTS = ("slope", "saddle", "minimum", "flat", "inconclusive", "unheard of")
STRANGE: tuple[Any, ...] = (
    None,
    True,
    "text",
    [],
    [1],
    {},
    {"value": "text"},
    -1,
    10**400,
    NAN,
    INF,
    0.0,
    1e300,
    5e-324,
)


READERS = [rule for rule in RULES.values() if "curvature" in rule.reads or any("curvature/" in n for n in rule.needs)]


@pytest.mark.parametrize("kind", POINTS)
@pytest.mark.parametrize("detail", [*FACTS["curvature"], None])
def test_no_reading_of_a_probe_makes_a_rule_or_the_guide_raise(kind: str, detail: str | None) -> None:
    history = everywhere([0.7] * 80)
    for strange in STRANGE:
        table: Any = strange if detail is None else {**FACTS["curvature"], "kind": kind, detail: strange}
        history.facts = {**FACTS, "curvature": table}
        for rule in READERS:
            check(rule, history)
        cause = Finding(severity=Severity.ERROR, summary="s", remedy="r", code="LD102", name="diverging_loss")
        json.dumps(to_jsonable(walk(history, [cause]).to_dict()), allow_nan=False)


numbers = st.one_of(
    st.floats(),
    st.floats(-10, 10),
    st.sampled_from([0.0, 1.0, NAN, INF, -INF, 1e300, -1e300, 5e-324, 1.7e308]),
)


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Any numbers in any signals at any growing steps, long enough to be judged, with any of the facts."""
    history = History()
    history.facts = {key: FACTS[key] for key in draw(st.sets(st.sampled_from(sorted(FACTS))))}
    for name in SIGNALS:
        pattern = draw(st.lists(numbers, min_size=0, max_size=12))
        repeats = draw(st.sampled_from([1, 3, 20]))
        gap = draw(st.sampled_from([1, 1, 10]))
        for index, value in enumerate(pattern * repeats):
            history.record(name, index * gap, value)
    if draw(st.booleans()):
        layers = draw(st.lists(st.sampled_from(["encoder", "middle", "unheard of"]), unique=True))
        history.happened("non_finite_gradient", draw(st.integers(0, 30)), layers=layers, loss=draw(numbers))
    return history


@settings(max_examples=150, deadline=None, derandomize=True)
@given(histories())
def test_no_sequence_of_numbers_makes_any_rule_raise(history: History) -> None:
    for rule in all_rules():
        check(rule, history)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(histories())
def test_no_sequence_of_numbers_makes_a_diagnosis_raise(history: History) -> None:
    json.dumps(to_jsonable(diagnose(history).to_dict()), allow_nan=False)


def program(kind: str, unit: float) -> History:
    """A run in another unit of the loss: losses, and gradients with them, times ``unit``."""
    history = History()
    history.facts = {**FACTS, "optimizers": [{"class": "Adam", "groups": [{"lr": 1e-3}]}]}
    losses, validation, norms = _PROGRAMS[kind]
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        history.record("train_loss", step, loss * unit)
        history.record("learning_rate", step, 1e-3)
        history.record("grad_norm", step, norm * unit)
        history.record("grad_non_finite", step, 0.0)
        for name in ("encoder", "middle", "late", "head"):
            history.record(f"grad_norm/{name}", step, norm * unit / 2)
    for number, loss in enumerate(validation):
        history.record("val_loss", 20 * number + 19, loss * unit)
    return history


_FALLING = noisy(decay(2.3, 0.1, 80, 600), 0.02)
_NORMS = [abs(value) for value in noisy(decay(1.0, 0.3, 100, 600), 0.05)]
_PROGRAMS: dict[str, tuple[list[float], list[float], list[float]]] = {
    "healthy": (_FALLING, noisy(decay(2.3, 0.15, 4, 30), 0.005), _NORMS),
    "overfitting": (
        noisy(decay(0.7, 0.01, 80, 600), 0.004),
        noisy([*decay(0.7, 0.45, 2, 8), *(0.46 + 0.02 * i for i in range(22))], 0.004),
        _NORMS,
    ),
    "diverging": (
        [*_FALLING[:300], *(0.2 * 1.1**i for i in range(300))],
        noisy(decay(2.3, 0.15, 4, 30), 0.005),
        [*_NORMS[:300], *(0.4 * 1.1**i for i in range(300))],
    ),
    "stuck": (noisy([2.3] * 600, 0.05), noisy([2.3] * 30, 0.005), [abs(v) for v in noisy([0.5] * 600, 0.05)]),
    "spiked": ([*_FALLING[:300], 80.0, *_FALLING[301:]], noisy(decay(2.3, 0.15, 4, 30), 0.005), _NORMS),
    "unfinished": (noisy([2.3 - 0.003 * i for i in range(600)], 0.02), [2.3 - 0.06 * i for i in range(30)], _NORMS),
    "wild": ([abs(v) + 0.1 for v in gauss(600, 2.0)], [abs(v) + 0.1 for v in gauss(30, 2.0)], _NORMS),
}


@pytest.mark.parametrize("unit", [1e-6, 1e6, 2.0**-20, 2.0**20])
@pytest.mark.parametrize("kind", _PROGRAMS)
@pytest.mark.parametrize("name", RULES)
def test_the_unit_of_the_loss_does_not_change_a_verdict(name: str, kind: str, unit: float) -> None:
    rule = RULES[name]
    plain, scaled = (check(rule, program(kind, u)) for u in (1.0, unit))
    assert (plain is None) is (scaled is None)
    if plain is not None and scaled is not None:
        assert (plain.severity, plain.confidence, plain.onset) == (scaled.severity, scaled.confidence, scaled.onset)


def test_the_programs_above_make_rules_speak_so_that_the_comparison_means_something() -> None:
    spoken = {finding.name for kind in _PROGRAMS for finding in diagnose(program(kind, 1.0)).findings}
    assert {"overfitting", "diverging_loss", "loss_spike", "loss_plateau"} <= spoken


@pytest.mark.parametrize("name", RULES)
def test_a_rule_forgets_nothing_and_remembers_nothing(name: str) -> None:
    # Pure: the same history, asked twice and in between of another, gets the same answer.
    rule, history = RULES[name], program("diverging", 1.0)
    first = check(rule, history)
    check(rule, program("healthy", 1.0))
    assert check(rule, history) == first


@pytest.mark.parametrize(
    "statement", ["from lightning_doctor.diagnose import diagnose; all_rules()", "import lightning_doctor"]
)
def test_neither_torch_nor_lightning_nor_numpy_is_imported(statement: str) -> None:
    program = f"""
import sys
from lightning_doctor.rules import all_rules
{statement}
heavy = ("torch", "lightning", "pytorch_lightning", "torchmetrics", "numpy")
print([name for name in heavy if name in sys.modules])
"""
    if statement == "import lightning_doctor":
        program = program.replace("from lightning_doctor.rules import all_rules\n", "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
