"""The levels that a finding's signals are judged against, to be drawn across their charts."""

from __future__ import annotations

import math

from lightning_doctor.findings import Finding

# By illness: the signal, and the evidence that is a level of it, in its unit. A number stands for the finding's first
# signal, its second …, whose name depends on the run. What another way to the same finding has is passed over.
_LEVELS: dict[str, tuple[tuple[str | int, str], ...]] = {
    "always_clipped": (("clip_factor", "factor"), ("grad_norm", "limit")),
    "bad_initialization": (
        (0, "limit"),
        ("train_loss", "baseline_loss"),
        (2, "input_size"),
        (1, "first"),
    ),
    "collapsed_output": ((0, "first_spread"), (0, "limit"), ("output_level", "first_level")),
    "data_starved": (("data_wait", "limit"), ("data_wait_seconds", "seconds_allowed")),
    "dead_units": ((0, "limit"), (0, "dead_at_first"), (0, "spread")),
    "distribution_mismatch": (("val_loss", "train"), ("val_loss", "holdout")),
    "diverging_loss": (("train_loss", "start"), ("train_loss", "best")),
    "double_sigmoid": (("train_loss", "floor_positive"), ("train_loss", "floor_negative")),
    "double_softmax": (("train_loss", "floor"),),
    "edge_of_stability": ((0, "limit"),),
    "exploding_gradients": (
        ("grad_norm", "calmest"),
        ("grad_norm", "first"),
        ("train_loss", "best_loss"),
        ("train_loss", "start_loss"),
    ),
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
    "negative_loss": (("train_loss", "floor"),),
    "noise_floor": (("train_loss", "now"),),
    "noisy_batches": (("curvature/noise_scale", "batch"),),
    "non_finite_loss": ((0, "best"),),
    "outlier_targets": (
        ("worst_share", "share_allowed"),
        ("worst_ratio", "ratio_allowed"),
        ("typical_error", "error_allowed"),
    ),
    "over_regularized": (("weight_norm", "largest_weight_norm"), ("weight_norm", "limit")),
    "overfitting": (("val_loss", "best"),),
    "oversized_batches": (("curvature/noise_scale", "batch"), ("batch_size", "recommended")),
    "poor_minimum": (("curvature/low", "limit"),),
    "repeated_batches": (("duplicate_share", "limit"),),
    "saddle_point": (("train_loss", "loss_below"),),
    "saturated_units": ((0, "limit"),),
    "squared_error_on_classes": (("train_loss", "limit"), ("skill", "skill_needed")),
    "stale_validation": (("val_loss", "best"),),
    "stuck_at_baseline": (("train_loss", "baseline"),),
    "summed_loss": (("learning_rate", "scan_limit"),),
    "train_eval_discrepancy": (("mode_gap", "limit"), ("train_loss", "eval_mode")),
    "uncertain_validation": ((0, "beyond_luck"),),
    "underflowing_gradients": ((0, "limit"),),
    "undertrained": (("train_loss", "start"), ("train_loss", "end")),
    "uneven_step_sizes": ((0, "slowest_ratio"), (1, "fastest_ratio")),
    "uninformative_labels": (("val_loss", "baseline"), ("train_loss", "baseline")),
    "unshuffled_data": (("label_drift", "limit"),),
    "vanished_learning_rate": ((0, "peak"), ("train_loss", "loss_since")),
    "vanishing_gradients": ((0, "last_norm"), (0, "limit")),
    "worse_than_reference": (("train_loss", "reference"),),
}

_BUILT = "it rests on how the model and its loss are built"
# Of all others: why there is no level.
_WITHOUT = {
    "accumulating_gradients": "each examined step is a yes or a no, and how many say yes is what counts",
    "broadcast_targets": _BUILT,
    "constant_labels": "it rests on the labels that were seen",
    "flat_region": "it rests on what the loss does at a distance from the weights, not in the course of steps",
    "frozen_parameters": "it rests on which parameters are trained",
    "imbalanced_classes": "it rests on how much of each class is found, not on their mean",
    "leaking_batch": "it rests on a batch that was changed once to see what follows",
    "linear_stack": _BUILT,
    "non_finite_batch": "any such value counts",
    "non_finite_gradients": "any such gradient counts",
    "output_out_of_reach": "it rests on the range of the targets, whose unit is none of the loss",
    "unscaled_inputs": "it rests on the inputs, whose unit is none of the loss",
    "unscaled_targets": "it rests on the targets, whose unit is none of the loss",
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


def no_level(finding: Finding) -> str:
    """Returns why a finding's charts have no level, as a clause; empty where they may have one."""
    return _WITHOUT.get(finding.name, "")
