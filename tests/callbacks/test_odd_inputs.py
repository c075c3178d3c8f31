"""Whatever a loader serves or a loss is made of: the run goes on, and what is not measured says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from lightning_doctor import Doctor
from tests.runs import IMAGES, LABELS, DigitsNet, digits, flat, trainer, validation_digits

STEPS = 12


class Served(DigitsNet):
    """Takes its numbers from elsewhere: what the batch holds does not matter to it."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        rows = slice(32 * batch_idx, 32 * batch_idx + 32)
        return nn.functional.cross_entropy(self.net(IMAGES[rows]), LABELS[rows])


@dataclass
class Sample:
    image: Tensor
    label: Tensor
    name: str


BATCHES: dict[str, Callable[[int], Any]] = {
    "strings": lambda i: [f"sentence {i}", "another"],
    "None": lambda i: None,
    "sparse": lambda i: torch.eye(4).to_sparse(),
    "sparse rows": lambda i: torch.eye(4).to_sparse_csr(),
    "ragged": lambda i: [torch.ones(n) for n in range(1, 4)],
    "empty": lambda i: (torch.zeros(0, 64), torch.zeros(0, dtype=torch.long)),
    "nothing in it": lambda i: {},
    "other sizes": lambda i: (torch.ones(1 + i % 5, 64), torch.zeros(1 + i % 5, dtype=torch.long)),
    "other keys": lambda i: {f"key{i}": torch.ones(3)},
    "nested": lambda i: {"a": [({"b": torch.ones(4, 2)}, "text", 3)], "c": None},
    "dataclass": lambda i: Sample(torch.ones(4, 64), torch.zeros(4), "x"),
    "one number": lambda i: torch.tensor(1.0),
    "whole numbers": lambda i: torch.arange(8).reshape(4, 2),
    "complex": lambda i: torch.ones(4, 2, dtype=torch.complex64),
    "truths": lambda i: (torch.ones(4, 2, dtype=torch.bool), torch.zeros(4, dtype=torch.bool)),
    "half": lambda i: (torch.ones(4, 2, dtype=torch.bfloat16), torch.ones(4, 1, dtype=torch.float16)),
    "NaN": lambda i: (torch.full((4, 2), float("nan")), torch.ones(4)),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_a_batch_of_any_kind_is_borne(tmp_path: Path, kind: str) -> None:
    def train(*callbacks: Any) -> Tensor:
        net = Served()
        loader: Any = DataLoader(list(range(STEPS)), batch_size=None, collate_fn=BATCHES[kind])
        trainer(tmp_path, *callbacks, max_epochs=1).fit(net, loader)
        return flat(net)

    doctor = Doctor(strict=True, overhead=1.0)
    assert torch.equal(train(doctor), train())
    assert doctor.report.notes == []
    # Lightning passes over a batch that is None.
    assert len(doctor.report.history.get("train_loss")) == (0 if kind == "None" else STEPS)
    assert all(reason.strip() for reason in doctor.report.unassessed.values())


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, losses: Tensor) -> Tensor:
        return losses.mean() * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * gradient.expand(32) / 32


class Dictionary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> dict[str, Any]:
        return {"scores": self.inner(images), "note": "text"}


class OfItsOwn(DigitsNet):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        losses = nn.functional.cross_entropy(self.net(batch[0]), batch[1], reduction="none")
        return Doubling.apply(losses)


class Speaking(DigitsNet):
    def __init__(self) -> None:
        super().__init__()
        self.net = Dictionary()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": nn.functional.cross_entropy(self.net(batch[0])["scores"], batch[1]), "more": [1, None]}

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0])["scores"], batch[1]))


class WithoutParameters(DigitsNet):
    """Its loss does not come from its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.weight - 3.0) ** 2


@pytest.mark.parametrize(
    ("net", "reasons"),
    [
        (OfItsOwn, {"LD301": "Doubling", "LD304": "Doubling"}),
        (Speaking, {}),
        (WithoutParameters, {"LD204": "no layer has run"}),
    ],
)
def test_a_model_of_any_kind_is_borne_and_what_it_hides_is_said(
    tmp_path: Path, net: type[DigitsNet], reasons: dict[str, str]
) -> None:
    def train(*callbacks: Any) -> Tensor:
        torch.manual_seed(0)
        model = net()
        trainer(tmp_path, *callbacks).fit(model, digits(shuffle=False), validation_digits())
        return flat(model)

    doctor = Doctor(strict=True, overhead=1.0)
    assert torch.equal(train(doctor), train())
    assert doctor.report.notes == []
    for code, reason in reasons.items():
        assert reason in doctor.report.unassessed[code]


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
def test_of_a_plain_classifier_few_rules_are_unassessed_and_each_for_a_good_reason(
    tmp_path: Path, optimizer: type[torch.optim.Optimizer]
) -> None:
    doctor = Doctor(strict=True)
    net = DigitsNet(lr=0.1 if optimizer is torch.optim.SGD else 0.003, optimizer=optimizer)
    trainer(tmp_path, doctor, max_epochs=30).fit(net, digits(), validation_digits())
    adam = {"LD404": "no limit of Adam on its batches is known"}
    assert doctor.report.unassessed == (adam if optimizer is torch.optim.Adam else {}) | {
        "LD205": "the model has no sigmoid or tanh that could be seen",
        "LD206": "gradients are not clipped",
        "LD309": "the targets are no real numbers",
        "LD509": "the model has no dropout or batch normalisation, and asks for no mode",
    }
