"""The Doctor: every monitor, every rule, one budget, one report, and to the Trainer one callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from lightning_doctor.callbacks.activations import ActivationMonitor
from lightning_doctor.callbacks.batches import BatchMonitor
from lightning_doctor.callbacks.comparison import ComparisonProbe
from lightning_doctor.callbacks.curvature import CurvatureProbe
from lightning_doctor.callbacks.generalization import GeneralizationMonitor
from lightning_doctor.callbacks.gradients import GradientMonitor
from lightning_doctor.callbacks.heads import HeadMonitor
from lightning_doctor.callbacks.holdout import HoldoutProbe, check_share
from lightning_doctor.callbacks.leaks import LeakProbe
from lightning_doctor.callbacks.losses import LossMonitor
from lightning_doctor.callbacks.monitor import Monitor
from lightning_doctor.callbacks.optimizers import OptimizerMonitor
from lightning_doctor.callbacks.reference import ReferenceProbe
from lightning_doctor.callbacks.scans import StepScan
from lightning_doctor.callbacks.settings import Settings
from lightning_doctor.callbacks.updates import UpdateMonitor
from lightning_doctor.findings import Finding

MONITORS: tuple[type[Monitor], ...] = (
    LossMonitor,
    OptimizerMonitor,
    GradientMonitor,
    ActivationMonitor,
    HeadMonitor,
    BatchMonitor,
    UpdateMonitor,
    StepScan,
    LeakProbe,
    CurvatureProbe,
    ComparisonProbe,
    ReferenceProbe,
    GeneralizationMonitor,
)


class Doctor(Monitor):
    """Watches a training run and says what is wrong, why, on what evidence, and what to do.

    Add it to a Trainer; after ``fit`` its ``report`` is a :class:`~lightning_doctor.Report`::

        Trainer(callbacks=[Doctor()])

    Args:
        overhead: The share of the run's time that the doctor may take, in (0, 1]; two seconds at most come on top
            for a run's first look.
        every_n_steps: The length of a window [optimizer steps]: numbers stay on the device until it is full. The
            first windows of a run are shorter.
        select: Codes (``LD501``), beginnings of codes (``LD5``) or names (``overfitting``) of the rules to ask;
            all of them by default.
        ignore: The same for rules not to ask.
        thresholds: Thresholds by rule: ``{"stale_validation": {"patience": 8}}``.
        metric: Name of the logged validation metric; found by itself where there is a usual one.
        stop_on: Stop the run at a finding of this severity or a higher one.
        on_finding: Called with each new :class:`~lightning_doctor.Finding`, and again when it becomes more severe,
            on rank zero.
        holdout: The share of the training rows to keep out of training, so that overfitting can be told from a
            mismatch for sure, in [0, 1); this is the one option that changes what is trained on.
        reference: What the training loss is compared with beside simple models: a loss, the log directory of another
            run, or a model that is trained already.
        strict: Raise what goes wrong inside the doctor instead of noting it and letting the run go on.

    Raises:
        ValueError: For an option that cannot be, an unknown rule or threshold; the message names the nearest.
    """

    def __init__(
        self,
        *,
        overhead: float = 0.02,
        every_n_steps: int = 50,
        select: list[str] | None = None,
        ignore: list[str] | None = None,
        thresholds: dict[str, dict[str, float]] | None = None,
        metric: str | None = None,
        stop_on: Literal["note", "warning", "error"] | None = None,
        on_finding: Callable[[Finding], Any] | None = None,
        holdout: float = 0.0,
        reference: Any = None,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.settings = Settings(
            overhead=overhead,
            every_n_steps=every_n_steps,
            select=select,
            ignore=ignore or (),
            thresholds=thresholds or {},
            stop_on=stop_on,
            on_finding=on_finding,
            strict=strict,
        )
        if holdout != 0:
            check_share(holdout)
        self.metric = metric
        self.holdout = holdout
        # Refused here, where the user's call is on the stack.
        ReferenceProbe(reference)
        self.reference = reference
        self.from_environment = False

    def parts(self) -> list[Monitor]:
        """Returns new monitors for a case: one of each kind."""
        made: dict[type[Monitor], Callable[[], Monitor]] = {
            GeneralizationMonitor: lambda: GeneralizationMonitor(metric=self.metric),
            ReferenceProbe: lambda: ReferenceProbe(self.reference),
        }
        monitors = [made.get(kind, kind)() for kind in MONITORS]
        # Before the probe that scores what it holds out.
        return [*([HoldoutProbe(self.holdout)] if self.holdout else []), *monitors]
