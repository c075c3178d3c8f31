"""A doctor on call for PyTorch Lightning training runs.

Importing this package imports neither torch nor lightning: the names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_doctor.callbacks.activations import ActivationMonitor
    from lightning_doctor.callbacks.batches import BatchMonitor
    from lightning_doctor.callbacks.comparison import ComparisonProbe
    from lightning_doctor.callbacks.curvature import CurvatureProbe
    from lightning_doctor.callbacks.doctor import Doctor
    from lightning_doctor.callbacks.generalization import GeneralizationMonitor
    from lightning_doctor.callbacks.gradients import GradientMonitor
    from lightning_doctor.callbacks.heads import HeadMonitor
    from lightning_doctor.callbacks.holdout import HoldoutProbe
    from lightning_doctor.callbacks.leaks import LeakProbe
    from lightning_doctor.callbacks.losses import LossMonitor
    from lightning_doctor.callbacks.optimizers import OptimizerMonitor
    from lightning_doctor.callbacks.reference import ReferenceProbe
    from lightning_doctor.callbacks.scans import StepScan
    from lightning_doctor.callbacks.updates import UpdateMonitor
    from lightning_doctor.crossval import cross_validate
    from lightning_doctor.findings import Confidence, Finding, Severity
    from lightning_doctor.history import History
    from lightning_doctor.lightning_cli import DoctorCLI
    from lightning_doctor.report import Report

__version__ = "0.1.0"

_HOMES = {
    "ActivationMonitor": "callbacks.activations",
    "BatchMonitor": "callbacks.batches",
    "ComparisonProbe": "callbacks.comparison",
    "Confidence": "findings",
    "CurvatureProbe": "callbacks.curvature",
    "Doctor": "callbacks.doctor",
    "DoctorCLI": "lightning_cli",
    "Finding": "findings",
    "GeneralizationMonitor": "callbacks.generalization",
    "GradientMonitor": "callbacks.gradients",
    "HeadMonitor": "callbacks.heads",
    "History": "history",
    "HoldoutProbe": "callbacks.holdout",
    "LeakProbe": "callbacks.leaks",
    "LossMonitor": "callbacks.losses",
    "OptimizerMonitor": "callbacks.optimizers",
    "ReferenceProbe": "callbacks.reference",
    "Report": "report",
    "Severity": "findings",
    "StepScan": "callbacks.scans",
    "UpdateMonitor": "callbacks.updates",
    "cross_validate": "crossval",
}

__all__ = [
    "ActivationMonitor",
    "BatchMonitor",
    "ComparisonProbe",
    "Confidence",
    "CurvatureProbe",
    "Doctor",
    "DoctorCLI",
    "Finding",
    "GeneralizationMonitor",
    "GradientMonitor",
    "HeadMonitor",
    "History",
    "HoldoutProbe",
    "LeakProbe",
    "LossMonitor",
    "OptimizerMonitor",
    "ReferenceProbe",
    "Report",
    "Severity",
    "StepScan",
    "UpdateMonitor",
    "__version__",
    "cross_validate",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
