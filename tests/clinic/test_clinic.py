"""A part of the clinic that takes some minutes; ``python -m tests.clinic`` runs all of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from lightning_doctor.rules import all_rules
from tests.clinic.patient import Pair
from tests.clinic.programs import PAIRS
from tests.clinic.run import Run, Said, execute
from tests.clinic.table import markdown, programs
from tests.clinic.variation import Variation
from tests.clinic.verdicts import accepted, count, known, label

BY_NUMBER = {pair.number: pair for pair in PAIRS}
# Short ones, with every rule among their causes.
CAUSES = (4, 7, 8, 11, 16, 17, 18, 19, 20, 25, 31, 32, 34, 35, 36, 41, 43, 45, 46, 47, 48, 50, 51, 54, 55, 56, 57, 58)
CAUSES += (59, 61, 63, 64, 65, 67, 69, 71, 72, 74, 77, 81, 28, 75, 121, 133, 136, 137, 138, 139, 141)
CAUSES += (148, 151, 152, 153, 154, 156, 163, 164, 165, 167)
# Of the others the first seed.
SEEDS = {75: 1, 141: 2}
# Never more than a note.
ELSEWHERE = {"edge_of_stability", "stale_validation"}
# What fools naive rules, and twins of programs that are not among those.
HEALTHY = (10, 14, 22, 23, 27, 84, 85, 86, 88, 89, 90, 157, 158, 159, 160, 161, 162)


@cache
def executed(number: int, sick: bool) -> Run:
    return execute(number, sick, SEEDS.get(number, 0))


@pytest.mark.parametrize("number", HEALTHY)
def test_a_healthy_program_gets_no_warning(number: int) -> None:
    run = executed(number, False)
    assert run.gain > 0
    assert run.alarms == []
    assert run.notes == ()


@pytest.mark.parametrize("number", CAUSES)
def test_of_a_sick_program_the_accepted_cause_comes_first_and_its_twin_gets_no_warning(number: int) -> None:
    run, twin, pair = executed(number, True), executed(number, False), BY_NUMBER[number]
    assert label(run, pair, [run, twin]) == "sick"
    assert known(pair)
    assert accepted(run, pair) == 1
    assert run.notes == ()
    assert twin.alarms == []
    assert twin.notes == ()


def test_the_programs_run_here_are_those_of_every_rule() -> None:
    causes = {cause for number in CAUSES for cause in BY_NUMBER[number].causes}
    assert {rule.name for rule in all_rules()} - causes == ELSEWHERE


def test_an_explosion_comes_before_the_nan_that_it_ends_in() -> None:
    run = executed(1, True)
    names = [said.name for said in run.alarms]
    assert names[0] == "learning_rate_too_high"
    assert names.index("diverging_loss") < names.index("non_finite_loss")
    assert run.alarms[names.index("diverging_loss")].step == 3


def test_every_program_of_the_clinic_has_a_number_of_its_own() -> None:
    assert [pair.number for pair in PAIRS] == list(range(1, len(PAIRS) + 1))


def test_every_rule_has_a_program_of_which_it_is_the_cause() -> None:
    causes = {cause for pair in PAIRS if pair.sick is not None for cause in pair.causes}
    assert {rule.name for rule in all_rules()} - causes == ELSEWHERE


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair.number))
def test_every_program_has_neighbours(pair: Pair) -> None:
    for make in filter(None, (pair.healthy, pair.sick)):
        neighbour = Variation.neighbour(pair.number, 0)
        torch.manual_seed(neighbour.seed)
        program = make(neighbour)
        assert program.options["max_epochs"] >= 1
        assert next(iter(program.train)) is not None


def made_up(gain: float, *said: Said, sick: bool = True, **changes: object) -> Run:
    run = Run(11, sick, 0, gain, gain, False, said, (), (), 100, 1.0)
    return replace(run, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [(float("nan"), "sick"), (-3.0, "sick"), (0.39, "sick"), (0.41, "unclear"), (0.63, "unclear"), (0.65, "healthy")],
)
def test_a_run_is_labelled_by_what_it_gained_against_its_twin(gain: float, outcome: str) -> None:
    twins = [made_up(0.8, sick=False), made_up(float("nan"), sick=False)]
    assert label(made_up(gain), BY_NUMBER[11], twins) == outcome


@pytest.mark.parametrize("gain", [0.1, 0.7])
def test_a_run_that_ends_another_way_under_the_doctors_eyes_is_unclear(gain: float) -> None:
    twins = [made_up(0.8, sick=False)]
    assert label(made_up(gain, watched_gain=0.8 - gain), BY_NUMBER[11], twins) == "unclear"


def test_a_clinic_whose_healthy_programs_learn_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no healthy run of program 11"):
        label(made_up(0.0), BY_NUMBER[11], [made_up(0.0, sick=False)])


def test_a_program_that_only_wastes_time_is_sick_whatever_it_gains() -> None:
    pair = next(pair for pair in PAIRS if pair.wasteful)
    runs = [made_up(0.8, number=pair.number), made_up(0.8, number=pair.number, sick=False)]
    assert [label(run, pair, runs) for run in runs] == ["sick", "healthy"]


def test_a_neighbour_is_measured_against_its_own_twin() -> None:
    twins = [made_up(gain, sick=False, varied=True, seed=seed) for seed, gain in enumerate([0.8, 0.9, 0.2])]
    neighbours = [made_up(gain, varied=True, seed=seed) for seed, gain in enumerate([0.1, 0.85, 0.1])]
    runs = [*twins, *neighbours]
    # What makes a healthy neighbour fail is not what the pair is about, so neither run says anything.
    assert [label(run, BY_NUMBER[11], runs) for run in twins] == ["healthy", "healthy", "unclear"]
    assert [label(run, BY_NUMBER[11], runs) for run in neighbours] == ["sick", "healthy", "unclear"]


def test_notes_are_not_counted_and_the_rank_begins_at_one() -> None:
    run = made_up(
        0.0, Said("loss_spike", "note", None), Said("overfitting", "warning", 5), Said("diverging_loss", "error", 60)
    )
    assert accepted(run, BY_NUMBER[11]) == 2


def test_totals_count_the_first_the_first_three_the_early_and_the_false() -> None:
    pair = BY_NUMBER[11]
    runs = [
        made_up(0.0, Said("diverging_loss", "error", 3), yardstick=True),
        made_up(0.0, Said("overfitting", "warning", 3), Said("non_finite_loss", "error", 60)),
        made_up(0.0),
        made_up(0.7),
        made_up(1.0, sick=False),
        made_up(1.0, Said("overfitting", "warning", 3), sick=False, yardstick=True),
        made_up(1.0, Said("overfitting", "note", None), sick=False, withdrawn=(Said("loss_plateau", "withdrawn", 9),)),
    ]
    everything, existing = count(runs, [pair])
    assert (everything.sick, everything.first, everything.among_three, everything.early) == (3, 1, 2, 1)
    assert (everything.healthy, everything.false_alarms, everything.withdrawn) == (3, 1, 1)
    assert (everything.caught, everything.false_catches, everything.unclear) == (1, 1, 1)
    assert existing == everything
    assert "| sick: an accepted cause first | 1 of 3 (33%) |" in markdown(everything).splitlines()


def test_a_program_has_one_line_over_its_seeds() -> None:
    runs = [
        made_up(0.0, Said("diverging_loss", "error", 10), seed=0),
        made_up(0.1, Said("diverging_loss", "error", 30), seed=1, withdrawn=(Said("loss_plateau", "withdrawn", 50),)),
        made_up(0.2, seed=2),
        made_up(1.0, sick=False),
    ]
    line, twin = list(zip(*(column.cells for column in programs(runs, [BY_NUMBER[11]]).columns), strict=True))
    assert line[2:4] == ("sick", "0 … 0.2")
    assert line[5] == "E diverging_loss 20% in 2\n(loss_plateau 50% in 1)"
    assert line[6] == "1 1 –"
    assert twin[1:4] == ("  its twin", "healthy", "1")
