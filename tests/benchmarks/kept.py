"""What the doctor keeps of memory while a run goes on: `python -m tests.benchmarks.kept`.

Each model is trained without and with the doctor, validating, each time in a process of its own, and long after the
first look everything that is alive is counted: the storages of tensors, and what Python has allocated. What the doctor
keeps is the difference; the code of its modules, which is loaded before, is not among it.
"""

from __future__ import annotations

import gc
import logging
import sys
import tracemalloc
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from lightning_doctor.measure.bootstrap import _draws
from tests.benchmarks.arms import ARMS, DOCTOR_VALIDATING, PLAIN_VALIDATING, fit, quiet
from tests.benchmarks.watched_models import TASKS

# A part of the steps that the costs are measured on will do.
_SHORTER, _WARM_UP = 12, 100


class Count(Callback):
    """Counts what is alive at a step [bytes]."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.tensors = self.objects = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            gc.collect()
            held = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.device.type == "cpu"]
            storages = [each.untyped_storage() for each in held]
            self.tensors = sum({each.data_ptr(): each.nbytes() for each in storages}.values())
            self.objects = tracemalloc.get_traced_memory()[0]


def alive(model: str, name: str) -> tuple[int, int]:
    """Trains an arm; returns what tensors and other objects take at seven eighths of the run [bytes]."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    steps = TASKS[model].steps // _SHORTER
    count = Count(steps * 7 // 8)
    with quiet():
        fit(TASKS["MLP"], ARMS[DOCTOR_VALIDATING], ARMS[DOCTOR_VALIDATING].callbacks(), _WARM_UP, lambda: None)
        _draws.cache_clear()
        tracemalloc.start()
        fit(TASKS[model], ARMS[name], [count, *ARMS[name].callbacks()], steps, lambda: None)
    return count.tensors, count.objects


def main() -> int:
    print(f"{'what the doctor keeps [MB]':28}{'tensors':>10}{'objects':>10}{'weights':>10}")
    for model, task in TASKS.items():
        found = []
        for name in (PLAIN_VALIDATING, DOCTOR_VALIDATING):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                found.append(pool.submit(alive, model, name).result())
        weights = sum(4 * parameter.numel() for parameter in task.net().parameters())
        kept = [watched - plain for plain, watched in zip(*found, strict=True)]
        print(f"{model:28}" + "".join(f"{number / 1e6:10.2f}" for number in (*kept, weights)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
