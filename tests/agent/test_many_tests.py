from __future__ import annotations

import numpy as np
import pytest
from metatuner.agent.many_tests import judged
from scipy import stats


def test_by_chance_hardly_anything_is_flagged() -> None:
    """Samples of different variances and means of zero: the family has a false flag in about one of twenty."""
    random = np.random.default_rng(0)
    flagged = 0
    for _ in range(300):
        spreads = np.sqrt(random.gamma(2, 0.5, 40))[:, None]
        flagged += bool((judged(spreads * random.normal(size=(40, 5)), 0.95).p < 0.05).any())
    assert flagged / 300 < 0.09


def test_a_few_repeats_are_enough_where_many_samples_tell_the_variance() -> None:
    random = np.random.default_rng(0)
    samples = random.normal(size=(60, 2))
    samples[0] = [-3, -5]
    assert judged(samples, 0.95).p[0] < 0.01
    assert stats.ttest_1samp(samples[0], 0).pvalue > 0.05


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    found = judged(0.3 + random.normal(size=(2000, 3)), 0.9)
    assert np.mean(np.abs(found.means - 0.3) < found.half) == pytest.approx(0.9, abs=0.02)


def test_equal_numbers_are_no_certainty() -> None:
    found = judged(np.array([[0.0, 0.0], [1.0, 1.2], [0.5, 0.9]]), 0.95)
    assert found.p[0] == 1
    assert np.isfinite(found.half).all()
    assert judged(np.zeros((1, 2)), 0.95).p[0] == 1
