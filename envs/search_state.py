"""A search as its policy sees it: what was tried, what may be tried next, and what is told of each such move."""

from __future__ import annotations

import math
from collections.abc import Set

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from .climb import climbed, without
from .doubt import DoubtingSurrogate
from .past_tasks import PastTasks
from .repetitions import Repetitions
from .search_moves import CONTEXT, FEATURES, MOVES, Moves, log_expected_improvement, log_worth, shortlist
from .search_trial import SearchTrial
from .surrogate import MOST, Observed, Queried, Surrogate
from .unit_cube import Cube

Array = NDArray[np.float64]

_POOL, _ADJUSTED, _INCUMBENTS = 256, 48, 3
_BEGUN_AT = 3  # one in so many points of the pool is looked at to begin with: all would take as long as the rest
_REFILLED = 32  # points that come into the pool together, where so many were taken
_DESIGN = 5, 20  # least and most trials that are started before any goes on, where no past task tells where to begin
_DESIGN_OF_DIMENSION = 2.5  # between: so many a dimension (each value of a choice is one),
_DESIGN_COSTS = 0.05, 0.4  # or for so little of the budget; and for no more of it
_ALIKE, _ALIKE_OF_BUDGET = 1e-3, 0.25  # share of a value that makes no difference, and of the budget for such designs
_HOPELESS = 2  # trials that fail where past tasks promised much: then they are not asked where to begin
_TEST = 0.26  # of the budget: what it may cost to try something that past tasks do not praise
_SAME = 1e-9  # in widths of a range: what encoding and decoding a configuration may change


def rung_units(units: int) -> tuple[int, ...]:
    """Units of budget after which a trial may pause: about a sixteenth, eighth, quarter and half of a full training."""
    return tuple(sorted({max(1, round(units / part)) for part in (16, 8, 4, 2, 1)}))


class SearchState:
    """What a search knows.

    Args:
        cube: The search space.
        rungs: Fractions of a full training after which a trial may pause, ascending, the last one 1.
        budget: Full trainings that may be spent.
        past: What past tasks say; None without any.
        seed: Moves are drawn from it.
        finishing: Whether the best trial must be trained to its end before the budget is: then only those moves are
            possible after which it still can.

    Attributes:
        again: Whether a point may be tried again, since configurations have more to them than the cube knows.
        failure: Full trainings that a trial may cost which fails at once: so much must be left beside what is to be
            finished.
    """

    def __init__(
        self,
        cube: Cube,
        rungs: tuple[float, ...],
        budget: float,
        past: PastTasks | None = None,
        seed: int = 0,
        *,
        finishing: bool = False,
    ) -> None:
        self.cube, self.rungs, self.budget, self.past = cube, rungs, budget, past
        self.trials: dict[int, SearchTrial] = {}
        self.spent = 0.0
        self.best = math.inf
        self.incumbent = -1
        self.again, self.failure = False, 0.0
        self._finishing = finishing
        self._costs = np.diff([0.0, *rungs])
        self._random, self._seed = np.random.default_rng(seed), seed
        self._moves = self._improved = self._count = 0
        self._tried: set[bytes] = set()  # also what `_forget` has dropped
        self._best_expected: Array | None = None
        self._repetitions = Repetitions()
        pool = cube.sample(self._random, _POOL)
        if past is not None:
            # What no past task knows is left in the middle by half of them: what they know then decides.
            half = _POOL // 2
            pool[:half] = cube.filled(self._random, np.where(past.known, pool[:half], np.nan))
        self._middle = cube.middle(self._random)
        first = self._middle if past is None else cube.filled(self._random, past.best)
        self._fixed = {each.tobytes() for each in cube.snapped(np.concatenate([self._middle, first]))}
        self._pool = np.concatenate([first, pool])
        self._pool_expected = None if past is None else past.expected(self._pool)
        if past is None or self._pool_expected is None:
            self._surrogate: Surrogate | DoubtingSurrogate = Surrogate(rungs, None, seed)
        else:
            self._surrogate = DoubtingSurrogate(
                rungs, past.scales, self._pool_expected.mean(1), doubt=past.doubt, budget=budget, seed=seed
            )

    def start(self, number: int, point: Array, drawn: Array | None = None) -> SearchTrial:
        """A trial begins.

        Args:
            number: Its number.
            point: Its configuration, shape (d,).
            drawn: The move's point, where the configuration is the nearest one on a grid: neither is offered again.
        """
        expected = None if self.past is None else self.past.expected(point[None])[:, 0]
        self._tried |= {each.tobytes() for each in self.cube.snapped(point[None])}
        trial = SearchTrial(number, point, expected, running=True)
        self.trials[number] = trial
        self._take_from_pool(point if drawn is None else drawn)
        self._count += 1
        return trial

    def move(self, number: int, point: Array) -> None:
        """A trial turns out to have another configuration than it was started with, at a point, shape (d,)."""
        trial = self.trials[number]
        trial.point = point
        trial.expected = None if self.past is None else self.past.expected(point[None])[:, 0]
        self._tried |= {each.tobytes() for each in self.cube.snapped(point[None])}

    def resume(self, number: int) -> None:
        """A paused trial goes on."""
        self.trials[number].running = True

    def learn(self, number: int, value: float) -> None:
        """A trial has reached its next rung, with a value to be minimised; one that is infinite says that it failed."""
        trial = self.trials[number]
        trial.running = False
        self.spent += float(self._costs[len(trial.values)])
        self._moves += 1
        trial.touched = self._moves
        trial.values.append(value if math.isfinite(value) else math.inf)
        self._repetitions.learn(trial.values, {n: each.values for n, each in self.trials.items() if n != number})
        if trial.expected is not None:
            tried = trial.expected[:, -1]
            self._best_expected = tried if self._best_expected is None else np.minimum(self._best_expected, tried)
        if value < self.best:
            self.best, self.incumbent, self._improved = value, number, self._moves
        self._forget()

    def stop(self, number: int) -> None:
        """A trial cannot go on."""
        self.trials[number].stopped = True

    def fail(self, number: int) -> None:
        """A trial has failed: whatever it was at its last rung, it is bad."""
        trial = self.trials[number]
        trial.running, trial.stopped = False, True
        if trial.values:
            trial.values[-1] = math.inf
        else:
            self.learn(number, math.inf)

    def moves(self) -> Moves:
        """What may be done next; none is possible where the budget cannot pay for any."""
        left = self._left
        repeating = self._repetitions.among({number: each.values for number, each in self.trials.items()})
        to_finish = self._to_finish(left, repeating) if self._finishing else None
        free = left if to_finish is None else left - self._to_go(to_finish)
        paused = [
            each
            for each in self.trials.values()
            if each.may_go_on(len(self.rungs))
            and each.number not in repeating
            and self._costs[len(each.values)] <= (left if each is to_finish else free)
        ]
        finished = any(len(each.values) == len(self.rungs) for each in self.trials.values())
        # Where there is nothing to finish, it is the new trial.
        start = 1.0 if self._finishing and to_finish is None and not finished else self._costs[0]
        start = start if to_finish is None else max(start, self.failure)
        starts, expected = self._starts() if start <= free else (np.empty((0, self.cube.dimensions)), None)
        designing = self.designs or self.tests
        fitted = self._fit()
        if designing and len(starts):
            paused = []
        elif fitted and len(starts) and (self.past is None or not self.believes):
            starts, expected = self._with_better(starts, expected)
        points = np.concatenate([starts, *(each.point[None] for each in paused)])
        trials = np.array([-1] * len(starts) + [each.number for each in paused], dtype=np.int64)
        if self.past is not None:
            told = [each.expected[:, None] for each in paused if each.expected is not None]
            expected = (
                np.concatenate([*([] if expected is None else [expected]), *told], axis=1) if len(points) else None
            )
        if not len(points):
            return self._padded(np.empty((0, len(FEATURES))), points, trials, None, np.empty((0, 2)))
        features, foretold = self._features(points, trials, expected, fitted)
        kept = shortlist(features)
        told_of_kept = None if expected is None else expected[:, kept]
        return self._padded(features[kept], points[kept], trials[kept], told_of_kept, foretold[kept])

    @property
    def is_exhausted(self) -> bool:
        """Whether every point that there is has been tried, and none is worth to be tried again."""
        every = self.cube.every()
        return every is not None and not len(self._untried(every))

    @property
    def _left(self) -> float:
        """Full trainings that nothing is spent on yet."""
        return self.budget - self.spent - self.in_flight + 1e-9

    def _to_finish(self, left: float, repeating: Set[int] = frozenset()) -> SearchTrial | None:
        """The best trial that can be paid for to its end; None where a finished one is as good."""
        rungs = len(self.rungs)
        begun = [
            each
            for each in self.trials.values()
            if each.values
            and (each.may_go_on(rungs) or each.running)
            and each.number not in repeating
            and self._to_go(each) <= left
        ]
        finished = [each.values[-1] for each in self.trials.values() if len(each.values) == rungs]
        best = min(begun, key=lambda each: each.values[-1], default=None)
        return None if best is None or min(finished, default=math.inf) <= best.values[-1] else best

    def _to_go(self, trial: SearchTrial) -> float:
        """Full trainings that a trial costs to its end, beyond what is in flight."""
        return 1.0 - self.rungs[len(trial.values) - 1 + trial.running]

    @property
    def in_flight(self) -> float:
        """Full trainings that those trials which run cost up to their next rungs: workers run some side by side."""
        running = [len(each.values) for each in self.trials.values() if each.running]
        return float(self._costs[running].sum())

    @property
    def knows(self) -> bool:
        """Whether a trial has given a number, and has not failed since."""
        return any(each.values and not each.failed for each in self.trials.values())

    @property
    def believes(self) -> bool:
        """Whether past tasks have a say, if there are any."""
        return self._surrogate.believes

    @property
    def designs(self) -> bool:
        """Whether it is too early to be clever: trials are started in the middle of the space and at random."""
        if self.past is None:
            return self._count < self._design_size or not self.knows or self._all_alike
        if self.knows:
            # Without past tasks, as long as they are doubted, the search begins as one that has none.
            return not self.believes and self._count <= self._design_size
        return sum(each.failed for each in self.trials.values()) >= _HOPELESS

    @property
    def _design_size(self) -> int:
        """Trials to start in the middle of the space and at random: with few, a search stays where it began.

        More where the space has more dimensions, or where they cost next to nothing; fewer where they cost too much of
        the budget, of which one full training may be spent in any case.
        """
        (least, most), (little, much) = _DESIGN, _DESIGN_COSTS
        wanted = max(_DESIGN_OF_DIMENSION * self.cube.dimensions, little * self.budget / self.rungs[0])
        paid = max(much * self.budget, 1.0) / self.rungs[0]
        return int(np.clip(min(wanted, paid), least, most))

    @property
    def _all_alike(self) -> bool:
        """Whether all are about as good so far, such as at chance: to train them further would be a lottery."""
        if self.spent >= _ALIKE_OF_BUDGET * self.budget:
            return False
        values = [value for each in self.trials.values() for value in each.values if math.isfinite(value)]
        if not values:
            return False  # what was known has failed later, or was cut off
        usual = float(np.quantile(values, 0.75))  # some may have diverged
        return usual - min(values) <= _ALIKE * abs(usual)

    @property
    def tests(self) -> bool:
        """Whether past tasks are put to the test: by the middle of the space, where a search without them begins."""
        if self.past is None or self._count != 1 or not self.knows:
            return False
        return bool(self._costs[0] <= _TEST * self.budget)

    def _starts(self) -> tuple[Array, Array | None]:
        """Points to start from, with what past tasks say: at random, the best of past tasks, adjusted incumbents."""
        if self.tests and self.past is not None and len(middle := self._untried(self._middle)):
            return middle, self.past.expected(middle)
        if self.designs:
            # The middle comes first; with past tasks, what they praise does, and it is no use.
            drawn = slice(1) if self._pool_expected is None else slice(-1, None)
            return self._pool[drawn], None if self._pool_expected is None else self._pool_expected[:, drawn]
        incumbents = sorted(self.trials.values(), key=lambda each: (-len(each.values), min(each.values, default=0)))
        incumbents = [each for each in incumbents if each.values and not each.failed]
        by_value = sorted(incumbents, key=lambda each: each.values[-1])[:_INCUMBENTS]
        if not by_value:
            return self._pool, self._pool_expected
        parents = np.stack([by_value[i % len(by_value)].point for i in range(_ADJUSTED)])
        adjusted = self._untried(self.cube.near(self._random, parents, to_ends=True))
        points = np.concatenate([self._pool, adjusted])
        if self.past is None:
            return points, None
        assert self._pool_expected is not None
        return points, np.concatenate([self._pool_expected, self.past.expected(adjusted)], axis=1)

    def _with_better(self, points: Array, expected: Array | None) -> tuple[Array, Array | None]:
        """Some points, and those that were found to promise more beside the most promising of them."""
        own = len(self._pool)
        begun = np.concatenate([points[:own:_BEGUN_AT], points[own:]])
        best = without(self.cube, climbed(begun, self._promise, self.cube, self._random, self._untried), points)
        if self.past is None or expected is None:
            return np.concatenate([points, best]), None
        return np.concatenate([points, best]), np.concatenate([expected, self.past.expected(best)], axis=1)

    def _promise(self, points: Array) -> Array:
        """Logarithm of how much full trainings of new trials are expected to improve on the best one, shape (n,).

        Past tasks have no say in it.
        """
        n = len(points)
        mean, std = self._surrogate.foretell_ends(Queried(points, np.full(n, -1), np.zeros(n, np.int64)))
        return log_expected_improvement(self._incumbent_mean - mean, std)

    def _take_from_pool(self, point: Array) -> None:
        """What is tried is not offered again, and others come in its place now and then."""
        kept = (np.abs(self._pool - point) > _SAME).any(1)
        self._pool = self._pool[kept]
        self._pool_expected = None if self._pool_expected is None else self._pool_expected[:, kept]
        if len(self._pool) < _POOL - _REFILLED:
            fresh = self._fresh()
            self._pool = np.concatenate([self._pool, fresh])
            if self.past is not None and self._pool_expected is not None:
                self._pool_expected = np.concatenate([self._pool_expected, self.past.expected(fresh)], axis=1)

    def _fresh(self) -> Array:
        """More points for the pool: at random, or what is left of a space that has been tried for the most part."""
        fresh = self._untried(self.cube.sample(self._random, _REFILLED))
        every = self.cube.every() if len(fresh) < _REFILLED // 2 else None
        if every is None:
            return fresh
        offered = {each.tobytes() for each in self.cube.snapped(self._pool)}
        left = self._untried(every, offered)
        found: Array = left[self._random.permutation(len(left))[:_POOL]]
        return found

    def _untried(self, points: Array, offered: Set[bytes] = frozenset()) -> Array:
        """Those of points (n, d) where no trial has begun, shape (m, d), but none that is offered already."""
        names = [each.tobytes() for each in self.cube.snapped(points)]
        tried: Set[bytes] = frozenset() if self.again else self._tried
        return points[[name not in tried and name not in offered for name in names]]

    def is_tried(self, point: Array) -> bool:
        """Whether a trial has begun at a point, shape (d,)."""
        return not self.again and self.cube.snapped(point[None])[0].tobytes() in self._tried

    def may_meet(self, point: Array) -> bool:
        """Whether another search of the same space may choose exactly this point, shape (d,), by another chance."""
        return self.cube.is_grid or self.cube.snapped(point[None])[0].tobytes() in self._fixed

    def drop(self, number: int) -> None:
        """Nothing is known of a trial: it was cut off, and whoever tries it again is another one."""
        self.trials.pop(number, None)

    def reseed(self, number: int) -> None:
        """What is drawn from here on follows from the seed and this number, whoever draws it."""
        self._random = np.random.default_rng([self._seed, number])

    def _features(
        self, points: Array, trials: NDArray[np.int64], expected: Array | None, fitted: bool
    ) -> tuple[Array, Array]:
        """Features of n moves, shape (n, len(FEATURES)), and what is foretold of them, shape (n, 2)."""
        n = len(points)
        means = np.full((n, 2), np.nan)
        reached = np.array([len(self.trials[t].values) if t >= 0 else 0 for t in trials])
        costs = self._costs[reached]
        to_rungs = np.array(self.rungs) - np.array([0.0, *self.rungs])[reached, None]
        column = dict.fromkeys(FEATURES, np.zeros(n))
        seen = [each for each in self.trials.values() if each.values]
        if fitted:
            foretold = self._surrogate.foretell(Queried(points, trials, reached, expected))
            gain, told = self._incumbent_mean - foretold.mean, foretold.told[np.arange(n), reached]
            means = np.stack([gain, foretold.std], axis=1)
            column |= {
                "log_improvement": log_expected_improvement(gain, told),
                "log_final_improvement": log_expected_improvement(gain, foretold.std),
                "log_worth": log_worth(gain, foretold, to_rungs),
                "mean_gain": gain / 0.3,
                "std": np.log(foretold.std / 0.3),
                "told_share": told / foretold.std,
            }
        elif expected is not None:
            # Nothing has worked yet: what past tasks agree on.
            gain = 1.0 - expected[..., -1]
            means = np.stack([gain.mean(0), gain.std(0)], axis=1)
            agreed = np.log(np.maximum(gain, 0.01).mean(0))
            column |= {"mean_gain": gain.mean(0)}
            column |= dict.fromkeys(("log_improvement", "log_final_improvement", "log_worth"), agreed)
        if self.past is not None and expected is not None and self.believes:
            before = np.ones(len(expected)) if self._best_expected is None else self._best_expected
            column |= {
                "prior_mean": expected[..., -1].mean(0) - before.mean(),
                "prior_std": expected[..., -1].std(0),
                # What a static portfolio would gain, had it tried what was tried (Xu et al. 2010, Hydra).
                "prior_gain": np.log(0.01 + np.maximum(before[:, None] - expected[..., -1], 0).mean(0)) + 3,
            }
        column |= self._of_trials(points, trials, seen)
        left = max(self.budget - self.spent, 1e-9)
        column |= {
            "possible": np.ones(n),
            "continues": (trials >= 0).astype(float),
            "cost": np.log2(costs) / 2 + 1,
            "cost_of_budget_left": costs / left,
            "cost_to_finish": (1 - np.array([0.0, *self.rungs])[reached]) / left,
            "rung": reached / len(self.rungs),
        }
        features = np.stack([column[name] for name in FEATURES], axis=1)
        # Worth is told against the best move's: that is what a choice among them needs.
        for name in ("log_worth", "log_improvement", "log_final_improvement"):
            at = FEATURES.index(name)
            features[:, at] = np.maximum(features[:, at] - features[:, at].max(), -20) / 4
        return np.clip(features, -5, 5), means

    def _fit(self) -> bool:
        """Lets the surrogate learn from all values; returns whether there are any of trials that have not failed."""
        seen = [each for each in self.trials.values() if each.values]
        own = [each for each in seen if not each.failed]
        if not own:
            return False
        pairs = [(each, rung) for each in seen for rung in range(len(each.values))]
        expected = None
        if self.past is not None:
            expected = np.stack([each.expected[:, rung] for each, rung in pairs if each.expected is not None], axis=1)
        observed = Observed(
            np.stack([each.point for each, _ in pairs]),
            np.array([rung for _, rung in pairs]),
            np.array([each.number for each, _ in pairs]),
            np.array([each.values[rung] for each, rung in pairs]),
            expected,
            self.spent,
        )
        self._surrogate.fit(observed)
        there = None if self.past is None else np.stack([e.expected for e in own if e.expected is not None], axis=1)
        last = len(self.rungs) - 1
        means, _ = self._surrogate.foretell_ends(
            Queried(
                np.stack([each.point for each in own]),
                np.array([each.number for each in own]),
                np.array([min(len(each.values), last) for each in own]),
                there,
            )
        )
        self._incumbent_mean = float(means.min())
        return True

    def _of_trials(self, points: Array, trials: NDArray[np.int64], seen: list[SearchTrial]) -> dict[str, Array]:
        n = len(points)
        rank, slope, age, adjusts = np.full(n, 0.5), np.zeros(n), np.zeros(n), np.zeros(n)
        for i, number in enumerate(trials):
            if number < 0:
                continue
            mine = self.trials[int(number)]
            rung = len(mine.values) - 1
            peers = np.array([each.values[rung] for each in seen if len(each.values) > rung])
            rank[i] = (peers < mine.values[rung]).mean()
            if rung:
                # The first one to get there has nobody to be compared with but where it comes from.
                before = np.array([each.values[rung - 1] for each in seen if len(each.values) >= rung])
                spread = next((wide for at in (peers, before) if (wide := np.ptp(at[np.isfinite(at)]))), math.inf)
                slope[i] = (mine.values[rung - 1] - mine.values[rung]) / spread
            age[i] = math.log1p(self._moves - mine.touched) / 2
        distance = np.ones(n)
        if seen:
            others = np.stack([each.point for each in seen])
            apart = cdist(points, others) / math.sqrt(points.shape[1])
            distance = np.where(trials >= 0, 0.0, apart.min(1))
            adjusts = (np.arange(n) >= len(self._pool)).astype(float) * (trials < 0)
        return {"rank": rank, "slope": slope, "age": age, "distance": 3 * distance, "adjusts": adjusts}

    def _padded(
        self, features: Array, points: Array, trials: NDArray[np.int64], expected: Array | None, foretold: Array
    ) -> Moves:
        n = len(features)
        padded = np.zeros((MOVES, len(FEATURES)), np.float32)
        padded[:n] = features
        paused = sum(each.may_go_on(len(self.rungs)) for each in self.trials.values())
        context = {
            "budget_left": math.log2(max(self.budget - self.spent, 0.03)) / 2,
            "budget_spent": self.spent / self.budget,
            "budget": math.log2(max(self.budget, 0.03)) / 2,
            "since_improvement": math.log1p(self._moves - self._improved) / 2,
            "trials": math.log1p(self._count) / 2,
            "paused": math.log1p(paused) / 2,
            "dimensions": math.log(self.cube.dimensions) / 2,
            "rungs": len(self.rungs) / 3,
            "tasks": math.log1p(0 if self.past is None else len(self.past)) / 2,
        }
        told = np.clip([context[name] for name in CONTEXT], -5, 5).astype(np.float32)
        return Moves(padded, told, points, trials, expected, foretold)

    def _forget(self) -> None:
        """What the surrogate would not look at is dropped: the oldest trials that are not among the best."""
        values = sum(len(each.values) for each in self.trials.values())
        if values <= MOST:
            return
        finished = [each for each in self.trials.values() if each.values and not each.running]
        best = {each.number for each in sorted(finished, key=lambda each: min(each.values))[: len(finished) // 2]}
        # The budget may be just enough for this one, and it need not be among the best, which may be out of reach.
        if self._finishing and (to_finish := self._to_finish(self._left)) is not None:
            best.add(to_finish.number)
        for each in sorted(finished, key=lambda each: each.touched):
            if values <= MOST * 5 // 6:
                return
            if each.number not in best:
                values -= len(each.values)
                del self.trials[each.number]
