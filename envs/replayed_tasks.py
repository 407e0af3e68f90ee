"""Past tasks to search once more: what a user's own history teaches a search policy.

A past task is replayed by what was learnt of it: the mean of its Gaussian process at every rung, and its noise (a
surrogate benchmark, Eggensperger et al. 2015, Efficient benchmarking of hyperparameter optimizers via surrogates). So a
policy may try any configuration, not only those that were tried.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError
from .past_tasks import PastTasks
from .unit_cube import Cube

Array = NDArray[np.float64]

_SAMPLE, _CLIMBS, _CLIMBERS = 1000, 4, 64


class ReplayedTask:
    """A past task, see `SearchTask`: values are regrets in units of the distance from the best to the median trial.

    Args:
        cube: The search space.
        rungs: Fractions of a full training after which a trial may pause.
        told: What is known of the task alone.
        past: What other past tasks say; None without any.
    """

    def __init__(self, cube: Cube, rungs: tuple[float, ...], told: PastTasks, past: PastTasks | None = None) -> None:
        self.rungs, self.past = rungs, past
        self._cube, self._told = cube, told
        self._noise, self._scale = float(told.noises[0]), float(told.scales[0])
        self._best = self._least(np.random.default_rng(0))

    @property
    def cube(self) -> Cube:
        """The search space."""
        return self._cube

    def curve(self, point: Array, seed: int) -> Array:
        """Values of a training in the metric's unit, see `SearchTask`."""
        own, rungs = np.random.default_rng(seed).normal(size=(2, len(self.rungs)))
        # Half of the noise is the training's own, the other half each value's.
        noise = self._noise * np.sqrt(0.5) * (own[0] + rungs)
        found: Array = self._scale * (self._told.expected(point[None])[0, 0] + noise)
        return found

    def regret(self, point: Array) -> float:
        """Of a full training, see `SearchTask`."""
        return max(float(self._told.expected(point[None])[0, 0, -1]) - self._best, 0.0)

    def _least(self, random: np.random.Generator) -> float:
        """The best value there is, found by adjusting the best of many."""
        points = np.concatenate([self.cube.filled(random, self._told.best), self.cube.sample(random, _SAMPLE)])
        values = self._told.expected(points)[0, :, -1]
        for _ in range(_CLIMBS):
            top = points[np.argsort(values)[:_CLIMBERS]]
            moved = self.cube.near(random, top)
            points, values = (
                np.concatenate([top, moved]),
                np.concatenate([np.sort(values)[:_CLIMBERS], self._told.expected(moved)[0, :, -1]]),
            )
        return float(values.min())


class ReplayedTasks:
    """Draws past tasks to search, each with some of the others for its past.

    Args:
        cube: The search space.
        rungs: Fractions of a full training after which a trial may pause.
        tasks: Past tasks, T of them.
        searched: Places of those that are drawn; None draws any.
        known: Places of those that are told, where it is not the one that is searched; None tells of any.
        without_past: Share of the searches that are told of none.

    Raises:
        ConfigurationError: There is none to search.
    """

    def __init__(
        self,
        cube: Cube,
        rungs: tuple[float, ...],
        tasks: PastTasks,
        *,
        searched: Sequence[int] | None = None,
        known: Sequence[int] | None = None,
        without_past: float = 0.3,
    ) -> None:
        self.searched = list(range(len(tasks)) if searched is None else searched)
        self._known = list(range(len(tasks)) if known is None else known)
        if not self.searched:
            raise ConfigurationError("expected at least one past task to search, got none")
        self._cube, self._rungs, self._tasks, self._without_past = cube, rungs, tasks, without_past
        self._replayed: dict[int, ReplayedTask] = {}

    def task(self, seed: int) -> ReplayedTask:
        """The task of a seed: any of them, with any number of others known."""
        random = np.random.default_rng(seed)
        target = int(random.choice(self.searched))
        others = [place for place in self._known if place != target]
        if not others or random.random() < self._without_past:
            return self.replay(target)
        # Small pasts are as frequent as large ones.
        count = int(np.exp(random.uniform(0, np.log(len(others) + 1))))
        return self.replay(target, random.permutation(others)[:count].tolist())

    def replay(self, place: int, known: Sequence[int] = ()) -> ReplayedTask:
        """A past task, by its place, with these others known."""
        if place not in self._replayed:
            self._replayed[place] = ReplayedTask(self._cube, self._rungs, self._tasks.only([place]))
        task = copy.copy(self._replayed[place])
        task.past = self._tasks.only(known) if known else None
        return task
