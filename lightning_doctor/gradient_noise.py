"""The gradient noise scale: the batch size at which noise and signal of the gradient are equal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

# By how many standard errors |G|² must be over zero: the ratio of a number to what may be nothing says nothing.
_SURE = 2.0


@dataclass(frozen=True)
class NoiseScale:
    """The simple noise scale of McCandlish et al. 2018 (arXiv 1812.06162), appendix A.1.

    Attributes:
        samples: tr(Σ)/|G|², with Σ the covariance of the gradient of one sample [samples]; None where undefined.
        error: Its standard error over the pairs [samples]; None where undefined.
        reason: Why it is undefined, as a clause; empty where it is defined.
        signal: |G|², the squared norm of the true gradient; may come out negative.
        signal_error: Its standard error; None with fewer than two pairs.
        noise: tr(Σ).
        pairs: How many pairs of norms went into it.
    """

    samples: float | None
    error: float | None
    reason: str
    signal: float
    signal_error: float | None
    noise: float
    pairs: int


def noise_scale(small: Sequence[float], big: Sequence[float], small_size: float, big_size: float) -> NoiseScale:
    """Computes the noise scale from squared gradient norms at two batch sizes.

    |G|² = (B|g_B|² − b|g_b|²)/(B − b) and tr(Σ) = (|g_b|² − |g_B|²)/(1/b − 1/B) are unbiased, pair by pair; their ratio
    is taken after averaging. Its error is the jackknife's: how it changes when one pair is left out.

    Args:
        small: |g_b|², one a pair: a squared gradient norm of ``small_size`` samples, or a mean over several.
        big: |g_B|², one a pair.
        small_size: b [samples].
        big_size: B [samples], larger.

    Raises:
        ValueError: Where the lengths differ, nothing is given or the sizes are not in order.
    """
    if len(small) != len(big) or not small:
        raise ValueError(f"small and big must pair up, got {len(small)} and {len(big)} norms")
    if not 0 < small_size < big_size:
        raise ValueError(f"sizes must be 0 < small_size < big_size, got {small_size} and {big_size}")
    pairs = list(zip(small, big, strict=True))
    signals = [(big_size * b - small_size * s) / (big_size - small_size) for s, b in pairs]
    noises = [(s - b) / (1 / small_size - 1 / big_size) for s, b in pairs]
    signal, noise, count = fmean(signals), fmean(noises), len(pairs)
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return NoiseScale(None, None, "a gradient is not finite", signal, None, noise, count)
    if count < 2:
        return NoiseScale(None, None, "a single pair does not tell how sure it is", signal, None, noise, count)
    error = _jackknife([(signal * count - left) / (count - 1) for left in signals], signal)
    if not signal > _SURE * error:
        reason = f"the squared gradient, {signal:.3g} ± {error:.2g}, is not over zero beyond its noise"
        return NoiseScale(None, None, reason, signal, error, noise, count)
    if noise < 0:
        return NoiseScale(None, None, "the noise came out negative: there is next to none", signal, error, noise, count)
    ratio = noise / signal
    without = [
        (noise * count - n) / (signal * count - s) if signal * count != s else math.inf
        for s, n in zip(signals, noises, strict=True)
    ]
    return NoiseScale(ratio, _jackknife(without, ratio), "", signal, error, noise, count)


def _jackknife(without: Sequence[float], centre: float) -> float:
    return math.sqrt((len(without) - 1) / len(without) * sum((value - centre) ** 2 for value in without))
