"""Discovery, selection and thresholds, and what every page of the manual must hold."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

import lightning_doctor.rules as catalogue
from lightning_doctor.rule import Rule
from lightning_doctor.rules import all_rules, check_thresholds, choose_rules, find_rule

# Codes and names are fixed: tools outside this repository rely on them, and a code is never used for another illness.
NAMES = {
    "LD101": "non_finite_loss",
    "LD102": "diverging_loss",
    "LD103": "learning_rate_too_high",
    "LD104": "learning_rate_too_low",
    "LD105": "loss_plateau",
    "LD106": "stuck_at_baseline",
    "LD107": "loss_spike",
    "LD108": "undertrained",
    "LD109": "vanished_learning_rate",
    "LD110": "missing_warmup",
    "LD111": "uneven_step_sizes",
    "LD112": "noise_floor",
    "LD113": "noisy_batches",
    "LD114": "oversized_batches",
    "LD115": "late_instability",
    "LD201": "vanishing_gradients",
    "LD202": "exploding_gradients",
    "LD203": "non_finite_gradients",
    "LD204": "dead_units",
    "LD205": "saturated_units",
    "LD206": "always_clipped",
    "LD207": "frozen_parameters",
    "LD208": "bad_initialization",
    "LD209": "collapsed_output",
    "LD210": "accumulating_gradients",
    "LD211": "underflowing_gradients",
    "LD301": "double_softmax",
    "LD302": "double_sigmoid",
    "LD303": "squared_error_on_classes",
    "LD304": "output_out_of_reach",
    "LD305": "broadcast_targets",
    "LD306": "linear_stack",
    "LD307": "negative_loss",
    "LD308": "imbalanced_classes",
    "LD309": "outlier_targets",
    "LD310": "over_regularized",
    "LD311": "summed_loss",
    "LD401": "saddle_point",
    "LD402": "poor_minimum",
    "LD403": "flat_region",
    "LD404": "edge_of_stability",
    "LD405": "ill_conditioned",
    "LD501": "overfitting",
    "LD502": "distribution_mismatch",
    "LD503": "model_bias",
    "LD504": "stale_validation",
    "LD505": "uncertain_validation",
    "LD506": "leaked_validation",
    "LD507": "worse_than_reference",
    "LD508": "uninformative_labels",
    "LD509": "train_eval_discrepancy",
    "LD601": "unscaled_inputs",
    "LD602": "unscaled_targets",
    "LD603": "non_finite_batch",
    "LD604": "unshuffled_data",
    "LD605": "repeated_batches",
    "LD606": "data_starved",
    "LD607": "constant_labels",
    "LD608": "leaking_batch",
}
SECTIONS = ["What it looks at", "Why it matters", "Sick", "Healthy", "Remedy", "Thresholds", "Blind spots"]
every_rule = pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.name)


def sections(rule: Rule) -> dict[str, str]:
    parts = re.split(r"^([A-Z][a-z ]+):$", rule.manual, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_first_rules_are_all_found_in_the_order_of_their_codes() -> None:
    codes = [rule.code for rule in all_rules()]
    assert codes == sorted(set(codes))
    first = {"LD101", "LD102", "LD105", "LD107", "LD108", "LD109", "LD202", "LD203", "LD206", "LD501", "LD504"}
    assert first <= set(codes)


def test_every_file_of_the_folder_is_a_rule() -> None:
    folder = Path(inspect.getfile(catalogue)).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__"}
    assert {rule.name for rule in all_rules()} == files


@every_rule
def test_code_and_name_are_those_of_the_catalogue(rule: Rule) -> None:
    assert NAMES.get(rule.code) == rule.name


@every_rule
def test_it_explains_only_other_illnesses_of_the_catalogue(rule: Rule) -> None:
    assert set(rule.explains) <= set(NAMES.values()) - {rule.name}
    assert len(set(rule.explains)) == len(rule.explains)


@every_rule
def test_the_manual_page_is_whole_and_in_order(rule: Rule) -> None:
    assert list(sections(rule)) == SECTIONS
    assert all(text.strip() for text in sections(rule).values())
    assert re.fullmatch(r"[A-Z].*\.", rule.title)
    assert rule.manual.split("\n")[1] == ""


@every_rule
def test_every_threshold_is_on_the_page_with_its_unit_and_no_other(rule: Rule) -> None:
    text = sections(rule)["Thresholds"]
    entries = re.split(r"^    (\w+):", text, flags=re.MULTILINE)
    documented = dict(zip(entries[1::2], entries[2::2], strict=True))
    assert set(documented) == set(rule.thresholds)
    for description in documented.values():
        assert re.search(r"\[[^\]]+\]\.?$", " ".join(description.split())), description


@every_rule
def test_thresholds_are_numbers_and_needs_are_counts(rule: Rule) -> None:
    assert all(type(value) in (int, float) for value in rule.thresholds.values())
    assert rule.needs
    assert all(type(least) is int and least >= 1 for least in rule.needs.values())


@every_rule
def test_it_has_a_test_of_its_own_with_the_sick_and_the_healthy(rule: Rule) -> None:
    path = Path(__file__).parent / "rules" / f"test_{rule.name}.py"
    text = path.read_text()
    assert "def test_sick_" in text
    assert "def test_healthy_" in text


@pytest.mark.parametrize("name", ["LD501", "ld501", "overfitting", " Overfitting "])
def test_a_rule_is_found_by_code_or_name(name: str) -> None:
    assert find_rule(name).code == "LD501"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("overfiting", "overfitting"), ("LD51", "LD501"), ("ld5o1", "LD501"), ("stale_val", "stale_validation")],
)
def test_an_unknown_rule_is_refused_and_the_nearest_named(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"no rule is called {name!r}, did you mean {nearest!r}"):
        find_rule(name)


def test_what_is_like_no_rule_is_refused_without_a_guess() -> None:
    with pytest.raises(ValueError, match="no rule is called 'xyzzy'; `lightning-doctor rules` lists them all"):
        find_rule("xyzzy")


@pytest.mark.parametrize("name", [501, None, ["LD501"]])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="named by its code or name"):
        find_rule(name)
    with pytest.raises(ValueError, match="named by its code or name"):
        choose_rules([name])


def codes(**arguments: Any) -> list[str]:
    return [rule.code for rule in choose_rules(**arguments)]


def test_rules_are_chosen_by_code_family_and_name() -> None:
    everything = [rule.code for rule in all_rules()]
    assert codes() == everything
    assert codes(select=["LD501", "stale_validation"]) == ["LD501", "LD504"]
    assert codes(select=["ld5"]) == [code for code in everything if code.startswith("LD5")]
    assert codes(ignore=["LD5"]) == [code for code in everything if not code.startswith("LD5")]
    assert codes(select=["LD5"], ignore=["overfitting"]) == [
        code for code in everything if code.startswith("LD5") and code != "LD501"
    ]
    assert codes(select=[]) == []
    assert codes(select=["LD5"], ignore=["LD"]) == []


@pytest.mark.parametrize("argument", ["select", "ignore"])
@pytest.mark.parametrize("names", [["LD9"], ["overfiting"], [""], [" "]])
def test_an_unknown_choice_is_refused(argument: str, names: list[str]) -> None:
    with pytest.raises(ValueError, match="no rule is called"):
        choose_rules(**{argument: names})


@pytest.mark.parametrize("argument", ["select", "ignore"])
def test_a_bare_string_of_names_is_refused(argument: str) -> None:
    with pytest.raises(ValueError, match=f"{argument} must be a list of rule codes or names, got the string 'LD501'"):
        choose_rules(**{argument: "LD501"})


def test_thresholds_are_gathered_by_code() -> None:
    checked = check_thresholds({"overfitting": {"share": 0.5}, "LD501": {"patience": 6}, "LD504": {}})
    assert checked == {"LD501": {"share": 0.5, "patience": 6}}


def test_a_count_given_as_a_whole_float_becomes_a_count() -> None:
    # A slice or an index in a rule does not take 6.0.
    value = check_thresholds({"LD504": {"patience": 6.0}})["LD504"]["patience"]
    assert (value, type(value)) == (6, int)


@pytest.mark.parametrize(
    ("thresholds", "complaint"),
    [
        ([], "thresholds must map a rule to its thresholds"),
        ({"overfiting": {}}, "did you mean 'overfitting'"),
        ({"LD504": 5}, "the thresholds of LD504 must map names to numbers, got 5"),
        ({"LD504": {"patiense": 5}}, "no threshold 'patiense', did you mean 'patience'; it has patience, sigmas"),
        ({"LD504": {"sigmas": "2"}}, "stale_validation.sigmas must be a number, got '2'"),
        ({"LD504": {"sigmas": True}}, "stale_validation.sigmas must be a number, got True"),
        ({"LD504": {"sigmas": float("nan")}}, "stale_validation.sigmas must be a number, got nan"),
        ({"LD504": {"sigmas": -1}}, "stale_validation.sigmas must be at least 0, got -1"),
        ({"LD504": {"patience": 2.5}}, "stale_validation.patience must be a whole number of at least 1, got 2.5"),
        ({"LD504": {"patience": 0}}, "stale_validation.patience must be a whole number of at least 1, got 0"),
        ({"LD504": {"patience": float("inf")}}, "must be a whole number of at least 1, got inf"),
    ],
)
def test_a_wrong_threshold_is_refused_with_what_would_be_right(thresholds: Any, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check_thresholds(thresholds)
