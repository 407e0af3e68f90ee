from __future__ import annotations

import numpy as np
import pytest
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.replayed_tasks import ReplayedTasks
from metatuner.envs.search import SearchEnv
from metatuner.envs.unit_cube import ColumnCube

CUBE, RUNGS = ColumnCube([1, 1]), (0.5, 1.0)
CENTRES = (0.2, 0.5, 0.8)


def bowl(points: np.ndarray, centre: float) -> np.ndarray:
    return 10.0 + ((points - centre) ** 2).sum(1)


def past_tasks() -> PastTasks:
    """Bowls around different centres, half trained and trained."""
    histories = []
    for centre in CENTRES:
        points = np.random.default_rng(0).random((60, 2))
        values = bowl(points, centre)
        histories.append(History(points, np.stack([values + 1.0, values], axis=1)))
    return PastTasks(histories)


@pytest.fixture(scope="module")
def tasks() -> ReplayedTasks:
    return ReplayedTasks(CUBE, RUNGS, past_tasks())


@pytest.mark.parametrize("place", range(3))
def test_a_replayed_task_is_best_where_the_task_was(tasks: ReplayedTasks, place: int) -> None:
    task = tasks.replay(place)
    here = np.full(2, CENTRES[place])
    assert task.regret(here) < 0.1
    assert task.regret(1 - here + 0.3 * (place == 1)) > task.regret(here) + 0.2
    curve = task.curve(here, seed=0)
    assert curve.shape == (2,)
    assert curve[0] > curve[1]
    np.testing.assert_array_equal(curve, task.curve(here, seed=0))
    assert (curve != task.curve(here, seed=1)).all()


def test_a_task_is_never_its_own_past(tasks: ReplayedTasks) -> None:
    knowing = [task for task in map(tasks.task, range(30)) if task.past is not None]
    assert len({len(task.past) for task in knowing if task.past}) == 2
    for task in knowing:
        best = min(np.array([[c, c] for c in CENTRES]), key=task.regret)
        assert task.past is not None
        assert not (np.abs(task.past.best - best) < 0.05).all(1).any()


def test_a_search_of_a_replayed_task_finds_what_is_good(tasks: ReplayedTasks) -> None:
    env = SearchEnv(families=tasks, budget=6.0)
    _, info = env.reset(seed=3)
    done = False
    while not done:
        _, _, done, _, info = env.step(np.int64(0))
    assert info["regret"] < 0.3


def test_there_must_be_something_to_search() -> None:
    with pytest.raises(ConfigurationError, match="at least one past task"):
        ReplayedTasks(CUBE, RUNGS, past_tasks(), searched=[])
