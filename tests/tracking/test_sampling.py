from __future__ import annotations

from itertools import pairwise

import pytest
from metatuner.tracking.sampling import DEFAULT_DISTANCES, SamplingDistances


def samples(distances: SamplingDistances, until_s: float) -> list[float]:
    times, due = [], distances.first_s
    while due <= until_s:
        times.append(due)
        due = distances.next_after(due)
    return times


@pytest.mark.parametrize(
    ("until_s", "count"), [(9.9, 0), (10, 1), (180, 18), (3_600, 80), (86_400, 145), (365 * 86_400, 266)]
)
def test_any_trial_has_few(until_s: float, count: int) -> None:
    assert len(samples(DEFAULT_DISTANCES, until_s)) == pytest.approx(count, abs=1)


def test_distances_grow() -> None:
    distances = [later - earlier for earlier, later in pairwise(samples(DEFAULT_DISTANCES, 86_400))]
    assert distances == pytest.approx(sorted(distances))
    assert min(distances) == pytest.approx(10)
    assert max(distances) < 0.05 * 86_400


def test_a_late_sample_delays_the_next() -> None:
    assert SamplingDistances(first_s=1, growth=0.5, least_s=2).next_after(3) == 5
    assert SamplingDistances(first_s=1, growth=0.5, least_s=2).next_after(10) == 15
