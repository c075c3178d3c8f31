"""The levels that a finding's signals are judged against, to be drawn across their charts."""

from __future__ import annotations

import math

from lightning_doctor.findings import Finding

# By illness: the signal, and the evidence that is a level of it, in its unit. ``0`` stands for the finding's first
# signal, whose name depends on the run.
_LEVELS: dict[str, tuple[tuple[str | int, str], ...]] = {
    "always_clipped": (("clip_factor", "factor"), ("grad_norm", "limit")),
    "diverging_loss": (("train_loss", "start"), ("train_loss", "best")),
    "double_sigmoid": (("train_loss", "floor_positive"), ("train_loss", "floor_negative")),
    "double_softmax": (("train_loss", "floor"),),
    "dead_units": ((0, "dead_at_first"),),
    "distribution_mismatch": (("val_loss", "train"), ("val_loss", "holdout")),
    "edge_of_stability": ((0, "limit"),),
    "exploding_gradients": (("grad_norm", "calmest"), ("train_loss", "best_loss"), ("train_loss", "start_loss")),
    "ill_conditioned": (("learning_rate", "largest_rate"),),
    "late_instability": (("train_loss", "best"),),
    "leaked_validation": (("val_loss", "train"),),
    "learning_rate_too_high": (
        ("learning_rate", "limit"),
        ("learning_rate", "recommended"),
        ("train_loss", "start"),
        ("train_loss", "best"),
    ),
    "learning_rate_too_low": (("learning_rate", "recommended"),),
    "loss_plateau": (("train_loss", "now"),),
    "loss_spike": (("train_loss", "usual"),),
    "missing_warmup": (("learning_rate", "limit"), ("train_loss", "start"), ("output_spread", "first_spread")),
    "model_bias": (("train_loss", "shallow"), ("train_loss", "linear")),
    "noise_floor": (("train_loss", "now"),),
    "noisy_batches": (("curvature/noise_scale", "batch"),),
    "non_finite_loss": ((0, "best"),),
    "overfitting": (("val_loss", "best"),),
    "oversized_batches": (("curvature/noise_scale", "batch"), ("batch_size", "recommended")),
    "stale_validation": (("val_loss", "best"),),
    "stuck_at_baseline": (("train_loss", "baseline"),),
    "undertrained": (("train_loss", "start"), ("train_loss", "end")),
    "uninformative_labels": (("val_loss", "baseline"), ("train_loss", "baseline")),
    "vanished_learning_rate": ((0, "peak"), ("train_loss", "loss_since")),
    "worse_than_reference": (("train_loss", "reference"),),
}


def levels(finding: Finding) -> dict[str, list[tuple[str, float]]]:
    """Returns, by signal, the names and values of the levels it is judged against [unit of the signal]."""
    found: dict[str, list[tuple[str, float]]] = {}
    for signal, key in _LEVELS.get(finding.name, ()):
        value = finding.evidence.get(key)
        if isinstance(signal, int):
            signal = finding.signals[signal] if len(finding.signals) > signal else ""
        if isinstance(value, (int, float)) and math.isfinite(value) and signal in finding.signals:
            found.setdefault(signal, []).append((key, float(value)))
    return found
