"""Intervals of a mean over tasks, and p-values of paired scores."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, wilcoxon
from scipy.stats import t as student_t

from ..tasks._random import resolve_random_state

_N_RESAMPLES = 9999
# Resampled scores that are held at a time: 32 MiB.
_MOST_RESAMPLED = 2**22


class MeanInterval(NamedTuple):
    """The ends of an interval and half its width."""

    low: float
    high: float
    half_width: float


def check_interval(interval: Any) -> None:
    """Raise a ValueError unless this is the name of a kind of interval."""
    if not (isinstance(interval, str) and interval in _BY_KIND):
        raise ValueError(f"interval must be 't' or 'bootstrap', got {interval!r}.")


def mean_interval(
    scores: NDArray[np.float64], kind: str = "t", random_state: Any = None
) -> MeanInterval:
    """Return the 95 % interval of the mean of scores [T]; NaN for T = 1 and where a score is."""
    if len(scores) < 2 or np.isnan(scores).any():
        return MeanInterval(np.nan, np.nan, np.nan)
    return _BY_KIND[kind](scores, random_state)


def _t_interval(scores: NDArray[np.float64], random_state: Any) -> MeanInterval:
    n_tasks, mean = len(scores), float(scores.mean())
    half = float(student_t.ppf(0.975, n_tasks - 1) * scores.std(ddof=1) / np.sqrt(n_tasks))
    return MeanInterval(mean - half, mean + half, half)


def _bootstrap_interval(scores: NDArray[np.float64], random_state: Any) -> MeanInterval:
    low, high = bootstrap(
        (scores,),
        np.mean,
        n_resamples=_N_RESAMPLES,
        batch=max(1, _MOST_RESAMPLED // len(scores)),
        method="percentile",
        random_state=np.random.default_rng(resolve_random_state(random_state)[1]),
    ).confidence_interval
    return MeanInterval(float(low), float(high), float(high - low) / 2)


_BY_KIND = {"t": _t_interval, "bootstrap": _bootstrap_interval}


def rounded(scores: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Return scores rounded to 11 digits of the largest, ``scale``.

    0.8 - 0.6 and 0.6 - 0.4 differ in their last bits, which must not decide their ranks.
    """
    return (scores / (scale or 1.0)).round(11)


def wilcoxon_p(differences: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 where all are zero."""
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values [N] corrected by Holm's step-down method.

    The k-th smallest of M becomes the largest of (M - j + 1) p_(j) over j <= k, at most 1. A NaN
    stays one and is no comparison: M counts the others.
    """
    corrected = np.full(len(p_values), np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.maximum.accumulate(steps).clip(max=1.0)
    return corrected
