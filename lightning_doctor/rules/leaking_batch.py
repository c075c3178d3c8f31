"""LD608: the prediction for one sample depends on the other samples of its batch."""

from __future__ import annotations

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.progress import LITTLE, standing
from lightning_doctor.rule import rule
from lightning_doctor.validation import costs_held_out

_SEQUENTIAL = ("TransformerEncoderLayer", "TransformerDecoderLayer", "MultiheadAttention", "LSTM", "GRU", "RNN")


@rule(
    "LD608",
    reads=("leak",),
    needs={"train_loss/*": 1},
    explains=(
        "stuck_at_baseline",
        "loss_plateau",
        "undertrained",
        "learning_rate_too_low",
        "overfitting",
        "stale_validation",
        "distribution_mismatch",
        "model_bias",
        "uninformative_labels",
        "worse_than_reference",
        "collapsed_output",
        "train_eval_discrepancy",
    ),
    non_finite=True,
)
def leaking_batch(history: History, *, share: float = 0.1) -> Finding | None:
    """The prediction for one sample depends on the other samples of its batch.

    What it looks at:
        The share of the samples whose prediction changes when other samples of the batch are replaced, in eval mode,
        where batch normalisation does not mix them; what is learned by predictions, and by validation.

    Why it matters:
        Values of other samples are noise to this one: the network learns little, and says something else of the same
        sample in another batch.

    Sick:
        1.0: all of them, after ``x.view(batch, -1)`` of a tensor whose first dimension was not the batch

    Healthy:
        0.0

    Remedy:
        Keep samples in dimension 0, or tell recurrent and attention layers where they are.

    Thresholds:
        share: Share of the samples that must depend on others [share].

    Blind spots:
        A model that is meant to compare samples looks the same. What a loss compares is not looked at.
    """
    changed = history.fact("leak.changed", 0.0)
    if not changed >= share:
        return None
    now = standing(history)
    fails = now.validated is not None and now.validated < LITTLE
    return Finding(
        # It may be right in the batches it is trained in, and worth little in those of validation.
        severity=Severity.WARNING if costs_held_out(history) or fails else now.unless_good(Severity.WARNING),
        summary=f"the predictions of {changed:.0%} of the samples change when other samples of their batch do",
        evidence={"changed": changed},
        remedy=_remedy(history),
        onset=0,
        signals=("train_loss",),
    )


def _remedy(history: History) -> str:
    layers = history.fact("model.layers", {})
    layers = layers if isinstance(layers, dict) else {}
    found = [name for name in _SEQUENTIAL if name in layers]
    if "Linear" in layers and any("out_proj" in str(name) for name in history.fact("model.layer_names", [])):
        # Attention is no leaf: only its parts are listed.
        found = found or ["MultiheadAttention"]
    parts = [f"build {found[0]} with `batch_first=True` if its input is [N, T, D]"] if found else []
    if any(name.startswith(("Softmax", "LogSoftmax")) for name in layers):
        parts.append("give the softmax `dim=-1`")
    parts.append("look for a `view` or `reshape` that cuts across dimension 0 (`flatten(1)` and `permute` do not)")
    return "; ".join(parts)
