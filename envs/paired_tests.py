"""Tests of paired measurements: which of several methods are better than others, judged by ranks.

J. Demšar, Statistical comparisons of classifiers over multiple data sets, JMLR 7 (2006): Friedman's test whether all
are alike, Nemenyi's critical difference of mean ranks for all pairs, Wilcoxon's signed ranks for a pair.
S. Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6 (1979).

Everywhere `losses` has the shape (repeats, methods), and less is better. An infinite loss is the worst; two of them are
alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_RESAMPLES = 10_000


@dataclass(frozen=True)
class Friedman:
    """Whether all methods are alike.

    Attributes:
        statistic: Friedman's, corrected for ties.
        p: How likely one as large is where they are (by chi-square: rough for fewer than ten repeats).
    """

    statistic: float
    p: float


@dataclass(frozen=True)
class SignedRank:
    """Whether a method differs from the baseline.

    Attributes:
        method: Which one, by its place.
        better: In how many repeats it is better.
        worse: In how many it is worse.
        p: Two-sided, exact.
        adjusted: The same, for all comparisons with the baseline together (Holm).
    """

    method: int
    better: int
    worse: int
    p: float
    adjusted: float


def ranks(losses: Array) -> Array:
    """Ranks within each repeat, the best one is 1; those that are alike share theirs. Shape as given."""
    from scipy.stats import rankdata

    found: Array = rankdata(losses, axis=1)
    return found


def friedman(losses: Array) -> Friedman:
    """Friedman's test (1937).

    Args:
        losses: Of at least three methods.
    """
    from scipy.stats import friedmanchisquare

    if np.all(ranks(losses) == (losses.shape[1] + 1) / 2):
        return Friedman(0.0, 1.0)
    found = friedmanchisquare(*ranks(losses).T)
    return Friedman(float(found.statistic), float(found.pvalue))


def least_friedman_p(repeats: int, methods: int) -> float:
    """The smallest p that `friedman` can give: all repeats agree on every rank."""
    return friedman(np.tile(np.arange(methods, dtype=np.float64), (repeats, 1))).p


def critical_difference(repeats: int, methods: int, alpha: float = 0.05) -> float:
    """Nemenyi's: methods whose mean ranks differ by less are not told apart, at a level for all pairs together."""
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(1 - alpha, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * repeats))


def signed_rank_p(losses: Array, others: Array) -> float:
    """Wilcoxon's signed-rank test (1945), two-sided.

    Exact with ties too: the distribution of the ranks' sum over all signs, each as likely, is counted. Pairs that are
    alike are left out.

    Args:
        losses: Of one method, shape (repeats).
        others: Of the other one, shape (repeats).
    """
    from scipy.stats import rankdata

    differences = _differences(losses, others)
    differences = differences[differences != 0.0]
    if not len(differences):
        return 1.0
    doubled = np.rint(2 * rankdata(np.abs(differences))).astype(int)  # with ties there are halves
    chances = np.zeros(int(doubled.sum()) + 1)
    chances[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[: len(chances) - rank]
        chances = (chances + shifted) / 2
    smaller = min(int(doubled[differences > 0].sum()), int(doubled[differences < 0].sum()))
    return min(1.0, 2 * float(chances[: smaller + 1].sum()))


def least_signed_rank_p(repeats: int) -> float:
    """The smallest p that `signed_rank_p` can give: all differences have one sign."""
    return min(1.0, 2.0 ** (1 - repeats))


def against_baseline(losses: Array, baseline: int) -> list[SignedRank]:
    """Each other method against one of them, which must have been chosen before the losses were seen."""
    others = [method for method in range(losses.shape[1]) if method != baseline]
    ps = [signed_rank_p(losses[:, method], losses[:, baseline]) for method in others]
    found = []
    for method, p, adjusted in zip(others, ps, holm(ps), strict=True):
        differences = _differences(losses[:, method], losses[:, baseline])
        found.append(SignedRank(method, int((differences < 0).sum()), int((differences > 0).sum()), p, adjusted))
    return found


def holm(ps: Sequence[float]) -> list[float]:
    """Adjusted p values (Holm 1979): rejecting what is below a level errs anywhere with at most this probability."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for place, which in enumerate(sorted(range(len(ps)), key=lambda each: ps[each])):
        highest = max(highest, min(1.0, (len(ps) - place) * ps[which]))
        adjusted[which] = highest
    return adjusted


def repeats_to_reject(methods: int, alpha: float = 0.05) -> int:
    """How many repeats a method needs at least to be told apart from the baseline, after Holm's correction."""
    return 1 + math.ceil(math.log2((methods - 1) / alpha) - 1e-12)


def median_interval(values: Array, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """An interval of the median by the percentile bootstrap (Efron 1979): too narrow where there are few values.

    Args:
        values: Shape (n).
        confidence: How often such intervals should hold the median.
        seed: What is drawn follows from it.
    """
    drawn = np.random.default_rng(seed).choice(values, (_RESAMPLES, len(values)))
    # Values that stand beside the wanted shares, since there is no mean of a number and infinity.
    tail = (1 - confidence) / 2
    low, high = np.quantile(median(drawn), [tail, 1 - tail], method="nearest")
    return float(low), float(high)


def median(values: Array) -> Array:
    """Medians of the last axis: without a warning where values are infinite, as NumPy's would give."""
    middle = values.shape[-1] // 2
    ordered = np.sort(values, axis=-1)
    high = ordered[..., middle]
    if values.shape[-1] % 2:
        return np.asarray(high)
    return np.asarray((ordered[..., middle - 1] + high) / 2)


def _differences(losses: Array, others: Array) -> Array:
    """Losses less the others; 0 where both are infinite."""
    alike = losses == others
    return np.where(alike, 0.0, np.where(alike, 0.0, losses) - np.where(alike, 0.0, others))
