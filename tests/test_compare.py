from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_doctor import console
from lightning_doctor.compare import Comparison, compare
from lightning_doctor.compared_run import RunSummary, apart, at_step, summarized
from lightning_doctor.diagnose import diagnose
from lightning_doctor.history import History
from lightning_doctor.report import Report
from lightning_doctor.run_names import renamed
from lightning_doctor.sinks.report import write
from lightning_doctor.size_order import ordered
from tests.histories import decay, gauss, noisy

# The final training losses of a plain network with 1 to 5 layers, in thousands, and its validation losses.
TRAINING = (0.28, 0.18, 0.14, 0.10, 0.34)
VALIDATION = (0.43, 0.39, 0.38, 0.44, 0.60)
STEPS = 400


def run(
    train: Iterable[float],
    val: Sequence[float] = (),
    *,
    facts: dict[str, Any] | None = None,
    metric: float | None = None,
) -> History:
    history = History()
    history.facts = facts or {}
    for step, loss in enumerate(train):
        history.record("train_loss", step, loss)
    for index, loss in enumerate(val):
        history.record("val_loss", 20 * (index + 1) - 1, loss)
        if metric is not None:
            history.record("val_metric", 20 * (index + 1) - 1, metric)
    return history


def sized(depth: int, parameters: int | None = None, **facts: Any) -> dict[str, Any]:
    return {
        "model": {"parameters": parameters or 1000 * depth, "layers": {"Linear": depth, "ReLU": depth - 1}},
        **facts,
    }


def ending(
    train: float,
    val: float | None = None,
    *,
    unit: float = 1.0,
    sigma: float = 0.02,
    steps: int = STEPS,
    seed: int = 0,
    **rest: Any,
) -> History:
    """A run whose losses fall to these levels, with noise."""
    losses = noisy(decay(1.0, train, 40, steps), sigma, seed)
    passes = [] if val is None else noisy(decay(1.0, val, 2, steps // 20), sigma / 4, seed + 1)
    return run([unit * loss for loss in losses], [unit * loss for loss in passes], **rest)


def compared(*histories: History, names: Sequence[str] = ()) -> Comparison:
    named = names or [f"run {'abcdefg'[index]}" for index in range(len(histories))]
    return compare([summarized(diagnose(h), Path(name), name) for h, name in zip(histories, named, strict=True)])


def verdicts(comparison: Comparison) -> list[str]:
    return [entry.verdict for entry in comparison.entries]


def table_of_depths(unit: float = 1.0, validated: bool = True) -> list[History]:
    return [
        ending(train, val if validated else None, unit=unit, facts=sized(depth), seed=depth)
        for depth, (train, val) in enumerate(zip(TRAINING, VALIDATION, strict=True), start=1)
    ]


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("unit", [1.0, 1000.0, 1e-6])
def test_of_the_published_depths_the_five_layers_and_only_they_failed_to_optimize(unit: float, validated: bool) -> None:
    comparison = compared(*table_of_depths(unit, validated))
    assert [entry.run.depth for entry in comparison.entries] == [1, 2, 3, 4, 5]
    assert [entry.run.depth for entry in comparison.entries if entry.verdict == "optimization"] == [5]
    assert comparison.entries[-1].sure
    assert "run d, which is smaller" in comparison.entries[-1].because


def test_the_same_table_as_bare_figures_is_read_the_same_and_is_less_sure() -> None:
    histories = [run([loss], facts=sized(depth)) for depth, loss in enumerate(TRAINING, start=1)]
    comparison = compared(*histories)
    assert verdicts(comparison) == ["nothing ill"] * 4 + ["optimization"]
    assert not comparison.entries[-1].sure
    assert comparison.best is not None
    assert (comparison.best.name, comparison.best.by, comparison.best.resolved) == ("run d", "training", None)


def test_fifty_six_layers_behind_twenty_on_both_sides_are_no_overfitting() -> None:
    comparison = compared(ending(0.25, 0.40, facts=sized(56)), ending(0.15, 0.33, facts=sized(20), seed=3))
    assert [(entry.run.depth, entry.verdict) for entry in comparison.entries] == [
        (20, "nothing ill"),
        (56, "optimization"),
    ]
    assert comparison.best is not None
    assert (comparison.best.name, comparison.best.resolved) == ("run b", True)


def test_a_larger_network_that_fits_better_and_generalizes_worse_overfits() -> None:
    comparison = compared(ending(0.3, 0.35, facts=sized(2)), ending(0.02, 0.5, facts=sized(8), seed=3))
    assert verdicts(comparison) == ["nothing ill", "overfitting"]
    assert comparison.entries[1].sure


def test_a_curve_that_turns_overfits_whatever_the_others_do() -> None:
    turned = run(
        noisy(decay(0.7, 0.01, 80, 600), 0.004),
        noisy([*decay(0.7, 0.45, 2, 8), *(0.46 + 0.02 * i for i in range(22))], 0.004),
        facts=sized(2),
    )
    comparison = compared(turned, ending(0.3, 0.5, facts=sized(1)))
    assert verdicts(comparison)[1] == "overfitting"
    assert "rose from" in comparison.entries[1].because


def test_a_network_that_a_larger_one_beats_on_both_sides_is_too_small() -> None:
    assert verdicts(compared(ending(0.6, 0.65, facts=sized(1)), ending(0.2, 0.3, facts=sized(3), seed=3))) == [
        "too small",
        "nothing ill",
    ]


def test_without_validation_a_smaller_network_is_not_called_too_small() -> None:
    assert verdicts(compared(ending(0.6, facts=sized(1)), ending(0.2, facts=sized(3)))) == ["nothing ill"] * 2


def test_a_higher_training_loss_that_validation_repays_is_regularization() -> None:
    regularized = sized(4)
    regularized["model"]["dropout"] = {"drop": 0.5}
    comparison = compared(ending(0.05, 0.4, facts=sized(3)), ending(0.2, 0.3, facts=regularized, seed=3))
    assert verdicts(comparison)[1] == "nothing ill"
    assert any("dropout" in note and "run b" in note for note in comparison.notes)


def test_an_equal_network_that_does_better_shows_that_it_can_be_done() -> None:
    comparison = compared(ending(0.5, facts=sized(3)), ending(0.1, facts=sized(3), seed=3))
    assert verdicts(comparison) == ["optimization", "nothing ill"]
    assert "no larger" in comparison.entries[0].because
    assert comparison.order.startswith("all of one size")


def test_deep_and_thin_against_shallow_and_wide_proves_nothing_about_either() -> None:
    deep_and_thin, shallow_and_wide = sized(8, 2000), sized(2, 50_000)
    for losses in ((0.1, 0.4), (0.4, 0.1)):
        histories = [ending(losses[0], facts=deep_and_thin), ending(losses[1], facts=shallow_and_wide, seed=3)]
        assert verdicts(compared(*histories)) == ["nothing ill"] * 2


def test_a_network_that_had_fewer_steps_is_unfinished() -> None:
    comparison = compared(ending(0.1, facts=sized(1)), ending(0.1, steps=40, facts=sized(2), seed=3))
    assert verdicts(comparison) == ["nothing ill", "unfinished"]
    assert "which had 399 steps where it had 39" in comparison.entries[1].because


def test_a_network_that_had_fewer_steps_and_was_behind_in_them_failed_all_the_same() -> None:
    stuck = run(noisy([1.0] * 40, 0.02, 3), facts=sized(2))
    assert verdicts(compared(ending(0.1, facts=sized(1)), stuck)) == ["nothing ill", "optimization"]


def test_a_loss_that_is_not_finite_failed_and_is_no_measure_for_the_others() -> None:
    broken = run([*decay(1.0, 0.01, 10, 50), math.nan], facts=sized(1))
    comparison = compared(broken, ending(0.3, facts=sized(2)), ending(0.2, facts=sized(3), seed=3))
    assert verdicts(comparison) == ["optimization", "nothing ill", "nothing ill"]
    assert comparison.entries[0].because == "its training loss is not finite from step 50 on"


def test_a_run_far_off_does_not_hide_the_others() -> None:
    histories = [*table_of_depths(), run([1.0, *[1e9] * 400], facts=sized(6))]
    assert verdicts(compared(*histories))[4:] == ["optimization", "optimization"]


def test_losses_of_different_kinds_are_not_compared() -> None:
    heads = [{"loss_head": {"loss": "mse", "reduction": kind}} for kind in ("mean", "sum")]
    histories = [ending(loss, facts=sized(i, **heads[i - 1])) for i, loss in ((1, 0.1), (2, 0.5))]
    comparison = compared(*histories)
    assert verdicts(comparison) == ["unknown", "unknown"]
    assert comparison.best is None
    assert comparison.notes == ["their losses are of different kinds (mse mean, mse sum) and cannot be compared"]


def test_a_run_without_a_training_loss_is_unknown() -> None:
    bare = run([], [0.5] * 10, facts=sized(2))
    comparison = compared(ending(0.1, 0.3, facts=sized(1)), bare)
    assert (comparison.entries[1].verdict, comparison.entries[1].because) == ("unknown", "it logged no training loss")


@pytest.mark.parametrize(("rise", "verdict"), [(0.02, "nothing ill"), (0.05, "optimization")])
def test_a_difference_counts_from_three_standard_errors_on(rise: float, verdict: str) -> None:
    # Noise of 0.05 a step and 40 steps in the last tenth: 1.25 · 0.05 / √40 is 0.01 a run and 0.014 for a difference
    # of two, three of which are 0.042; the two medians themselves are off by 0.004 here.
    # They begin at 0.9, so that no such difference is a trifle.
    histories = [
        run([0.9, *noisy([level] * 399, 0.05, seed)], facts=sized(depth))
        for depth, level, seed in ((1, 0.5, 0), (2, 0.5 + rise, 3))
    ]
    assert verdicts(compared(*histories))[1] == verdict


def test_a_trifle_is_no_difference_however_little_noise_there_is() -> None:
    for end, verdict in ((0.019, "nothing ill"), (0.021, "optimization")):
        # The runs came from 1 to 0; the last tenth of a fall so quick is flat.
        histories = [run(decay(1.0, level, 5, 400), facts=sized(i)) for i, level in ((1, 0.0), (2, end))]
        assert verdicts(compared(*histories))[1] == verdict


def test_equal_runs_are_seldom_told_apart() -> None:
    # Three standard errors by chance once in 370, the noise being itself an estimate, and either of two may lie over
    # the other: 0.5 to 2 of 200 pairs are expected, over 6 once in thousands.
    alarms = 0
    for seed in range(200):
        histories = [run(noisy([0.5] * 300, 0.2, 2 * seed + side), facts=sized(3)) for side in (0, 1)]
        alarms += "optimization" in verdicts(compared(*histories))
    assert alarms <= 6


def test_sizes_go_by_layers_and_parameters_then_by_names_then_by_the_order_given() -> None:
    low, high = ending(0.1), ending(0.5, seed=3)
    for names, order, known_order in (
        (("56_layers", "20_layers"), ["20_layers", "56_layers"], "numbers in their names"),
        (("plain-56", "plain-20"), ["plain-20", "plain-56"], "numbers in their names"),
        (("version_1", "version_0"), ["version_1", "version_0"], "in the order given"),
        (("lr_0.1", "lr_0.01"), ["lr_0.1", "lr_0.01"], "in the order given"),
        (("b", "a"), ["b", "a"], "in the order given"),
    ):
        comparison = compared(low, high, names=names)
        assert [entry.run.name for entry in comparison.entries] == order
        assert known_order in comparison.order
        assert not any(entry.sure for entry in comparison.entries)
    by_parameters = compared(ending(0.1, facts=sized(3, 900)), ending(0.1, facts=sized(3, 500)))
    assert by_parameters.order == "ordered by parameters"
    assert [entry.run.parameters for entry in by_parameters.entries] == [500, 900]


def test_a_small_validation_set_does_not_resolve_the_best_and_says_what_would() -> None:
    facts = [sized(i, data={"val_samples": 200}, validation={"metric": "val_acc", "mode": "max"}) for i in (1, 2)]
    histories = [ending(0.3, 0.40, facts=facts[0], metric=0.90), ending(0.2, 0.30, facts=facts[1], metric=0.94, seed=3)]
    best = compared(*histories).best
    assert best is not None
    assert (best.name, best.resolved) == ("run b", False)
    # √(ln(2 · 2 / 0.05) / (2 · 200)) = 0.105, and 2 ln(80) / 0.04² = 5,477.5.
    assert "val_acc 0.94 ± 0.1 against 0.9 ± 0.1" in best.because
    assert "5,478 samples would tell them apart" in best.because


def test_a_large_validation_set_resolves_the_best() -> None:
    facts = [sized(i, data={"val_samples": 20_000}, validation={"metric": "val_acc", "mode": "max"}) for i in (1, 2)]
    histories = [ending(0.3, 0.40, facts=facts[0], metric=0.90), ending(0.2, 0.30, facts=facts[1], metric=0.94, seed=3)]
    best = compared(*histories).best
    assert best is not None
    assert best.resolved is True


def test_a_verdict_by_validation_has_the_error_bars_of_its_figures() -> None:
    for samples, sure in ((200, False), (20_000, True)):
        data = {"data": {"val_samples": samples}, "validation": {"metric": "val_acc", "mode": "max"}}
        small = ending(0.3, 0.35, facts=sized(2, **data), metric=0.94)
        comparison = compared(small, ending(0.02, 0.5, facts=sized(8, **data), seed=3, metric=0.90))
        assert (comparison.entries[1].verdict, comparison.entries[1].sure) == ("overfitting", sure)
        # √(ln(2 · 2 / 0.05) / (2 · samples))
        bar = "0.1" if samples == 200 else "0.01"
        assert f"val_acc 0.94 ± {bar} against 0.9 ± {bar}" in comparison.entries[1].because


def test_the_scatter_of_the_samples_gives_a_loss_its_error_bar() -> None:
    for error, resolved in ((0.06, False), (0.01, True)):
        histories = [ending(0.2, loss, facts=sized(1, data={"val_samples": 50})) for loss in (0.3, 0.5)]
        for history in histories:
            history.facts["scored"] = {"validation": 50}
            history.record("eval_error/validation", STEPS - 1, error)
        best = compared(*histories).best
        assert best is not None
        assert best.resolved is resolved
        # Two candidates: the 98.75 % point of a normal distribution is 2.24.
        assert f"known to ± {2.24 * error:.2g} and ± {2.24 * error:.2g}" in best.because


def test_training_losses_in_eval_mode_go_before_those_of_the_steps() -> None:
    # With dropout the steps score 0.4, and the same network without it 0.1.
    histories = [ending(0.2, facts=sized(1)), ending(0.4, facts=sized(2), seed=3)]
    assert verdicts(compared(*histories))[1] == "optimization"
    for history, loss in zip(histories, (0.2, 0.1), strict=True):
        history.record("eval_loss/train", STEPS - 1, loss)
        history.record("eval_error/train", STEPS - 1, 0.01)
    comparison = compared(*histories)
    assert verdicts(comparison)[1] == "nothing ill"
    assert [entry.run.train.value for entry in comparison.entries if entry.run.train] == [0.2, 0.1]


def test_of_a_loss_alone_no_error_bar_is_known() -> None:
    best = compared(*(ending(0.2, loss, facts=sized(1, data={"val_samples": 50})) for loss in (0.3, 0.5))).best
    assert best is not None
    assert "how far 50 samples may mislead is not known of a loss" in best.because


def test_two_runs_inside_the_noise_are_not_resolved() -> None:
    best = compared(ending(0.2, 0.3, facts=sized(1)), ending(0.2, 0.3, facts=sized(2), seed=5)).best
    assert best is not None
    assert best.resolved is False
    assert "inside the noise" in best.because


def test_one_run_is_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least two runs to compare, got 1"):
        compare([RunSummary(name="a")])


def test_the_level_of_a_curve_is_within_its_error_of_the_truth() -> None:
    # 3 standard errors of a normal median: off once in 370, of 100 none or one.
    off = 0
    for seed in range(100):
        series = run(noisy([2.0] * 400, 0.3, seed))["train_loss"]
        level = at_step(series, 399)
        off += abs(level.value - 2.0) > 3 * level.error
    assert off <= 2
    assert math.isnan(at_step(run([1.0, 2.0])["train_loss"], 1).error)
    assert apart(at_step(run([1.0])["train_loss"], 0), level, 3.0) is None


def test_runs_of_one_name_are_told_apart() -> None:
    runs = [RunSummary(name="a", place=place) for place in ("x/a", "y/a", "y/a")]
    assert [r.name for r in renamed(runs)] == ["x", "y", "y (2)"]
    twice = [RunSummary(name="a", place="x/a")] * 2
    assert [r.name for r in renamed(twice)] == ["x/a", "x/a (2)"]


def test_the_versions_of_several_loggers_are_named_and_ordered_by_their_folders() -> None:
    places = [f"/home/me/logs/{depth}_layers/version_0" for depth in (5, 3)]
    runs = renamed([RunSummary(name="version_0", place=place) for place in places])
    assert [run.name for run in runs] == ["5_layers", "3_layers"]
    assert [run.name for run in ordered(runs).runs] == ["3_layers", "5_layers"]


def logs(folder: Path) -> list[Path]:
    """The published depths, as reports of the doctor."""
    paths = []
    for depth, history in enumerate(table_of_depths(), start=1):
        paths.append(folder / f"run{depth}")
        write(diagnose(history), paths[-1])
    return paths


def test_the_command_prints_a_table_and_names_the_five_layers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert console.main(["compare", *map(str, reversed(logs(tmp_path)))]) == 0
    shown = capsys.readouterr().out
    assert "ordered by layers and parameters" in shown
    assert [line for line in shown.splitlines() if "optimization" in line and "run5" in line]
    assert not [line for line in shown.splitlines() if "run4: optimization" in line]


def test_a_folder_stands_for_the_runs_in_it_and_json_is_strict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs(tmp_path)
    assert console.main(["compare", str(tmp_path), "--json"]) == 0
    table = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert [entry["run"]["depth"] for entry in table["entries"] if entry["verdict"] == "optimization"] == [5]
    assert table["best"]["name"] == "run3"
    assert "losses" not in table["entries"][0]["run"]


def test_plain_tables_are_compared_by_tags_that_were_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, history in (("20_layers", ending(0.1)), ("56_layers", ending(0.3, seed=3))):
        (tmp_path / name).mkdir()
        rows = "".join(f"{step},{loss}\n" for step, loss in enumerate(history["train_loss"].values))
        (tmp_path / name / "metrics.csv").write_text("step,nll\n" + rows)
    files = [str(tmp_path / name / "metrics.csv") for name in ("56_layers", "20_layers")]
    assert console.main(["compare", *files, "--train-loss", "nll", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["entries"]
    assert [(e["run"]["name"], e["verdict"], e["sure"]) for e in entries] == [
        ("20_layers", "nothing ill", False),
        ("56_layers", "optimization", False),
    ]


def test_the_chart_is_a_png_and_goes_to_tensorboard_with_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in logs(tmp_path)]
    chart, board = tmp_path / "chart", tmp_path / "board"
    assert console.main(["compare", *paths, "--chart", str(chart), "--tensorboard", str(board)]) == 0
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 16)}
    # Both curves and the line at the best are drawn.
    assert {(0, 114, 178), (0, 158, 115), (213, 94, 0)} <= colours
    events = EventAccumulator(str(board))
    events.Reload()
    assert events.Tags()["images"] == ["doctor/compare/chart"]
    (text,) = events.Tensors("doctor/compare/text_summary")
    assert b"| run5 | 5 | 5,000 |" in text.tensor_proto.string_val[0]


def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(path) for path in logs(tmp_path)[:2]]
    (tmp_path / "bad.json").write_text("{")
    for arguments, complaint in (
        ([paths[0]], "there must be at least two runs to compare, got 1"),
        ([*paths, str(tmp_path / "nowhere")], "No such file"),
        ([*paths, str(tmp_path / "bad.json")], "is not JSON"),
        ([*paths, "--chart", str(tmp_path)], "Is a directory"),
        ([*paths, "--chart", str(tmp_path / "no" / "c.png")], "No such file"),
        ([*paths, "--tensorboard", str(tmp_path / "bad.json")], "File exists"),
    ):
        assert console.main(["compare", *arguments]) == 2
        errors = capsys.readouterr().err
        assert complaint in errors
        assert errors.count("\n") == 1


def test_runs_that_can_be_read_are_compared_beside_one_that_cannot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(path) for path in logs(tmp_path)]
    assert console.main(["compare", *paths, str(tmp_path / "nowhere")]) == 2
    assert "run5: optimization" in capsys.readouterr().out


def test_names_from_outside_steer_neither_the_terminal_nor_the_letter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_doctor.sinks.comparison import markdown

    write(diagnose(ending(0.1)), tmp_path / "[red]a|b[/red]\x1b[31m")
    write(Report(history=ending(0.5, seed=3)), tmp_path / "z")
    assert console.main(["compare", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "[red]a|b" in shown
    assert "\x1b" not in shown
    assert "\\[red\\]a\\|b" in markdown(compared(ending(0.1), ending(0.5), names=["[red]a|b", "z"]))


def test_comparing_needs_neither_torch_nor_lightning(tmp_path: Path) -> None:
    paths = [str(path) for path in logs(tmp_path)]
    arguments = ["compare", *paths, "--chart", str(tmp_path / "c.png"), "--tensorboard", str(tmp_path / "board")]
    code = (
        f"import sys; from lightning_doctor.console import main; code = main({arguments!r}); "
        "print(sorted({'torch', 'lightning', 'pytorch_lightning', 'tensorflow'} & set(sys.modules)), code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


def test_runs_of_nothing_but_noise_raise_nothing() -> None:
    for values in ([], [0.0] * 30, [1e300, -1e300] * 20, [math.nan] * 5, gauss(30), [5e-324] * 30):
        for facts in ({}, sized(2)):
            comparison = compared(run(values, values[:10], facts=facts), ending(0.1, 0.2, facts=sized(1)))
            json.dumps(comparison.to_dict(), allow_nan=False)
