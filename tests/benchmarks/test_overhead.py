from __future__ import annotations

import pytest

from tests.benchmarks.arms import DOCTOR, DOCTOR_VALIDATING, PLAIN_VALIDATING
from tests.benchmarks.overhead import main


def test_a_short_run_prints_every_arm_and_finds_no_blocking_read(capsys: pytest.CaptureFixture[str]) -> None:
    arms = [DOCTOR, PLAIN_VALIDATING, DOCTOR_VALIDATING, "grad_norm, each step"]
    main(["--models", "MLP", "--steps", "130", "--repetitions", "1", "--arms", *arms])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("MLP: a plain step takes ") for line in lines)
    rows = [line[2:32].strip() for line in lines if line.count("…") == 5]
    assert rows == [DOCTOR, DOCTOR_VALIDATING, "grad_norm, each step"]
    shares = [line for line in lines if "beyond its two seconds" in line]
    assert len(shares) == 2
    within = lines.index(next(line for line in lines if line.startswith("  within one run of 130 steps")))
    assert [line[2:32].strip() for line in lines if line.count("…") == 3] == [DOCTOR, "grad_norm, each step"]
    # From step 16 on 28 turns of four steps, of which the second, the fourth … lie between two others.
    assert lines[within + 1].split()[-1] == "13"
    (reads,) = (line for line in lines if "blocking reads per ordinary step" in line)
    # Of steps 1 to 128 those apart from windows, examinations and probes, and from the steps that follow these.
    count = int(reads.partition("(")[2].split()[0])
    assert "ordinary step: 0 (" in reads
    assert count > 80


def test_an_arm_that_is_not_installed_is_left_out_with_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradsnitch.integrations", None)
    main(["--models", "MLP", "--steps", "40", "--repetitions", "1", "--arms", "gradsnitch"])
    output = capsys.readouterr().out
    assert "gradsnitch is left out: gradsnitch.integrations cannot be imported" in output
    assert "gradsnitch  " not in output
