"""Past tasks that know a part of the search space."""

from __future__ import annotations

import numpy as np
import pytest
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.overlap import gridless, holds, shared_names
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.search_state import SearchState
from metatuner.envs.unit_cube import UnitCube
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import spearmanr

SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "kind": CategoricalDistribution(["a", "b", "c"]),
    "depth": IntDistribution(0, 10),
}


def partial(n: int = 40) -> History:
    """A task that knows the learning rate alone: best at 0.3."""
    points = np.full((n, 5), np.nan)
    points[:, 0] = np.random.default_rng(0).random(n)
    return History(points, ((points[:, :1] - 0.3) ** 2))


def test_a_task_says_what_it_knows_and_nothing_of_the_rest() -> None:
    cube = UnitCube(SPACE)
    past = PastTasks([partial()])
    asked = cube.sample(np.random.default_rng(1), 50)
    told = past.expected(asked)
    assert told.shape == (1, 50, 1) and np.isfinite(told).all()
    assert spearmanr(told[0, :, 0], np.abs(asked[:, 0] - 0.3)).statistic > 0.9
    other = cube.sample(np.random.default_rng(2), 50)
    other[:, 0] = asked[:, 0]
    np.testing.assert_array_equal(past.expected(other), told)


def test_the_columns_that_are_not_known_change_nothing() -> None:
    small = PastTasks([History(partial().points[:, :1], partial().values)], seed=3)
    asked = np.random.default_rng(1).random((20, 5))
    np.testing.assert_array_equal(
        PastTasks([partial()], seed=3).expected(asked), small.expected(np.ascontiguousarray(asked[:, :1]))
    )


def test_a_search_begins_with_the_best_and_the_middle_of_what_is_new() -> None:
    cube = UnitCube(SPACE)
    random = np.random.default_rng(0)
    state = SearchState(cube, (1.0,), 5, PastTasks([partial()]), seed=0)
    offered = state.moves().points
    assert np.isfinite(offered).all()
    assert PastTasks([partial()]).known.tolist() == [True, False, False, False, False]
    filled = offered[(offered[:, 4] == 0.5) & (np.abs(offered[:, 0] - 0.3) < 0.1)]
    assert len(filled)
    assert (filled[:, 1:4].sum(1) == 1).all()
    whole = cube.sample(random, 3)
    before = random.bit_generator.state
    assert cube.filled(random, whole) is whole
    assert random.bit_generator.state == before


@pytest.mark.parametrize("columns", [[], [0, 1, 2, 3, 4]])
def test_a_task_that_varied_nothing_says_nothing(columns: list[int]) -> None:
    points = np.full((6, 5), np.nan)
    points[:, columns] = 0.5
    with pytest.raises(ConfigurationError, match="at different points"):
        PastTasks([History(points, np.arange(6.0)[:, None])])


def test_configurations_with_gaps_are_points_with_gaps() -> None:
    cube = UnitCube(SPACE)
    whole = {"lr": 0.01, "kind": "b", "depth": 3}
    points = cube.encode_known([whole, {"kind": "c"}, {"lr": 0.01, "depth": 3}])
    np.testing.assert_array_equal(points[0], cube.encode([whole])[0])
    np.testing.assert_array_equal(np.isnan(points[1:]), [[1, 0, 0, 0, 1], [0, 1, 1, 1, 0]])
    assert points[1, 3] == 1 and points[2, 0] == points[0, 0]


def test_what_a_task_knows_is_what_tells_most() -> None:
    a, ab, abc, c = frozenset("a"), frozenset("ab"), frozenset("abc"), frozenset("c")
    assert shared_names([abc] * 5, 4) == abc
    assert shared_names([abc] * 5 + [a] * 9, 4) == abc
    assert shared_names([abc] + [ab] * 9, 4) == ab
    assert shared_names([abc] * 3 + [a] * 5, 4) == a  # three trials would be too few
    assert shared_names([frozenset("ax"), frozenset("ay"), frozenset("az")] * 4, 4) == a  # none has it alone, all do
    assert shared_names([a, c] * 4 + [c], 4) == c


def test_values_between_steps_count_and_others_do_not() -> None:
    step, tens = FloatDistribution(0, 1, step=0.25), IntDistribution(10, 50, step=10)
    assert holds(step, 0.3) and holds(tens, 11) and holds(SPACE["kind"], "b")
    assert not any([holds(step, 1.1), holds(step, "x"), holds(step, float("nan")), holds(SPACE["kind"], "z")])
    assert not holds(tens, 5) and not holds(tens, None)
    assert gridless(SPACE["lr"]) is SPACE["lr"]


def bowl(seed: int, sign: float = 1.0, n: int = 40) -> History:
    points = np.random.default_rng(seed).random((n, 2))
    return History(points, sign * ((points - 0.3) ** 2).sum(1, keepdims=True))


def test_past_tasks_mislead_as_likely_as_they_mislead_each_other() -> None:
    """Laplace's rule of succession: (misled + 1) / (tested + 2)."""
    assert PastTasks([bowl(0)]).doubt == 1 / 2
    assert PastTasks([bowl(seed) for seed in range(6)]).doubt == 1 / 8
    divided = PastTasks([bowl(0), bowl(1), bowl(2), bowl(3, -1.0)])
    assert divided.doubt == 2 / 6
    assert PastTasks([bowl(0), bowl(1, -1.0)]).doubt == 3 / 4


def test_a_task_of_which_the_others_say_nothing_is_misled() -> None:
    flat = History(np.random.default_rng(9).random((8, 2)), np.full((8, 1), 0.5))
    assert PastTasks([bowl(0), bowl(1), flat]).doubt == 2 / 5


def test_fewer_past_tasks_are_doubted_by_what_these_say() -> None:
    divided = PastTasks([bowl(0), bowl(1), bowl(2, -1.0)])
    assert divided.doubt == 2 / 5
    assert divided.only([0, 1]).doubt == 1 / 4
