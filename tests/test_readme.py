from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.precision import MixedPrecision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lightning_doctor import Doctor, Report
from lightning_doctor.callbacks.curvature import CurvatureProbe
from lightning_doctor.callbacks.doctor import MONITORS
from lightning_doctor.console import main
from lightning_doctor.environment import parse
from tests.runs import DigitsNet, digits, trainer, validation_digits

README = (Path(__file__).parents[1] / "README.md").read_text()
# Signals that are facts, which are no charts.
FACTS = ("parameters", "leak", "recurrence", "loss_head", "curvature", "comparison", "overlap", "reference")
ROWS = re.findall(r"^\| `((?:doctor/|custom_scalars)[^`]*)` \|", README, flags=re.MULTILINE)


class Adversaries(LightningModule):
    """Two optimizers, stepped by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.nets = nn.ModuleList([nn.Linear(64, 10), nn.Linear(64, 10)])

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for net, optimizer in zip(self.nets, self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(nn.functional.cross_entropy(net(batch[0]), batch[1]))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in self.nets]


class TwiceValidated(DigitsNet):
    """With a validation step for several loaders."""

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        super().validation_step(batch, batch_idx)


class Straight(DigitsNet):
    """Regression, with dropout and a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 32), nn.Sigmoid(), nn.Dropout(0.1), nn.Linear(32, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.mse_loss(self.net(batch[0])[:, 0], batch[1].float())


class Sparse(DigitsNet):
    """A loss with a call for small outputs beside it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        outputs = self.net(batch[0])
        return nn.functional.cross_entropy(outputs, batch[1]) + 0.01 * outputs.abs().mean()


def written(
    folder: Path, module: LightningModule, *loaders: Any, beside: Sequence[Any] = (), **options: Any
) -> set[str]:
    logger = TensorBoardLogger(folder, name=None)
    run: Trainer = trainer(folder, Doctor(strict=True), *beside, logger=logger, **options)
    run.fit(module, digits(), list(loaders) or None)
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0})
    events.Reload()
    tags = events.Tags()
    kinds = ("scalars", "tensors", "images", "histograms")
    return {tag for kind in kinds for tag in tags[kind] if tag.startswith(("doctor/", "custom_scalars"))}


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    folder = tmp_path_factory.mktemp("logs")
    # A scale so large that the first steps overflow and are skipped.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    return (
        written(folder / "clipped", DigitsNet(momentum=0.9), validation_digits(), gradient_clip_val=0.1)
        | written(folder / "loaders", TwiceValidated(), validation_digits(), validation_digits())
        | written(folder / "adagrad", DigitsNet(0.01, torch.optim.Adagrad))
        | written(folder / "several", Adversaries())
        | written(
            folder / "probed",
            DigitsNet(1e-3, torch.optim.Adam),
            beside=[CurvatureProbe(samples=64, every_n_steps=8)],
            max_epochs=4,
        )
        | written(folder / "sparse", Sparse())
        | written(folder / "straight", Straight(), max_epochs=5)
        | written(folder / "fp16", DigitsNet(), plugins=[MixedPrecision("16-mixed", "cpu", scaler=scaler)])
    )


def fits(row: str, tag: str) -> bool:
    pattern = re.escape(row)
    for place, what in (("<n>", r"\d+"), ("<t>", r"[\d.]+"), ("<layer>", r"(?!optimizer\d).+"), ("<sample>", r"\w+")):
        pattern = pattern.replace(place, what)
    return re.fullmatch(pattern, tag) is not None


def test_every_tag_that_is_written_stands_in_the_table(tags: set[str]) -> None:
    assert [tag for tag in sorted(tags) if not any(fits(row, tag) for row in ROWS)] == []


def test_every_tag_of_the_table_is_written(tags: set[str]) -> None:
    assert [row for row in ROWS if not any(fits(row, tag) for tag in tags)] == []


def test_every_signal_of_a_monitor_stands_in_the_table() -> None:
    signals = [signal for monitor in MONITORS for signal in monitor.signals]
    assert len(signals) > len(MONITORS)
    families = {row.partition("/<")[0] for row in ROWS}
    signals = [signal for signal in signals if signal not in FACTS]
    unknown = [name for name in signals if not {f"doctor/{name}", f"doctor/{name.partition('/')[0]}"} & families]
    assert unknown == []


def test_every_option_of_the_doctor_stands_in_its_table_with_its_default() -> None:
    options = inspect.signature(Doctor).parameters
    section = README.partition("\n## Options\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, flags=re.MULTILINE))
    assert list(rows) == list(options)
    plain = {name: f"`{option.default}`" for name, option in options.items() if option.default is not None}
    assert {name: rows[name] for name in plain} == plain


def test_the_environment_takes_what_it_says() -> None:
    values = re.findall(r'LIGHTNING_DOCTOR="([^"]+)"', README)
    assert values
    for value in values:
        Doctor(**parse(value))


def test_the_report_has_what_it_says() -> None:
    named = re.findall(r"doctor\.report\.(\w+)", README)
    assert "findings" in named
    assert [name for name in named if not hasattr(Report(), name)] == []


@pytest.mark.parametrize("command", re.findall(r"^lightning-doctor (\w+)", README, flags=re.MULTILINE))
def test_every_command_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert command in capsys.readouterr().out


def test_its_files_and_headings_exist_and_its_pictures_are_small() -> None:
    root = Path(__file__).parents[1]
    links = [link for link in re.findall(r'(?:\]\(|src=")([^)"]+)', README) if not link.startswith("http")]
    files = [link for link in links if not link.startswith("#")]
    headings = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)", README, flags=re.MULTILINE)}
    assert {link[1:] for link in links if link.startswith("#")} <= headings
    assert len(files) > 4
    assert [file for file in files if not (root / file).is_file()] == []
    assert [file for file in files if file.endswith(".png") and (root / file).stat().st_size > 250_000] == []


def test_it_holds_the_two_commands_that_ci_reads_from_it() -> None:
    setups = [line for line in README.splitlines() if line.startswith("pip install -c tests/constraints.txt")]
    assert [line.partition(" && ")[2] for line in setups] == ["lightning-doctor demo", "python -m pytest -n 2"]
