"""Transformers, and rows that look at other rows of the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from tests.clinic.patient import Pair, Patient, Program
from tests.clinic.programs.parts import DIGITS, LABELS, task
from tests.clinic.variation import Variation

_CROSS_ENTROPY = nn.functional.cross_entropy
_ROWS = DIGITS.reshape(-1, 8, 8)


class _Transformer(nn.Module):
    """Reads a digit as a sequence of tokens, [N, tokens, pixels]; normalises after each block, as at first one did."""

    def __init__(self, tokens: int, pixels: int, units: int, layers: int, *, mean: bool, batch_first: bool = True):
        super().__init__()
        self.embed = nn.Linear(pixels, units)
        self.places = nn.Parameter(0.5 * torch.randn(tokens, units))
        block = nn.TransformerEncoderLayer(units, 2, 2 * units, dropout=0.0, batch_first=batch_first)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        for parameter in self.blocks.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(units, 10)
        self.mean = mean

    def forward(self, inputs: Tensor) -> Tensor:
        states = self.blocks(self.embed(inputs) + self.places)
        scores: Tensor = self.head(states.mean(1) if self.mean else states[:, 0])
        return scores


def _post_norm(vary: Variation, *, warm_up: int) -> Program:
    def schedule(optimizer: Optimizer) -> LRScheduler:
        return LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))

    net = _Transformer(4, 16, 2 * vary.width(16), 6, mean=True)
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(6e-3)), schedule=schedule if warm_up else None)
    return task(vary, patient, (DIGITS.reshape(-1, 4, 16), LABELS), 12, 64)


def _first_token(vary: Variation, *, batch_first: bool) -> Program:
    net = _Transformer(8, 8, 2 * vary.width(16), 2, mean=False, batch_first=batch_first)
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(2e-3)), accuracy=True)
    return task(vary, patient, (_ROWS, LABELS), 12, 32)


class _Recurrent(nn.Module):
    """Reads a digit row by row."""

    def __init__(self, units: int, *, viewed: bool) -> None:
        super().__init__()
        self.recurrent = nn.GRU(8, units)
        self.head = nn.Linear(units, 10)
        self.viewed = viewed

    def forward(self, inputs: Tensor) -> Tensor:
        # Time comes first: a view has the right shape and the wrong rows.
        times = inputs.view(8, -1, 8) if self.viewed else inputs.transpose(0, 1)
        states, _ = self.recurrent(times)
        scores: Tensor = self.head(states[-1])
        return scores


def _row_by_row(vary: Variation, *, viewed: bool) -> Program:
    net = _Recurrent(vary.width(48), viewed=viewed)
    patient = Patient(net, _CROSS_ENTROPY, lambda p: Adam(p, vary.rate(3e-3)), accuracy=True)
    return task(vary, patient, (_ROWS, LABELS), 12, 32)


PAIRS = (
    Pair(
        75,
        "post-norm transformer without warm-up",
        ("missing_warmup", "learning_rate_too_high"),
        lambda vary: _post_norm(vary, warm_up=120),
        lambda vary: _post_norm(vary, warm_up=0),
    ),
    Pair(
        76,
        "attention over the batch, not over time",
        ("leaking_batch",),
        lambda vary: _first_token(vary, batch_first=True),
        lambda vary: _first_token(vary, batch_first=False),
    ),
    Pair(
        77,
        "view where transpose was meant",
        ("leaking_batch",),
        lambda vary: _row_by_row(vary, viewed=False),
        lambda vary: _row_by_row(vary, viewed=True),
    ),
)
