from __future__ import annotations

import math

import numpy as np
import pytest
from metatuner.envs.errors import SearchSpaceError
from metatuner.envs.exploration import proposal_distances
from optuna.distributions import CategoricalDistribution, FloatDistribution

SPACE = {"lr": FloatDistribution(1e-4, 1.0, log=True), "kind": CategoricalDistribution(["a", "b", "c"])}


def test_distances_are_shares_of_the_space() -> None:
    configs = [
        {"lr": 1e-4, "kind": "a"},
        {"lr": 1.0, "kind": "b"},  # the opposite corner
        {"lr": 1e-2, "kind": "a"},  # half the range from the first, which is the best
        {"lr": 1e-2, "kind": "a"},
    ]
    to_best, to_nearest = proposal_distances(SPACE, configs, [1.0, 2.0, 0.5, 3.0])
    half = 0.5 / math.sqrt(2)
    assert to_best == pytest.approx([math.nan, 1.0, half, 0.0], nan_ok=True)
    assert to_nearest == pytest.approx([math.nan, 1.0, half, 0.0], nan_ok=True)


def test_what_has_no_loss_is_no_best() -> None:
    configs = [{"lr": 1e-4, "kind": "a"}, {"lr": 1.0, "kind": "a"}, {"lr": 1.0, "kind": "a"}]
    to_best, to_nearest = proposal_distances(SPACE, configs, [math.inf, 1.0, 1.0])
    assert np.isnan(to_best[:2]).all()
    assert to_best[2] == 0.0
    assert to_nearest[1] == pytest.approx(math.sqrt(0.5))


def test_random_points_are_about_as_far_apart_as_is_said() -> None:
    random = np.random.default_rng(0)
    space = {name: FloatDistribution(0, 1) for name in "abcdef"}
    apart = [
        proposal_distances(space, [dict(zip(space, point, strict=True)) for point in pair], [0, 0])[0][1]
        for pair in random.random((300, 2, 6))
    ]
    assert np.median(apart) == pytest.approx(0.4, abs=0.03)


def test_a_single_value_is_nothing_to_choose() -> None:
    with pytest.raises(SearchSpaceError):
        proposal_distances({"x": FloatDistribution(1, 1)}, [{"x": 1.0}], [0.0])
