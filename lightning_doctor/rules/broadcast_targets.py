"""LD305: prediction and targets broadcast, so that every sample is compared with all."""

from __future__ import annotations

from lightning_doctor.findings import Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.loss_head import loss_head, sizes
from lightning_doctor.progress import standing
from lightning_doctor.rule import rule, unread


@rule(
    "LD305",
    needs={"train_loss/*": 1},
    non_finite=True,
    explains=(
        "loss_plateau",
        "stuck_at_baseline",
        "undertrained",
        "collapsed_output",
        "learning_rate_too_low",
        "learning_rate_too_high",
        "vanishing_gradients",
        "missing_warmup",
        "noise_floor",
        "stale_validation",
        "model_bias",
        "worse_than_reference",
        "uninformative_labels",
        "poor_minimum",
        "flat_region",
    ),
)
def broadcast_targets(history: History) -> Finding | None:
    """Prediction and targets broadcast, so that every sample is compared with all.

    What it looks at:
        The fact ``loss_head``: the shapes of the output and of the targets as the loss subtracts them; of several
        losses, or a sum of several terms, those of every one whose targets are known, and of what else of the batch
        outputs are multiplied by.

    Why it matters:
        Every prediction is pulled towards the targets of all samples: the best that is left is to predict their
        mean.

    Sick:
        Output [32, 1] less targets [32] gives [32, 32]

    Healthy:
        Output [32, 1] less targets [32, 1]; output [32, 8] less one target for each row, [32, 1]

    Remedy:
        Give the targets the shape of the output.

    Thresholds:
        None.

    Blind spots:
        Shapes with as many axes that broadcast are taken as meant: ``a[:, None] - b[None]`` compares all with all on
        purpose.
    """
    slip = next((shapes for shapes in _broadcast(history) if _is_slip(*shapes)), None)
    if slip is None:
        return None
    output, targets = list(slip[0]), list(slip[1] or _slipped(slip[0]))
    state = standing(history)
    return Finding(
        severity=state.unless_good(Severity.ERROR),
        summary=f"an output of shape {output} is compared with targets of shape {targets}: every sample with those of "
        "all",
        evidence={"output_shape": str(output), "target_shape": str(targets)},
        remedy=f"give targets and output one shape: `targets.reshape({_listed(output)})`"
        if len(output) > len(targets)
        else f"give targets and output one shape: `outputs.reshape({_listed(targets)})`",
        onset=0,
        signals=("train_loss",),
    )


def _broadcast(history: History) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Returns the shapes of outputs and targets that broadcast; targets are empty where unknown."""
    head, terms = loss_head(history), history.fact("broadcast_terms", [])
    if not history.fact("loss_head") and not terms:
        raise unread(history)
    own = [(head.shape, head.target_shape)] if head.broadcast else []
    others = [(sizes(term.get("output_shape")), sizes(term.get("target_shape"))) for term in terms]
    return own + [(output, targets) for output, targets in others if targets]


def _is_slip(output: tuple[int, ...], targets: tuple[int, ...]) -> bool:
    if targets:
        return len(output) != len(targets)
    # Of a difference that is written by hand the graph does not keep the targets: one number a sample can hardly
    # have been meant to be compared with more.
    return len(output) == 1 or (len(output) == 2 and output[1] == 1)


def _slipped(output: tuple[int, ...]) -> tuple[int, ...]:
    return output[:1] if len(output) == 2 else (*output, 1)


def _listed(shape: list[int]) -> str:
    return ", ".join(["-1", *map(str, shape[1:])])
