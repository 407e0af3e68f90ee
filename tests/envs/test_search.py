from __future__ import annotations

import math
import warnings

import gymnasium
import metatuner.envs  # noqa: F401 - registers the environment
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.families import Split
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.search import FLOOR, UNTRIED, SearchEnv
from metatuner.envs.search_families import SearchFamilies
from metatuner.envs.search_moves import FEATURES, MOVES, log_expected_improvement
from metatuner.envs.search_state import SearchState, rung_units
from metatuner.envs.surrogate import MOST
from metatuner.envs.unit_cube import ColumnCube, UnitCube
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.integrate import quad
from scipy.stats import norm
from stable_baselines3.common.env_checker import check_env as check_env_of_sb3

RULE = FEATURES.index("log_worth")


def by_rule(env: SearchEnv, observation: np.ndarray) -> int:
    features = observation[: MOVES * len(FEATURES)].reshape(MOVES, len(FEATURES))
    return int(np.where(env.action_masks(), features[:, RULE], -np.inf).argmax())


def played(env: SearchEnv, seed: int, **options: object) -> tuple[list[float], dict[str, float], list[np.ndarray]]:
    observation, info = env.reset(seed=seed, options=options)
    rewards, seen, done = [], [observation], False
    while not done:
        observation, reward, done, truncated, info = env.step(np.int64(by_rule(env, observation)))
        assert not truncated
        rewards.append(reward)
        seen.append(observation)
    return rewards, info, seen


@pytest.mark.filterwarnings("ignore::UserWarning")  # the checkers' advice
def test_both_checkers_pass() -> None:
    env = gymnasium.make("metatuner/Search-v0", budget=2.0)
    check_env(env.unwrapped, skip_render_check=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_env_of_sb3(env.unwrapped)


def test_an_episode_follows_from_its_seed_and_its_rewards_add_up() -> None:
    env = SearchEnv()
    for seed in range(4):
        rewards, info, seen = played(env, seed, budget=4)
        again, _, seen_again = played(SearchEnv(), seed, budget=4)
        assert rewards == again
        assert all(np.array_equal(a, b) for a, b in zip(seen, seen_again, strict=True))
        assert sum(rewards) == pytest.approx(np.log((UNTRIED + FLOOR) / (info["regret"] + FLOOR)))
        assert info["spent"] <= info["budget"] + 1e-6
        assert all(env.observation_space.contains(each) for each in seen)
    with pytest.raises(ConfigurationError, match="reset"):
        env.step(np.int64(0))


def test_the_rule_beats_random_search_and_past_tasks_help() -> None:
    """Mean log regret of 4 full trainings on the same tasks: at random, by the rule, and by the rule with a past."""
    families = SearchFamilies(Split.VALIDATION, without_past=0.0)
    found: dict[str, list[float]] = {"random": [], "rule": [], "rule with past": []}
    for seed in range(24):
        task = families.task(seed)
        points = task.cube.sample(np.random.default_rng(seed), 4)
        best = min(points, key=lambda point: np.nan_to_num(task.curve(point, 0)[-1], nan=np.inf))
        found["random"].append(task.regret(best))
        found["rule with past"].append(played(SearchEnv(task, budget=4), seed)[1]["regret"])
        task.past = None
        found["rule"].append(played(SearchEnv(task, budget=4), seed)[1]["regret"])
    mean = {who: np.log(np.array(regrets) + FLOOR).mean() for who, regrets in found.items()}
    assert mean["rule with past"] < mean["rule"] - 0.1
    assert mean["rule"] < mean["random"] - 0.3


def test_splits_share_nothing_and_a_task_follows_from_its_seed() -> None:
    first, again = (SearchFamilies(Split.TRAIN).task(5) for _ in range(2))
    points = first.cube.sample(np.random.default_rng(0), 5)
    assert np.array_equal(first.curve(points[0], 3), again.curve(points[0], 3), equal_nan=True)
    other = SearchFamilies(Split.HELD_OUT).task(5)
    assert other.cube.dimensions != first.cube.dimensions or other.regret(points[0]) != first.regret(points[0])


def test_a_regret_of_one_is_the_median_and_none_is_negative() -> None:
    families = SearchFamilies()
    for seed in range(8):
        task = families.task(seed)
        points = task.cube.sample(np.random.default_rng(seed), 300)
        regrets = np.array([task.regret(point) for point in points])
        failed = np.array([np.isnan(task.curve(point, 0)[-1]) for point in points])
        assert regrets.min() >= 0
        assert 0.7 < np.median(regrets[~failed]) < 2.0


def test_in_some_families_most_of_the_space_is_at_chance() -> None:
    """There values differ by next to nothing, at all rungs, and what learns begins at chance."""
    at_chance, learners = [], 0
    for seed in range(40):
        task = SearchFamilies().task(seed)
        points = task.cube.sample(np.random.default_rng(seed), 100)
        regrets = np.array([task.regret(point) for point in points])
        share = float((regrets == 1).mean())
        at_chance.append(share)
        if share > 0.3:
            curves = np.array([task.curve(point, 0) for point in points[regrets == 1]])
            learns = np.array([task.curve(point, 0) for point in points[regrets < 0.5]]).reshape(-1, len(task.rungs))
            spread, learners = np.ptp(curves), learners + len(learns)
            assert all(spread < 0.2 * (curves.mean() - each[-1]) for each in learns)
    assert learners > 10
    assert 0.1 < np.mean(np.array(at_chance) > 0.3) < 0.4
    assert np.mean(np.array(at_chance) == 0) > 0.6


class Spike:
    """A task whose space is at chance but for a ball, about a twentieth of it."""

    rungs = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    past = None
    cube = ColumnCube([1] * 4)

    def __init__(self, seed: int) -> None:
        self.centre = np.random.default_rng(seed).random(4)

    def regret(self, point: np.ndarray) -> float:
        return float(min(np.sqrt(((point - self.centre) ** 2).mean()) / 0.22, 1.0))

    def curve(self, point: np.ndarray, seed: int) -> np.ndarray:
        learnt = (1 - self.regret(point)) * np.sqrt(self.rungs)
        return 1 - learnt + 1e-4 * np.random.default_rng(seed).normal(size=len(self.rungs))


def test_who_leaves_chance_is_asked_for_its_neighbours() -> None:
    """What is at chance does not go on instead, and what is found beside the first one that learns is much better."""
    regrets = [played(SearchEnv(Spike(seed), budget=10), seed)[1]["regret"] for seed in range(12)]
    assert np.mean(regrets) < 0.45


@pytest.mark.parametrize(("units", "rungs"), [(1, (1,)), (4, (1, 2, 4)), (52, (3, 6, 13, 26, 52))])
def test_rungs_are_about_powers_of_two(units: int, rungs: tuple[int, ...]) -> None:
    assert rung_units(units) == rungs


def test_a_long_search_forgets_and_goes_on() -> None:
    state = SearchState(ColumnCube([1, 1]), (0.25, 1.0), budget=1e6)
    random = np.random.default_rng(0)
    for number in range(400):
        point = random.random(2)
        state.start(number, point)
        state.learn(number, float(((point - 0.5) ** 2).sum()))
    kept = sum(len(each.values) for each in state.trials.values())
    assert MOST // 2 < kept <= MOST
    assert state.incumbent in state.trials
    assert state.best == min(each.values[0] for each in state.trials.values())
    assert state.moves().possible.all()


@pytest.mark.parametrize("part", [False, True])
def test_a_training_that_repeats_another_one_does_not_go_on(part: bool) -> None:
    """A hyperparameter without effect gives the same values again; of a coarse metric, equal values soon part."""
    state = SearchState(ColumnCube([1, 1]), (0.25, 0.5, 1.0), budget=50, finishing=True)
    random = np.random.default_rng(0)
    for number in range(24):  # more than the trials that it begins with
        state.start(number, random.random(2))
        state.learn(number, 0.5 if number in (3, 7, 9) else 1 + number / 100)
    before = state.moves()
    assert {3, 7, 9} <= set(before.trials[before.possible[: len(before.trials)]])
    for number in (7, 3):
        state.resume(number)
        state.learn(number, 0.4 + 0.01 * number if part else 0.4)
    after = state.moves()
    offered = set(after.trials[after.possible[: len(after.trials)]])
    # The one that begun first stands for all of them.
    assert {3, 7, 9} & offered == ({3, 7, 9} if part else {3})
    assert len(offered) > 5


def test_what_can_still_be_finished_is_not_forgotten() -> None:
    """Many are better, but what is left of the budget finishes none of them."""
    state = SearchState(ColumnCube([1]), (0.1, 0.5, 1.0), budget=1.0, finishing=True)
    for number in range(2 * MOST):
        state.start(number, np.array([number / (2 * MOST)]))
        state.budget = state.spent + 0.1 + 0.55
        state.learn(number, number / 100 if number else 10.0)
        if not number:
            state.resume(0)
            state.learn(0, 10.0)
    assert len(state.trials) <= MOST
    moves = state.moves()
    assert set(moves.trials[: moves.possible.sum()]) == {0}


def test_without_past_tasks_it_begins_in_the_middle_and_at_random_and_continues_nothing() -> None:
    state = SearchState(ColumnCube([1, 3]), (0.5, 1.0), budget=5, seed=3)
    begun = []
    for number in range(5):
        moves = state.moves()
        assert moves.possible.sum() == 1
        assert moves.trials[0] == -1
        begun.append(moves.points[0])
        state.start(number, moves.points[0])
        state.learn(number, float(number))
    assert begun[0][0] == 0.5
    assert sorted(begun[0][1:]) == [0, 0, 1]
    assert len({point[0] for point in begun}) == 5
    moves = state.moves()
    assert (moves.trials[: len(moves.points)] == -1).any()
    assert (moves.trials >= 0).any()


@pytest.mark.parametrize(
    ("dimensions", "rung", "budget", "expected"),
    [
        (7, 1 / 16, 4, 17),  # so many a dimension
        (2, 1 / 16, 4, 5),  # never fewer
        (2, 1 / 16, 25, 20),  # where they cost next to nothing
        (40, 1 / 16, 25, 20),  # never more
        (7, 1.0, 25, 10),  # no more than two fifths of a budget
        (7, 1 / 8, 1, 8),  # or one full training
    ],
)
def test_how_many_begin_at_random_follows_from_dimensions_and_costs(
    dimensions: int, rung: float, budget: float, expected: int
) -> None:
    state = SearchState(ColumnCube([1] * dimensions), tuple(sorted({rung, 1.0})), budget)
    for number in range(expected):
        assert state.designs
        state.start(number, state.moves().points[0])
        state.learn(number, 1.0 / (number + 1))
    assert not state.designs


def test_where_all_are_at_chance_others_are_begun_for_a_quarter_of_the_budget() -> None:
    """Until one is better: that one goes on, and what is at chance does not before."""

    def begun(better_from: int) -> int:
        state = SearchState(ColumnCube([1, 1]), (0.0625, 1.0), 4, seed=0)
        for number in range(40):
            moves = state.moves()
            if (moves.trials >= 0).any():
                return number
            state.start(number, moves.points[0])
            state.learn(number, 2.3026 if number < better_from else 2.1)
        return 40

    assert begun(better_from=40) == 16
    assert begun(better_from=7) == 8
    assert begun(better_from=2) == 5


def test_what_gave_a_number_may_all_fail_later() -> None:
    state = SearchState(ColumnCube([1, 1]), (0.25, 1.0), 20, seed=0)
    for number in range(5):
        state.start(number, state.moves().points[0])
        state.learn(number, 1.0)
        state.fail(number)
    assert state.moves().possible.any()
    for number in range(5):
        state.drop(number)
    assert state.moves().possible.any()


@pytest.mark.parametrize("with_past", [False, True])
def test_where_everything_fails_it_never_tries_the_same_again(with_past: bool) -> None:
    cube, random = ColumnCube([1, 1]), np.random.default_rng(99)
    points = cube.sample(random, 30)
    past = PastTasks([History(points, ((points - 0.3) ** 2).sum(1, keepdims=True))]) if with_past else None
    state = SearchState(cube, (0.5, 1.0) if past is None else (1.0,), budget=30, past=past)
    tried = set()
    for number in range(12):
        moves = state.moves()
        worth = np.where(moves.possible, moves.features[:, FEATURES.index("log_worth")], -np.inf)
        point = moves.points[int(worth.argmax())]
        tried.add(tuple(point))
        state.start(number, point)
        state.learn(number, np.inf)
    assert len(tried) == 12


def test_what_was_tried_is_not_offered_again_and_the_pool_does_not_run_dry() -> None:
    state, random, seen = SearchState(ColumnCube([1, 1]), (1.0,), budget=1e6, seed=1), np.random.default_rng(5), set()
    for number in range(300):
        moves = state.moves()
        point = moves.points[int(random.choice(np.flatnonzero(moves.possible)))]
        assert tuple(point) not in seen
        seen.add(tuple(point))
        # Where configurations lie on a grid, what is tried is not quite what was offered.
        state.start(number, point.round(1), point)
        state.learn(number, float(point.sum()))


def test_where_the_best_is_in_a_corner_it_is_offered() -> None:
    random = np.random.default_rng(0)
    state = SearchState(ColumnCube([1] * 5), (1.0,), budget=40)
    best = []
    for number in range(26):
        if number < 20:
            point = random.random(5)
        else:
            moves = state.moves()
            point = moves.points[np.argmin(np.where(moves.trials < 0, moves.points.sum(1), np.inf))]
        state.start(number, point)
        state.learn(number, float(point.sum()))
        best.append(state.best)
    assert best[19] > 0.5  # at random
    assert best[-1] < 0.1
    assert (point == 0.0).sum() >= 3


@pytest.mark.parametrize("space", [{"x": FloatDistribution(0, 1)}, {"x": FloatDistribution(1e-6, 1e-2, log=True)}])
def test_the_end_of_a_range_is_tried_once(space: dict[str, FloatDistribution]) -> None:
    cube = UnitCube(space)
    state, seen = SearchState(cube, (1.0,), budget=30), []
    for number in range(30):
        moves = state.moves()
        drawn = moves.points[np.argmax(np.where(moves.trials < 0, moves.points[:, 0], -1))]
        config = cube.decode(drawn)  # of the end Optuna makes the number before it
        state.start(number, cube.encode([config])[0], drawn)
        state.learn(number, -float(config["x"]))
        seen.append(config["x"])
    assert len(set(seen)) == 30
    assert max(seen) > 0.999 * space["x"].high


def test_what_runs_has_failed_or_was_stopped_is_not_continued() -> None:
    state = SearchState(ColumnCube([1]), (0.5, 1.0), budget=10)
    for number, value in enumerate([1.0, 2.0, 3.0, np.inf, np.inf]):
        state.start(number, np.array([0.2 * number]))
        state.learn(number, value)
    state.resume(1)
    state.stop(2)
    moves = state.moves()
    assert set(moves.trials[moves.trials >= 0]) == {0}
    state.fail(0)
    assert (state.moves().trials < 0).all()


@pytest.mark.parametrize(("gain", "std"), [(0.5, 0.2), (-0.3, 0.4), (-2.0, 0.3), (0.0, 1.0)])
def test_expected_improvement_is_its_integral(gain: float, std: float) -> None:
    theory, _ = quad(lambda z: max(0.0, gain + std * z) * norm.pdf(z), -9, 9, points=[-gain / std], limit=200)
    found = log_expected_improvement(np.array([gain]), np.array([std]))[0]
    assert found == pytest.approx(np.log(theory), rel=1e-4)


def test_expected_improvement_falls_on_far_below() -> None:
    found = log_expected_improvement(np.linspace(0, -60, 200), np.ones(200))
    assert np.isfinite(found).all() and (np.diff(found) < 0).all()


def test_a_budget_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="above 0"):
        SearchEnv(budget=0)


def test_what_is_no_move_or_option_is_refused() -> None:
    env = SearchEnv(budget=2)
    with pytest.raises(ConfigurationError, match=r"call reset\(\) first"):
        env.step(np.int64(0))
    assert env.action_masks().all()
    for options in ({"bugdet": 3}, {"budget": -1}, {"budget": 0}, {"budget": math.nan}):
        with pytest.raises(ConfigurationError, match="expected"):
            env.reset(seed=0, options=options)
    with pytest.raises(ConfigurationError, match="budget above 0"):
        SearchEnv(budget=math.inf)
    env.reset(seed=0)
    for action in (-1, 32, 1.7, math.nan, np.array([3])):
        with pytest.raises(ConfigurationError, match="an action from 0 to 31"):
            env.step(action)  # type: ignore[arg-type]
    env.step(np.int64(0))
    # What stable-baselines3 predicts is an array without dimensions.
    env.step(np.array(0))  # type: ignore[arg-type]


def test_a_grid_is_exhausted_before_anything_is_tried_twice_however_much_is_forgotten() -> None:
    space = {"x": IntDistribution(0, 19), "y": IntDistribution(1, 8, log=True), "kind": CategoricalDistribution("ab")}
    cube = UnitCube(space)
    every = cube.every()
    assert every is not None
    assert len(every) == 320
    assert len({tuple(cube.decode(point).items()) for point in every}) == 320
    state, random = SearchState(cube, (1.0,), budget=1e6), np.random.default_rng(0)
    for number in range(320):
        moves = state.moves()
        state.start(number, moves.points[random.integers(np.count_nonzero(moves.possible))])
        state.learn(number, random.random())
    assert len(state.trials) < 320
    assert not state.moves().possible.any()
    assert UnitCube({"x": FloatDistribution(0, 1)}).every() is None
