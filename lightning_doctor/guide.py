"""The decision tree of a network that fails to train or to generalize, walked with what the rules found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lightning_doctor.curvature import Escape, Probe, newest_probe
from lightning_doctor.error_bars import told, validation_bar
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History
from lightning_doctor.jsonable import MalformedError
from lightning_doctor.noise import levels
from lightning_doctor.progress import GOOD
from lightning_doctor.reference import Reference, reaches_target, read_reference, target
from lightning_doctor.scores import gap, kept_apart, scores, sureness, unlike

Reply = Literal["yes", "no", "unknown", "saddle", "minimum", "flat"]


@dataclass(frozen=True)
class Answer:
    """One question of the tree.

    Attributes:
        question: As it is put to the reader.
        reply: Yes, no or unknown; of a critical point saddle, minimum or flat.
        because: The numbers or codes the reply rests on, or why it is unknown, as a clause.
    """

    question: str
    reply: Reply
    because: str


@dataclass(frozen=True)
class Guide:
    """The path taken through the tree.

    Attributes:
        answers: The questions asked, in order.
        conclusion: Where the path ends: ``optimization``, ``overfitting``, ``healthy``, ``unknown`` …
    """

    answers: list[Answer] = field(default_factory=list)
    conclusion: str = "unknown"

    def to_dict(self) -> dict[str, Any]:
        """Returns plain builtins that :meth:`from_dict` reads back."""
        return {
            "conclusion": self.conclusion,
            "answers": [{"question": a.question, "reply": a.reply, "because": a.because} for a in self.answers],
        }

    @classmethod
    def from_dict(cls, data: Any) -> Guide:
        """Reads what :meth:`to_dict` wrote.

        Raises:
            MalformedError: Where it is not a walk through the tree.
        """
        if not isinstance(data, Mapping):
            raise MalformedError(f"the guide must be an object, got {type(data).__name__}")
        try:
            answers = [Answer(str(a["question"]), a["reply"], str(a["because"])) for a in data.get("answers", [])]
        except (KeyError, TypeError) as error:
            raise MalformedError(f"an answer of the guide cannot be read: {error}") from error
        for answer in answers:
            if answer.reply not in get_args(Reply):
                raise MalformedError(
                    f"a reply of the guide must be yes, no, unknown or what a critical point is, got {answer.reply!r}"
                )
        return cls(answers, str(data.get("conclusion", "unknown")))


_POINTS: tuple[Reply, ...] = ("saddle", "minimum", "flat")
# How far a loss must have fallen, as a share of what the untrained network scored, to count as low without any
# other reference. Between this and a finding the answer is unknown.
_LOW = 0.1


# A network that is another one in eval mode is not compared by that mode.
_ELSEWHERE = ("LD509",)


def walk(history: History, findings: Sequence[Finding]) -> Guide:
    """Walks the tree with what is known; "unknown" wherever that is the truth."""
    ill = [finding for finding in findings if finding.severity is not Severity.NOTE]
    optimization = [f for f in ill if f.code[:3] in ("LD1", "LD2", "LD3", "LD4") and f.explained_by is None]
    # Why the training fell short does not change that a simpler model did better.
    beaten = [f for f in ill if f.name == "worse_than_reference" and f.explained_by not in _ELSEWHERE]
    below = [*beaten, *(f for f in ill if f.name == "model_bias" and f.explained_by is None)]
    nothing = [f for f in ill if f.name == "uninformative_labels" and f.explained_by is None]
    generalization = [f for f in ill if f.name in ("overfitting", "distribution_mismatch") and _stands(f, ill)]
    training = _training_loss(history, [*optimization, *below])
    answers = [training]
    if nothing:
        answers.append(Answer("Do the inputs say anything about the targets?", "no", _named(nothing)))
        return Guide(answers, "nothing_to_learn")
    if training.reply == "no" or (optimization and not generalization):
        bias = [f for f in below if f.name == "model_bias"]
        if bias and not any(f.confidence is Confidence.CONFIRMED for f in optimization):
            # Whatever was suspected of its training, another model shows what this one lacks.
            return Guide([*answers, Answer("Could this model do better?", "no", _named(bias))], "model_bias")
        answers.append(_better_possible(optimization, below))
        known, probe = answers[-1].reply == "yes", newest_probe(history)
        if known or probe is not None:
            answers.extend(_critical_point(history, probe))
        return Guide(answers, "optimization" if known else "unknown")
    validation = _validation_loss(history, generalization)
    answers.append(validation)
    if validation.reply == "no":
        answers.append(_held_out_does_well(history))
        return Guide(answers, generalization[0].name if generalization else "unknown")
    well = training.reply == "yes" and validation.reply == "yes" and not ill
    return Guide(answers, "healthy" if well else "unknown")


def _training_loss(history: History, causes: Sequence[Finding]) -> Answer:
    question = "Is the training loss low enough?"
    losses = history.get("train_loss")
    lost = [finding for finding in causes if finding.severity is Severity.ERROR]
    if lost:
        return Answer(question, "no", _named(lost))
    if "train_loss" in history.absent:
        return Answer(question, "unknown", history.absent["train_loss"])
    if len(losses) < 10 or len(losses.finite()) < len(losses):
        return Answer(question, "unknown", f"{len(losses.finite())} finite training losses are too few to tell")
    below = [finding for finding in causes if finding.name in ("worse_than_reference", "model_bias")]
    if below:
        return Answer(question, "no", _named(below))
    start, *_, now = levels(losses.values, 20)
    numbers = f"{now:.4g} now, {start:.4g} at the start"
    if min(losses.values) >= 0 and now <= _LOW * start:
        return Answer(question, "yes", numbers)
    given, compared = target(history), read_reference(history)
    if given is not None:
        numbers += f"; {given[1]} has {given[0]:.4g}"
        if reaches_target(history):
            return Answer(question, "yes", numbers)
    unread = history.fact("reference.model_unread")
    if unread:
        numbers += f"; the model given could not be compared ({unread})"
    if compared is None and given is not None:
        return Answer(question, "unknown", numbers)
    if compared is None:
        return Answer(
            question, "unknown", f"{numbers}, and there is no reference (a simpler model, a target) to compare"
        )
    numbers += f"; on the same rows {_rivals(compared)}"
    # That no simple model does better does not make a loss low: the targets may hold more.
    train = scores(history, "train")
    good = train is not None and max(train.skills[-1:], default=0.0) >= GOOD
    return Answer(question, "yes" if good else "unknown", numbers)


def _rivals(compared: Reference) -> str:
    named = [f"{rival.title} {rival.loss:.3g}" for rival in compared.rivals.values()]
    return ", ".join([f"the network scores {compared.network:.3g}", *named, f"a constant {compared.constant:.3g}"])


def _better_possible(causes: Sequence[Finding], below: Sequence[Finding]) -> Answer:
    question = "Could this model do better?"
    confirmed = [finding for finding in causes if finding.confidence is Confidence.CONFIRMED]
    if confirmed:
        return Answer(question, "yes", f"an optimization cause is confirmed: {_named(confirmed)}")
    beaten = [finding for finding in below if finding.name == "worse_than_reference"]
    if beaten:
        return Answer(question, "yes", f"a simpler model does: {_named(beaten)}")
    return Answer(question, "unknown", "no optimization cause is confirmed and no simpler model does better")


def _critical_point(history: History, probe: Probe | None) -> list[Answer]:
    """Asks whether there is still a slope and, where there is none, what is there instead."""
    question = "Is the gradient near zero?"
    if probe is None:
        return [Answer(question, "unknown", history.absent.get("curvature", "no curvature probe ran"))]
    slope = probe.gradient
    near = slope.near_zero
    if near is None and probe.kind not in ("", "inconclusive"):
        near = probe.kind != "slope"
    numbers = _listed(
        f"at step {probe.step}",
        f"norm {slope.norm:.3g}",
        f"at best it promises a fall of {slope.predicted_fall:.2g}",
        f"to which curvature adds {slope.curvature_fall:.2g}",
        f"standard error {slope.standard_error:.2g}",
    )
    if not near or probe.kind == "slope":
        return [Answer(question, "unknown" if near is None else "no", numbers)]
    point = next((kind for kind in _POINTS if kind == probe.kind), None)
    because = probe.because or _listed(
        f"curvature from {probe.low.value:.3g} to {probe.high.value:.3g}",
        *([] if probe.escape is None else [_way_down(probe.escape)]),
    )
    because = f"{because}, by {probe.samples} samples" if probe.samples else because
    return [Answer(question, "yes", numbers), Answer("What is this critical point?", point or "unknown", because)]


def _way_down(escape: Escape) -> str:
    return f"down by {escape.fall:.2g} ({escape.share:.0%}) at distance {escape.distance:.2g}"


def _listed(*clauses: str) -> str:
    """Puts clauses together, less those with a number that is not known."""
    return ", ".join(clause for clause in clauses if "nan" not in clause)


def _validation_loss(history: History, causes: Sequence[Finding]) -> Answer:
    question = "Is the validation loss low too?"
    if causes:
        return Answer(question, "no", _named(causes))
    validation, training = history.get("val_loss").finite().values, history.get("train_loss").finite().values
    if "val_loss" in history.absent or not validation:
        return Answer(question, "unknown", history.absent.get("val_loss", "there was no validation loss"))
    if len(training) < 10:
        return Answer(question, "unknown", "there is no training loss to compare it with")
    start = levels(training, 20)[0]
    samples = history.fact("data.val_samples")
    known = validation_bar(history, samples) if isinstance(samples, int) and samples > 0 else None
    bar = math.nan if known is None else known
    numbers = f"{told(validation[-1], bar)} now{sureness(bar)}, the training loss began at {start:.4g}"
    if min(validation) >= 0 and validation[-1] <= _LOW * start:
        return Answer(question, "yes", numbers)
    rows = scores(history, "validation")
    if rows is not None and rows.skills and rows.skills[-1] >= GOOD:
        return Answer(question, "yes", f"{numbers}; {rows.skills[-1]:.0%} of a constant's errors are avoided")
    return Answer(question, "unknown", f"{numbers}, and there is no reference to compare")


def _stands(finding: Finding, others: Sequence[Finding]) -> bool:
    """Whether a finding is no mere symptom of another one of these."""
    return finding.explained_by not in {other.code for other in others}


def _held_out_does_well(history: History) -> Answer:
    question = "Does held-out data of the training distribution do well?"
    train, kept, validation = (scores(history, sample) for sample in ("train", "holdout", "validation"))
    if train is None or kept is None or kept_apart(history) is None:
        reason = "no such data was held out" if kept is None else "too few rows were held out to tell"
        told = [f"a two-sample test tells the {part.part} apart (p ≤ {part.p_value:.2g})" for part in unlike(history)]
        return Answer(question, "unknown", "; ".join([reason, *told]))
    distance, error = gap(train, kept)
    numbers = f"training rows {train}, held-out ones {kept}"
    if validation is None:
        return Answer(question, "unknown", numbers)
    numbers += f", validation {validation}{sureness(train.bar, kept.bar, validation.bar)}"
    further, _ = gap(kept, validation)
    if not distance > 2 * error or further > distance:
        return Answer(question, "yes", numbers)
    return Answer(question, "no", numbers)


def _named(findings: Sequence[Finding]) -> str:
    return ", ".join(f"{finding.code} {finding.name}" for finding in findings)
