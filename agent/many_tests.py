"""Many small samples of paired differences: which of their means differ from zero?

With a handful of repeats a sample's own variance is hardly known, and where there are many samples some look certain by
chance. So variances are shrunk towards what all samples say, by empirical Bayes (Smyth 2004, Linear models and
empirical Bayes methods for assessing differential expression), and p is corrected so that the false discovery rate is
controlled (Benjamini and Hochberg 1995), which holds for samples that depend on each other positively, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

Array = NDArray[np.float64]

_LEAST = 1e-8  # of a standard deviation, in units of the typical one: samples of equal numbers are not certain
_MOST_FREEDOM = 1e6  # as good as infinite


@dataclass(frozen=True)
class Judged:
    """What m samples say.

    Attributes:
        means: Shape (m,).
        half: Half widths of their confidence intervals, shape (m,), not corrected.
        p: Two-sided, corrected, shape (m,).
    """

    means: Array
    half: Array
    p: Array


def judged(samples: Array, confidence: float) -> Judged:
    """Tests the mean of each sample against zero.

    Args:
        samples: Paired differences, shape (m, n) with n at least 2.
        confidence: Of the intervals.
    """
    n = samples.shape[1]
    means = samples.mean(1)
    variances = samples.var(1, ddof=1)
    typical = float(np.median(variances[variances > 0])) if (variances > 0).any() else 0.0
    variances = np.maximum(variances, max(_LEAST**2 * typical, np.finfo(float).tiny))
    prior, freedom = _shrinkage(variances, n - 1)
    shrunk = (freedom * prior + (n - 1) * variances) / (freedom + n - 1)
    error = np.sqrt(shrunk / n)
    total = freedom + n - 1
    p = 2 * stats.t.sf(np.abs(means) / error, total)
    return Judged(means, error * stats.t.ppf((1 + confidence) / 2, total), stats.false_discovery_control(p))


def _shrinkage(variances: Array, freedom: int) -> tuple[float, float]:
    """The variance to shrink towards, and the degrees of freedom that it is worth (Smyth 2004, section 6.2)."""
    logs = np.log(variances) - special.digamma(freedom / 2) + math.log(freedom / 2)
    # How much more logs differ than samples of one variance would.
    excess = (float(logs.var(ddof=1)) if len(logs) > 1 else 0.0) - float(special.polygamma(1, freedom / 2))
    if excess <= float(special.polygamma(1, _MOST_FREEDOM / 2)):
        return float(np.exp(logs.mean())), _MOST_FREEDOM
    half = optimize.brentq(lambda log: math.log(special.polygamma(1, math.exp(log)) / excess), -50, math.log(1e6))
    worth = 2 * math.exp(half)
    return float(np.exp(logs.mean() + special.digamma(worth / 2) - math.log(worth / 2))), worth
