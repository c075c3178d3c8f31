"""LD104: the loss falls, but far too slowly, and much larger steps would lower it more."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from statistics import fmean, median

from lightning_doctor.curvature import standing_probe
from lightning_doctor.findings import Confidence, Finding, Severity
from lightning_doctor.history import History, Series
from lightning_doctor.noise import Trend, fades, shift, stretch
from lightning_doctor.prescriptions import scheduler
from lightning_doctor.progress import LITTLE, Standing, is_like_now, standing
from lightning_doctor.rule import Undecided, is_recent, rule
from lightning_doctor.sharpness import largest_rate
from lightning_doctor.step_sizes import longer_lowers, scanned_steps, smallest_limit
from lightning_doctor.validation import validated_pace

_LARGER = (64.0, 16.0, 4.0)
# Share of the loss that all steps of a run must take off to do anything.
_NOTHING = 0.1
# Steps before which nothing is said of a run without a planned end.
_UNPLANNED = 400
# The fewest scans of the run as it is now that tell anything.
_SCANS = 4
# The share of a run that no warm-up takes, and how many times as high as in the half before the rate must be by then:
# half way between a warm-up that is done and one that is not, whose last value is 4/3 of that.
_LONG_WARMUP, _RISEN = 0.6, 1.15
# Parts of the names of schedulers that can raise a rate.
_RAISING = ("Lambda", "Linear", "Sequential", "Chained", "OneCycle", "Cyclic", "Warm")


@rule(
    "LD104",
    needs={"scan/1": 4, "train_loss": 32, "learning_rate": 1},
    explains=("undertrained", "loss_plateau", "stuck_at_baseline", "vanishing_gradients", "stale_validation"),
)
def learning_rate_too_low(
    history: History, *, factor: float = 16.0, share: float = 0.8, sigmas: float = 4.0, patience: float = 0.25
) -> Finding | None:
    """The loss falls, but far too slowly, and much larger steps would lower it more.

    What it looks at:
        ``train_loss``: its pace, and that of ``val_loss`` where it is quicker; ``scan/16``, ``scan/64``: what larger
        steps would have done to other samples;
        ``scan_limit``: how large a step was ever too large; ``curvature/…``: how large one the curvature bears;
        ``skill``: how much is left to learn.

    Why it matters:
        At this pace the run ends with most of what there was to learn unlearned.

    Sick:
        40.1, 40.0, 39.9, 39.8, 39.7 at the end of a run, and 16 times the step would lower the loss 16 times as much;
        or a warm-up of 10,000 steps in a run of 600

    Healthy:
        a loss that is nearly where it can be, a warm-up that ends well before the run does, a decay

    Remedy:
        Raise the learning rate to about half the largest step that still lowered the loss, then watch it.

    Thresholds:
        factor: How many times larger a step must be that still lowers the loss [ratio].
        share: Share of the scans in which it does, unless their mean is beyond their noise [share].
        sigmas: How sure a fall must be to tell the pace; under it the scans do [standard errors].
        patience: Share of the planned run before which nothing is said, or 400 steps where none is planned [share].

    Blind spots:
        Along one step a loss may fall far though other directions are steep; therefore no limit ever seen in this
        run may lie near. Without a skill or a baseline the start of the run is what there was to learn, and only a
        fall that does not fade is taken for slow.
    """
    losses, rates = history["train_loss"], history["learning_rate"].values
    now = standing(history)
    if now.good or (now.share is not None and now.share < patience) or min(losses.values) < 0:
        return None
    if now.share is None and not now.ended and losses.steps[-1] < _UNPLANNED:
        return None
    if _goes_nowhere(history):
        return None
    warming = _still_warming(history, now)
    if warming is not None:
        return warming
    left = _steps_left(history, losses.steps[-1])
    idle = _do_nothing(history, losses.steps[-1] + left)
    # Steps that would have done nothing at the highest rate of a schedule either were too short before it ended.
    rate = max(rates) if idle and _do_nothing_at_best(history, losses.steps[-1] + left) else rates[-1]
    if rate < 0.5 * max(rates) or max(rates) <= 0 or (rates[-1] > 1.5 * median(rates) and not now.ended):
        return None
    # Where nothing tells how low the loss can come, a fall that fades has come down to what there is.
    if now.most is None and not idle and fades(losses):
        return None
    late = stretch(losses, 0.5) or losses.values[-2:]
    half = len(late) // 2
    fall, level = shift(late[:half], late[half:]), median(late[half:])
    # Medians a quarter of the run apart; what noise hides, the scans tell.
    seen = fall.sigmas < -sigmas
    fell = -fall.change / max(1.0, (losses.steps[-1] - losses.steps[0]) / 4) if seen else 0.0
    target = 0.5 * (history["baseline_loss"].values[-1] if "baseline_loss" in history else losses.values[0])
    # What has begun to fall shows in the mean of many rows first.
    if level - max(fell, level * validated_pace(history)) * left < target:
        return None
    scans = scanned_steps(history)
    alike = [scan for scan in scans if is_like_now(history, scan.step)]
    if len(alike) < _SCANS:
        raise Undecided(f"{len(alike)} of {len(scans)} scans are of a loss like that of now: too few to tell")
    # A loss that has not moved is the same all along.
    has_moved = shift(losses.values[: max(8, len(losses) // 16)], stretch(losses, 0.5)).sigmas < -sigmas / 2
    since = scans[0].step
    if now.improving or has_moved:
        since = max(alike[0].step, min(scans[-1].step // 2, alike[-_SCANS].step))
    lower = partial(_is_linear, history) if idle else partial(longer_lowers, history, since, share)
    larger = next((t for t in _LARGER if t >= factor and lower(t)), None)
    # Along one step the loss may fall far while the same rate would be unstable in a steeper direction.
    limit = min((found for found in (smallest_limit(scans), largest_rate(history)) if found is not None), default=None)
    if larger is None or (limit is not None and limit < 0.5 * factor * rate):
        return None
    change = _mean_change(history, 1.0, since)
    pace = fell if seen else -change * level
    if level - pace * left < target:
        return None
    # Steps that small do nothing; where larger ones were made and the loss did not fall, it is not their length.
    # Of a loss that has come far nobody says that it is slow who does not see it fall.
    unseen = (
        now.rests
        and 2 * level > losses.values[0]
        and _falls_unseen(losses, fall, level * _mean_change(history, 1.0, (scans[-1].step + 1) // 2), sigmas)
    )
    if not (seen or idle or unseen):
        return None
    recommended = min(larger * rate / 2, limit / 2 if limit is not None else larger * rate)
    gain = _mean_change(history, larger, since) / min(change, -1e-30)
    return Finding(
        severity=Severity.WARNING if now.most is None or now.poor else Severity.NOTE,
        summary=f"at lr {rate:.3g} the training loss went from {losses.values[0]:.4g} to {level:.4g} only, and "
        f"{larger:.3g} times the step would lower it {gain:.3g} times as much",
        evidence={
            "rate": rate,
            "start": losses.values[0],
            "now": level,
            "fall_per_step": pace,
            "steps_left": left,
            "larger": larger,
            "times_as_much": gain,
            "recommended": recommended,
        },
        remedy=f"raise lr from {rate:.3g} to about {recommended:.2g}, and lower it again where the loss bounces",
        confidence=Confidence.CONFIRMED if now.ended and seen else Confidence.SUSPECTED,
        onset=losses.steps[0],
        signals=("train_loss", f"scan/{larger:g}", "learning_rate"),
    )


def _still_warming(history: History, now: Standing) -> Finding | None:
    """A rate that has risen all the way to the middle of the run or its end, where next to nothing was learned."""
    rates, losses = history["learning_rate"].finite(), history["train_loss"].finite()
    late = stretch(losses, 0.8)
    far = now.ended or (now.share is not None and now.share >= _LONG_WARMUP)
    if not (far and late and now.harmed and len(rates) > 3 and is_recent(history, rates.steps[-1])):
        return None
    if now.most is not None and now.most >= LITTLE:
        return None
    halves = stretch(rates, 0.0, 0.5), stretch(rates, 0.5)
    rises = all(halves) and rates.values[-1] > _RISEN * median(halves[1]) > _RISEN**2 * median(halves[0])
    if not rises or not all(before <= after for before, after in pairwise(rates.values)):
        return None
    # While it was small, larger steps would have done as much more.
    made, longer = (history.get(f"scan/{factor}").finite().values for factor in (1, 16))
    early = (len(made) + 1) // 2
    lowered = len(longer) >= early > 0 and median(longer[:early]) < 8 * median(made[:early]) < 0
    # Where nothing tells how much there is to learn, a loss that came down has learned some of it.
    stays = median(late) > (1 - _NOTHING) * losses.values[0] or now.most is not None
    if not lowered or not stays or median(late) > 1.05 * losses.values[0]:
        return None
    return Finding(
        severity=Severity.WARNING,
        summary=f"the learning rate was still rising at step {rates.steps[-1]}, from {rates.values[0]:.2g} to "
        f"{rates.values[-1]:.2g}, and the training loss went from {losses.values[0]:.4g} to {median(late):.4g} only",
        evidence={
            "rate": rates.values[-1],
            "first_rate": rates.values[0],
            "start": losses.values[0],
            "now": median(late),
        },
        remedy=_shorten(history),
        confidence=Confidence.SUSPECTED,
        onset=losses.steps[0],
        signals=("train_loss", "scan/16", "learning_rate"),
    )


def _shorten(history: History) -> str:
    schedule = scheduler(history)
    name = str(schedule.get("class"))
    # Others never raise a rate: then the warm-up is made elsewhere.
    if any(kind in name for kind in _RAISING) and schedule.get("interval") == "epoch":
        return f"step {name} once per batch (`interval: step`): it is stepped once per epoch"
    return "shorten the warm-up to a twentieth of the run or so: its length is counted in optimizer steps"


def _falls_unseen(losses: Series, late: Trend, per_step: float, sigmas: float) -> bool:
    """Whether the loss fell over the run, and late as the scans say: noise alone hides that it still does."""
    values, half = losses.values, len(losses) // 2
    expected = per_step * (losses.steps[-1] - losses.steps[0]) / 4
    return shift(values[:half], values[half:]).sigmas < -sigmas and abs(late.change - expected) < 2 * late.error


def _goes_nowhere(history: History) -> bool:
    """Whether a probe found that no step of any length lowers the loss, whatever single batches say."""
    probe = standing_probe(history)
    return probe is not None and probe.kind in ("minimum", "flat")


def _do_nothing(history: History, steps: int) -> bool:
    """Whether all steps of the run, each as good as the scanned one before it, would take next to nothing off."""
    scans = history["scan/1"]
    spans = [after - before for before, after in pairwise([*scans.steps, max(steps, scans.steps[-1] + 1)])]
    return any(scans.values) and sum(abs(v) * n for v, n in zip(scans.values, spans, strict=True)) < _NOTHING


def _do_nothing_at_best(history: History, steps: int) -> bool:
    """Whether they would have even if every step had been like those that were scanned at the highest rate."""
    scans, rates = history["scan/1"], history["learning_rate"]
    highest = max(rates.values)
    best = [
        abs(value)
        for step, value in zip(scans.steps, scans.values, strict=True)
        if (rates.until(step) or rates.values[:1])[-1] > 0.5 * highest
    ]
    return bool(best) and fmean(best) * steps < _NOTHING


def _is_linear(history: History, factor: float) -> bool:
    """Whether so much longer steps would do as much more: nothing but their length is in the way."""
    made, longer = history["scan/1"].values, history.get(f"scan/{factor:g}").values
    if not longer or fmean(longer) >= 0:
        return False
    return fmean(map(abs, longer)) > 0.5 * factor * fmean(map(abs, made))


def _mean_change(history: History, factor: float, since: int) -> float:
    return fmean(history.get(f"scan/{factor:g}").since(since) or [0.0])


def _steps_left(history: History, last: int) -> int:
    planned = history.fact("trainer.planned_steps")
    if history.fact("run.ended") is not None:
        return 0
    # Where no end is planned the run may well be twice as long.
    return max(0, planned - last - 1) if isinstance(planned, int) else last
