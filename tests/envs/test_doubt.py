from __future__ import annotations

import numpy as np
import pytest
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.search_state import SearchState
from metatuner.envs.unit_cube import ColumnCube


def bowl(points: np.ndarray) -> np.ndarray:
    found: np.ndarray = ((points - 0.25) ** 2).sum(1)
    return found


def past(*, inverted: bool) -> PastTasks:
    histories = []
    for seed in range(3):
        points = np.random.default_rng(seed).random((40, 2))
        values = bowl(points)[:, None]
        histories.append(History(points, -values if inverted else values))
    return PastTasks(histories)


def best_after(trials: int, seed: int, told: PastTasks) -> float:
    """The best value, where whichever move promises most is taken."""
    state = SearchState(ColumnCube([1, 1]), (1.0,), trials, told, seed)
    for number in range(trials):
        moves = state.moves()
        state.start(number, moves.points[0])
        state.learn(number, float(bowl(moves.points[:1])[0]))
    return state.best


def test_a_past_that_is_right_finds_the_best_at_once() -> None:
    assert max(best_after(2, seed, past(inverted=False)) for seed in range(5)) < 0.01


def test_a_past_that_is_inverted_is_overcome() -> None:
    """Where it says is best, values are 1.1; at random, 0.3 in the median."""
    assert np.median([best_after(8, seed, past(inverted=True)) for seed in range(5)]) < 0.1


def shares(told: PastTasks, seed: int) -> float:
    """Share of the moves of a search at which past tasks had no say."""
    state = SearchState(ColumnCube([1, 1]), (1.0,), 20, told, seed)
    doubted = 0
    for number in range(20):
        moves = state.moves()
        doubted += not state.believes
        state.start(number, moves.points[0])
        state.learn(number, float(bowl(moves.points[:1])[0]))
    return doubted / 20


def test_a_past_that_is_right_is_believed_and_an_inverted_one_is_not() -> None:
    assert np.mean([shares(past(inverted=False), seed) for seed in range(5)]) < 0.2
    assert np.mean([shares(past(inverted=True), seed) for seed in range(5)]) > 0.4


@pytest.mark.parametrize(("trials", "tested"), [(4, True), (3, False)])
def test_past_tasks_are_tested_where_it_costs_little_of_the_budget(trials: int, tested: bool) -> None:
    state = SearchState(ColumnCube([1, 1]), (1.0,), trials, past(inverted=False), 0)
    for number in range(2):
        moves = state.moves()
        state.start(number, moves.points[0])
        state.learn(number, float(bowl(moves.points[:1])[0]))
    assert (moves.points[0].tolist() == [0.5, 0.5]) is tested


def test_where_everything_fails_that_past_tasks_praise_others_are_tried() -> None:
    state = SearchState(ColumnCube([1, 1]), (1.0,), 10, past(inverted=False), 0)
    tried = []
    for number in range(4):
        moves = state.moves()
        tried.append(moves.points[0])
        state.start(number, moves.points[0])
        state.fail(number)
    assert max(bowl(np.array(tried[:2]))) < 0.05
    assert max(bowl(np.array(tried[2:]))) > 0.05


@pytest.mark.parametrize("inverted", [False, True])
def test_the_same_seed_doubts_alike(inverted: bool) -> None:
    told = past(inverted=inverted)
    assert best_after(8, 4, told) == best_after(8, 4, told)


def test_trials_that_run_are_not_taken_for_failures() -> None:
    """Several workers begin with what past tasks praise, though nothing has come of it yet."""
    state = SearchState(ColumnCube([1, 1]), (1.0,), 10, past(inverted=False), 0)
    for number in range(4):
        moves = state.moves()
        assert bowl(moves.points[:1])[0] < 0.05
        state.start(number, moves.points[0])
