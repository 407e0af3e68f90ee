"""Tests of paired measurements, against hand-counted cases, SciPy's and the examples of Demšar (2006)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from metatuner.envs.paired_tests import (
    against_baseline,
    critical_difference,
    friedman,
    holm,
    least_friedman_p,
    least_signed_rank_p,
    median,
    median_interval,
    ranks,
    repeats_to_reject,
    signed_rank_p,
)
from scipy.stats import wilcoxon

# Demšar (2006), table 6: AUC of C4.5 and of C4.5 with a parameter m, on 14 data sets.
C45 = [0.763, 0.599, 0.954, 0.628, 0.882, 0.936, 0.661, 0.583, 0.775, 1.000, 0.940, 0.619, 0.972, 0.957]
C45_M = [0.768, 0.591, 0.971, 0.661, 0.888, 0.931, 0.668, 0.583, 0.838, 1.000, 0.962, 0.666, 0.981, 0.978]
C45_CF = [0.771, 0.590, 0.968, 0.654, 0.886, 0.916, 0.609, 0.563, 0.866, 1.000, 0.965, 0.614, 0.9751, 0.946]
C45_M_CF = [0.798, 0.569, 0.967, 0.657, 0.898, 0.931, 0.685, 0.625, 0.875, 1.000, 0.962, 0.669, 0.975, 0.970]


def test_friedman_and_nemenyi_as_in_the_article() -> None:
    losses = -np.array([C45, C45_M, C45_CF, C45_M_CF]).T
    assert ranks(losses).mean(axis=0) == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    # The article's 9.28 is without the correction for ties: there are one of four and three of two.
    untied = 12 * 14 / 20 * (float((ranks(losses).mean(axis=0) ** 2).sum()) - 25)
    assert untied == pytest.approx(9.28, abs=0.005)
    assert friedman(losses).statistic == pytest.approx(untied / (1 - (60 + 3 * 6) / (14 * 60)))
    assert critical_difference(14, 4) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(14, 4, alpha=0.10) == pytest.approx(1.12, abs=0.005)


def test_signed_ranks_agree_with_scipy_where_nothing_is_tied() -> None:
    random = np.random.default_rng(0)
    for repeats in (2, 5, 9, 30):
        one, other = random.normal(size=(2, repeats))
        assert signed_rank_p(one, other) == pytest.approx(wilcoxon(one, other, method="exact").pvalue)


def test_signed_ranks_with_ties_are_counted_by_hand() -> None:
    # Differences 1, 1, -1: ranks 2, 2, 2. The smaller sum is 2; of 8 signs 1 gives 0 and 3 give 2.
    assert signed_rank_p(np.array([2.0, 2.0, 0.0]), np.ones(3)) == 1.0
    # Differences 1, 1, 2, 0: the last is left out, all others have one sign.
    assert signed_rank_p(np.array([2.0, 2.0, 3.0, 1.0]), np.ones(4)) == 0.25
    assert signed_rank_p(np.ones(4), np.ones(4)) == 1.0


def test_the_smallest_p_is_what_unanimous_repeats_give() -> None:
    for repeats in (2, 5, 10):
        assert signed_rank_p(np.zeros(repeats), np.arange(1.0, repeats + 1)) == least_signed_rank_p(repeats)
    assert least_signed_rank_p(5) == 0.0625
    assert least_friedman_p(2, 3) == pytest.approx(math.exp(-2))  # chi-square 4 with two degrees of freedom


def test_so_many_repeats_are_needed_and_are_enough() -> None:
    for methods in (2, 4, 8):
        needed = repeats_to_reject(methods)
        for repeats, significant in ((needed, True), (needed - 1, False)):
            losses = np.ones((repeats, methods))
            losses[:, 1] = -np.arange(repeats)
            found = against_baseline(losses, 0)
            assert (found[0].adjusted <= 0.05) is significant


def test_holm_as_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_runs_without_a_value_are_the_worst_and_alike() -> None:
    losses = np.array([[1.0, math.inf, math.inf], [1.0, 2.0, math.inf], [1.0, math.inf, 5.0]])
    assert ranks(losses).tolist() == [[1.0, 2.5, 2.5], [1.0, 2.0, 3.0], [1.0, 3.0, 2.0]]
    pairs = against_baseline(losses, 2)
    assert [(pair.method, pair.better, pair.worse) for pair in pairs] == [(0, 3, 0), (1, 1, 1)]
    assert friedman(np.full((3, 3), math.inf)).p == 1.0


def test_medians_and_their_interval() -> None:
    values = np.arange(25.0)
    low, high = median_interval(values)
    assert median(values) == 12.0
    # By order statistics the 95 % interval of 25 values is from the 8th to the 18th.
    assert low == pytest.approx(7, abs=1)
    assert high == pytest.approx(17, abs=1)
    assert median_interval(np.array([1.0, 1.0, math.inf])) == (1.0, math.inf)
    assert median(np.array([3.0, 1.0, math.inf, 2.0])) == 2.5
