"""The surrogate against its theory: scikit-learn's Gaussian process, and what a prior and a learning curve must do."""

from __future__ import annotations

import numpy as np
import pytest
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.surrogate import Observed, Queried, Surrogate
from scipy.stats import spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel


def bowl(points: np.ndarray, centre: float = 0.3) -> np.ndarray:
    return ((points - centre) ** 2).sum(1)


def observed(points: np.ndarray, values: np.ndarray, rung: int = 0, expected: np.ndarray | None = None) -> Observed:
    n = len(points)
    return Observed(points, np.full(n, rung), np.arange(n), values, expected)


def queried(points: np.ndarray, expected: np.ndarray | None = None, rung: int = 0) -> Queried:
    return Queried(points, np.full(len(points), -1), np.full(len(points), rung), expected)


@pytest.mark.parametrize("n", [2, 9, 40])
def test_it_foretells_as_scikit_learn_does(n: int) -> None:
    random = np.random.default_rng(n)
    points, asked = random.random((n, 3)), random.random((25, 3))
    surrogate = Surrogate((1.0,), None, seed=0)
    surrogate.fit(observed(points, bowl(points)))
    told = surrogate.foretell(queried(asked))
    for found, wanted in zip(surrogate.foretell_ends(queried(asked)), (told.mean, told.std), strict=True):
        np.testing.assert_array_equal(found, wanted)
    h = surrogate.hyperparameters
    (share,), (shift,), (noise,) = h["own_share"], h["shift"], h["noise"]
    kernel = (
        ConstantKernel(1 + shift**2)
        + ConstantKernel(1 - share) * Matern(h["lengths"], nu=2.5)
        # What is a trial's own is shared by those beside it but for a fifth, which is luck.
        + ConstantKernel(0.8 * share) * Matern(np.array(h["lengths"]) / 4, nu=2.5)
        + WhiteKernel(0.2 * share + noise**2 + 1e-6)
    )
    theory = GaussianProcessRegressor(kernel, alpha=0.0, optimizer=None).fit(points, surrogate.scaled)
    mean, std = theory.predict(asked, return_std=True)
    np.testing.assert_allclose(told.mean, mean, atol=1e-6)
    # Less its luck, and the noise.
    np.testing.assert_allclose(told.std**2, np.maximum(std**2 - 0.2 * share - noise**2 - 1e-6, 1e-8), atol=1e-6)


def test_what_matters_is_found_among_what_does_not() -> None:
    random = np.random.default_rng(0)
    points = random.random((60, 6))
    surrogate = Surrogate((1.0,), None, seed=0)
    for n in range(5, 60, 5):
        surrogate.fit(observed(points[:n], bowl(points[:n, :1])))
    asked = random.random((200, 6))
    assert spearmanr(surrogate.foretell(queried(asked)).mean, bowl(asked[:, :1])).statistic > 0.9


def test_where_the_first_values_are_at_chance_those_that_leave_it_still_differ() -> None:
    """The unit is the usual value's distance from the best one, however little the first ones differ."""
    points = np.random.default_rng(0).random((13, 2))
    values = np.append(0.693 + 1e-6 * np.arange(10), [0.60, 0.50, 0.55])
    surrogate = Surrogate((1.0,), None, seed=0)
    surrogate.fit(observed(points[:10], values[:10]))
    surrogate.fit(observed(points, values))
    chance, left = surrogate.scaled[:10], surrogate.scaled[10:]
    assert np.ptp(chance) < 1e-3
    assert np.argsort(left).tolist() == [1, 2, 0]
    np.testing.assert_allclose(
        (chance.mean() - left) / (chance.mean() - left[1]), [0.093 / 0.193, 1, 0.143 / 0.193], atol=1e-3
    )


def test_the_metrics_unit_does_not_matter() -> None:
    random = np.random.default_rng(1)
    points, asked = random.random((12, 2)), random.random((20, 2))
    plain, scaled = Surrogate((1.0,), None, seed=0), Surrogate((1.0,), None, seed=0)
    plain.fit(observed(points, bowl(points)))
    scaled.fit(observed(points, 1000 * bowl(points) - 77))
    np.testing.assert_allclose(
        plain.foretell(queried(asked)).mean, scaled.foretell(queried(asked)).mean, rtol=1e-6, atol=1e-8
    )


def test_early_values_tell_of_late_ones_and_failures_are_bad() -> None:
    random = np.random.default_rng(2)
    points = random.random((20, 2))
    values = np.where(points[:, 0] > 0.7, np.inf, 1 + bowl(points))
    surrogate = Surrogate((0.25, 1.0), None, seed=0)
    surrogate.fit(observed(points, values))
    paused = Queried(points, np.arange(20), np.ones(20, np.int64))
    told = surrogate.foretell(paused)
    assert spearmanr(told.mean, values).statistic > 0.8
    assert told.mean[points[:, 0] > 0.7].min() > np.median(told.mean)
    # The rung that was passed tells nothing more.
    assert (told.told[:, 0] == 0).all() and (told.told[:, 1] > 0).all() and (told.told[:, 1] <= told.std + 1e-9).all()


def history(centre: float, n: int = 40, seed: int = 0) -> History:
    points = np.random.default_rng(seed).random((n, 2))
    return History(points, np.stack([bowl(points, centre) + 0.5, bowl(points, centre)], 1))


def test_past_tasks_tell_where_to_look_before_anything_was_tried() -> None:
    past = PastTasks([history(0.3, seed=0), history(0.35, seed=1)])
    grid = np.random.default_rng(5).random((300, 2))
    expected = past.expected(grid)
    assert expected.shape == (2, 300, 2)
    assert np.abs(grid[expected[..., -1].mean(0).argmin()] - 0.32).max() < 0.15
    np.testing.assert_allclose(past.best, np.full((6, 2), 0.32), atol=0.25)
    # A unit is the distance from the best to the median trial.
    assert past.scales.shape == (2,) and (past.scales > 0).all()


def test_with_past_tasks_one_value_says_more() -> None:
    """Two kinds of task: one bad value at the optimum of the first kind tells that this one is of the second."""
    past = PastTasks([history(c, seed=i) for i, c in enumerate((0.2, 0.22, 0.18, 0.8, 0.78, 0.82))])
    points = np.array([[0.2, 0.2], [0.5, 0.5]])
    surrogate = Surrogate((0.5, 1.0), past.scales, seed=0)
    surrogate.fit(observed(points, bowl(points, 0.8), rung=1, expected=past.expected(points)[:, :, 1]))
    asked = np.array([[0.2, 0.25], [0.8, 0.75]])
    told = surrogate.foretell(queried(asked, past.expected(asked), rung=1))
    assert told.mean[1] < told.mean[0] - 0.3


def test_what_was_recorded_several_times_counts_once() -> None:
    once = history(0.3, seed=0)
    often = History(np.tile(once.points, (3, 1)), np.tile(once.values, (3, 1)))
    points = np.random.default_rng(1).random((5, once.points.shape[1]))
    np.testing.assert_array_equal(PastTasks([often]).expected(points), PastTasks([once]).expected(points))


def test_a_past_with_too_little_in_it_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 4 trials"):
        PastTasks([history(0.5, n=3)])


def test_past_trials_that_were_stopped_tell_of_their_early_rungs() -> None:
    whole = history(0.3, n=60)
    values = whole.values.copy()
    values[30:, 1] = np.nan
    past = PastTasks([History(whole.points, values)])
    asked = np.random.default_rng(3).random((100, 2))
    for rung in (0, 1):
        assert spearmanr(past.expected(asked)[0, :, rung], bowl(asked)).statistic > 0.9


def test_a_rung_that_says_nothing_of_the_end_tells_less_than_one_that_does() -> None:
    random = np.random.default_rng(4)
    points, late = random.random((24, 2)), (0, 1, 2)
    finals = bowl(points)
    # The first rung is chance; the second one is nearly the end.
    curves = np.stack([random.random(24), finals + 0.01 * random.random(24), finals], axis=1)
    surrogate = Surrogate((0.0625, 0.5, 1.0), None, seed=0)
    surrogate.fit(
        Observed(
            np.repeat(points, 3, axis=0), np.tile(np.array(late), 24), np.repeat(np.arange(24), 3), curves.reshape(-1)
        )
    )
    told = surrogate.foretell(Queried(random.random((50, 2)), np.full(50, -1), np.zeros(50, np.int64))).told
    assert np.median(told[:, 0]) < 0.7 * np.median(told[:, 1])
    assert np.median(told[:, 1]) <= np.median(told[:, 2])
