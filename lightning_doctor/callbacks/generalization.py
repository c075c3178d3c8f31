"""Validation loss and metric, beside the training loss."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_doctor.callbacks.facts import all_callbacks
from lightning_doctor.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from lightning_doctor.callbacks.case import Case

_VALIDATION = re.compile(r"(?<![a-z])(val|valid|validation|dev|eval)(?![a-z])")
_LOADER = re.compile(r"/dataloader_idx_(\d+)$")
_LOSS = re.compile(r"(?<![a-z])(loss|nll|cross_?entropy|bce|ce|objective)(?![a-z])")
_HIGHER_IS_BETTER = re.compile(
    r"(?<![a-z])(acc|accuracy|balanced_accuracy|top\d*|f1|f_?beta|auroc|auc|roc_auc|auprc|ap|map|precision|recall|iou"
    r"|miou|jaccard|dice|r2|r2_?score|mcc|kappa|bleu|rouge\w*|psnr|ssim|corr|pearson|spearman|score|ndcg|mrr)(?![a-z])"
    r"|accuracy|f1score"
)
_LOWER_IS_BETTER = re.compile(
    r"(?<![a-z])(err|error|error_rate|mse|rmse|mae|mape|perplexity|ppl|wer|cer|ece|fid)(?![a-z])|perplexity"
)


class GeneralizationMonitor(Monitor):
    """Records ``val_loss`` and ``val_metric``, once a validation pass, beside ``train_loss``.

    What was logged is taken from ``trainer.callback_metrics``, found by its name or named here; where no validation
    loss was logged, what ``validation_step`` returned is averaged. Further validation loaders give ``val_loss/1``
    and so on.

    Args:
        loss: Name of the logged validation loss.
        metric: Name of the logged validation metric. Without it, what a checkpoint or early-stopping callback
            monitors, else the first logged name that is one of a known metric.
        mode: Whether a good metric is high (``"max"``) or low (``"min"``); found by itself for known metrics.
    """

    signals = ("val_loss", "val_metric")

    def __init__(self, loss: str | None = None, metric: str | None = None, mode: str | None = None) -> None:
        super().__init__()
        if mode not in (None, "max", "min"):
            raise ValueError(f"mode must be 'max', 'min' or None, got {mode!r}")
        self.loss = loss
        self.metric = metric
        self.mode = mode

    def begin(self, case: Case) -> None:
        """Notes why there may be nothing to read."""
        self._returned: dict[int, list[Tensor]] = {}
        self._watched = {
            str(callback.monitor): getattr(callback, "mode", "min")
            for callback in all_callbacks(case.run.trainer)
            if getattr(callback, "monitor", None)
        }
        case.history.lack(self.signals, "there was no validation pass")

    def end(self, case: Case) -> None:
        """Lets go of a pass that was not finished."""
        self._returned.clear()

    def validation_batch(self, case: Case, outputs: Any, dataloader_idx: int) -> None:
        """Keeps the loss that ``validation_step`` returned, in case none is logged."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._returned.setdefault(dataloader_idx, []).append(loss.detach().reshape(()).clone())

    def after_validation(self, case: Case) -> None:
        """Reads the pass: Lightning has computed what was logged, so no metric's state is touched."""
        logged = {name: value for name, value in case.run.trainer.callback_metrics.items() if value.numel() == 1}
        returned, self._returned = self._returned, {}
        losses = self._losses(logged)
        if not losses:
            losses = {index: torch.stack(values).mean() for index, values in returned.items()}
        self._read(case, losses, logged)

    def _read(self, case: Case, losses: Mapping[int, Tensor], logged: Mapping[str, Tensor]) -> None:
        case.history.lack(["val_loss"], "no validation loss was logged or returned")
        case.history.lack(["val_metric"], "no known validation metric was logged")
        for order, index in enumerate(sorted(losses)):
            name = f"val_loss/{index}" if order else "val_loss"
            case.read(name, losses[index].detach().clone())
        found = self._metric(logged)
        if found is not None:
            metric, mode = found
            case.history.facts["validation"] = {"metric": metric, "mode": mode}
            case.read("val_metric", logged[metric].detach().clone())

    def _losses(self, logged: Mapping[str, Tensor]) -> dict[int, Tensor]:
        if self.loss is not None:
            names = [name for name in logged if _LOADER.sub("", name) == self.loss]
        else:
            names = _losses_by_name(logged)
        # Several candidates: those that share the name of the first are its loaders.
        names = [name for name in names if _LOADER.sub("", name) == _LOADER.sub("", names[0])]
        return {_loader(name): logged[name] for name in names}

    def _metric(self, logged: Iterable[str]) -> tuple[str, str] | None:
        names = list(logged)
        if self.metric is not None:
            mode = self.mode or self._watched.get(self.metric) or _mode(self.metric) or "max"
            return next(((name, mode) for name in names if _LOADER.sub("", name) == self.metric), None)
        losses = set(_losses_by_name(names))
        for name, mode in self._watched.items():
            if name in names and name not in losses and _is_validation(name):
                return name, mode
        candidates = (name for name in names if _is_validation(name) and name not in losses)
        return next(((name, mode) for name in candidates if (mode := _mode(name))), None)


def _loader(name: str) -> int:
    match = _LOADER.search(name)
    return int(match.group(1)) if match else 0


def _is_validation(name: str) -> bool:
    return bool(_VALIDATION.search(_plain(name)))


def _losses_by_name(names: Iterable[str]) -> list[str]:
    return [name for name in names if _is_validation(name) and _LOSS.search(_plain(name))]


def _plain(name: str) -> str:
    return _LOADER.sub("", name).lower()


def _mode(name: str) -> str | None:
    name = _plain(name)
    return "max" if _HIGHER_IS_BETTER.search(name) else "min" if _LOWER_IS_BETTER.search(name) else None
