"""Generated tasks to search: families of related functions with learning curves.

The tasks of a family share a search space and, in part, their shape: a random function that all have in common, a few
that each has its own share of, and bowls whose centres move from task to task. Values have a long bad tail, some
configurations fail, curves fall at rates of their own, and may cross or rise again. In a quarter of the families most
of the space learns nothing: its values stay at chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .families import Split
from .past_tasks import History, PastTasks
from .search_state import rung_units
from .unit_cube import ColumnCube

Array = NDArray[np.float64]

_WAVES = 64  # of a random function
_SAMPLE = 1000  # configurations that tell what is best, and what is usual
_CLIMBS = 8  # rounds of adjusting the best ones
_AT_CHANCE = 0.02  # part of noise and overfitting that is left where nothing is learnt
_UNITS = (1, 4, 10, 50)


@dataclass(frozen=True)
class _Waves:
    """Random functions of about unit variance: random Fourier features (Rahimi & Recht 2007), f of them."""

    frequencies: Array  # shape (d, w)
    phases: Array  # shape (w,)
    weights: Array  # shape (w, f)

    @classmethod
    def drawn(cls, random: np.random.Generator, relevance: Array, functions: int, roughness: float) -> _Waves:
        # Heavier than Gaussian tails: as rough as a Matern kernel's functions.
        frequencies = random.standard_t(5, (len(relevance), _WAVES)) * (roughness * relevance)[:, None]
        weights = random.normal(size=(_WAVES, functions)) * np.sqrt(2 / _WAVES)
        return cls(frequencies, random.uniform(0, 2 * np.pi, _WAVES), weights)

    def __call__(self, points: Array) -> Array:
        found: Array = np.cos(points @ self.frequencies + self.phases) @ self.weights
        return found


class GeneratedTask:
    """A task of a family, see `SearchTask`."""

    def __init__(self, family: _Family, random: np.random.Generator) -> None:
        self.cube, self.rungs, self.space = family.cube, family.rungs, family.space
        self.past: PastTasks | None = None
        self._family = family
        shares: Array = random.normal(size=family.shapes.weights.shape[1:])
        shares[0] = 0.0
        norm = np.sqrt((shares**2).sum()) or 1.0
        self._shares = np.sqrt(1 - family.kinship) * shares / norm
        self._shares[0] = np.sqrt(family.kinship)
        self._centres = family.centres + family.wander * random.normal(size=len(family.centres))
        self._unit = float(np.exp(random.normal(family.log_unit, family.unit_spread)))
        self._offset = random.normal(0, 5)
        self._limit = family.limit + 0.1 * random.normal()
        self._settle(random)

    def _settle(self, random: np.random.Generator) -> None:
        """What is best, and what is usual."""
        points = self.cube.sample(random, _SAMPLE)
        raw = self._raw(points)
        for _ in range(_CLIMBS):
            top = points[np.argsort(raw)[:64]]
            moved = self.cube.near(random, top)
            points, raw = np.concatenate([points, moved]), np.concatenate([raw, self._raw(moved)])
        usable = raw[:_SAMPLE][np.isfinite(raw[:_SAMPLE])]
        self._best = float(raw.min())
        # Where most learn nothing, chance is what is usual.
        part = min(self._family.learning, 0.5)
        self._usual = float(np.quantile(usable, part)) if len(usable) else self._best + 1.0
        self._usual = max(self._usual, self._best + 1e-9)

    def _raw(self, points: Array) -> Array:
        family = self._family
        bowls = ((points[:, : len(self._centres)] - self._centres) ** 2) @ family.steepness
        shape = family.shapes(points) @ self._shares + bowls
        with np.errstate(over="ignore"):  # what is as bad as that fails
            found: Array = np.exp(family.tail * shape)
        found[points[:, family.dangerous] > self._limit] = np.inf
        return found

    def regret(self, point: Array) -> float:
        """Of a full training, see `SearchTask`."""
        # What is best was found by climbing: a search may do a little better.
        return float(np.clip(self._final(point[None])[0], 0.0, 50.0))

    def _final(self, points: Array) -> Array:
        """Regrets of full trainings, shape (n,); infinite where they fail."""
        final: Array = (self._raw(points) - self._best) / (self._usual - self._best)
        learns_nothing = np.isfinite(final) & (final > 1) & (self._family.learning < 1)
        return np.where(learns_nothing, 1.0, final)

    def curve(self, point: Array, seed: int) -> Array:
        """Values of a training, see `SearchTask`."""
        found: Array = self.curves(point[None], np.random.default_rng(seed))[0]
        return found

    def curves(self, points: Array, random: np.random.Generator) -> Array:
        """Of several trainings, shape (n, R)."""
        family, rungs = self._family, np.array(self.rungs)
        final = self._final(points)
        failed = ~np.isfinite(final)
        final = np.where(failed, 0.0, final)
        rate = np.exp(family.log_rate + family.rate_spread * family.rates(points)[:, :1])
        # 1 at the start, 0 at the end.
        left = (np.exp(-rate * rungs) - np.exp(-rate)) / (1 - np.exp(-rate))
        start = np.maximum(family.chance, final)[:, None]
        values = final[:, None] + (start - final[:, None]) * left
        # Some overfit: their best was before the end.
        overfit = family.overfit * np.maximum(family.rates(points)[:, 1:2], 0) * 4 * rungs * (1 - rungs)
        n = len(points)
        noise = family.noise * (random.normal(size=(n, 1)) + 0.5 * random.normal(size=(n, len(rungs))))
        # What learns nothing is always about as bad.
        learns = np.where((family.learning < 1) & (final >= 1), _AT_CHANCE, 1.0)[:, None]
        values = values + learns * (noise - overfit)
        found: Array = np.where(failed[:, None], np.nan, self._offset + self._unit * values)
        return found


@dataclass(frozen=True)
class _Space:
    """What is searched: so many numbers, then choices with so many columns each."""

    numbers: int
    widths: tuple[int, ...]
    units: int

    @classmethod
    def drawn(cls, random: np.random.Generator) -> _Space:
        numbers, choices = int(random.integers(1, 9)), int(random.choice([0, 0, 1, 3]))
        widths = [1] * numbers + [int(w) for w in random.integers(2, 5, choices)]
        return cls(numbers, tuple(widths), int(random.choice(_UNITS)))


class _Family:
    """What tasks have in common."""

    def __init__(self, random: np.random.Generator, space: _Space | None = None) -> None:
        self.space = space or _Space.drawn(random)
        numbers, widths = self.space.numbers, self.space.widths
        self.cube = ColumnCube(widths)
        self.rungs = tuple(each / self.space.units for each in rung_units(self.space.units))
        # A few hyperparameters matter most (Bergstra & Bengio 2012).
        relevance: Array = np.repeat(np.exp(random.normal(-0.5, 1.2, len(widths))), widths)
        relevance *= np.repeat([1.0 if width == 1 else 0.5 for width in widths], widths)
        self.shapes = _Waves.drawn(random, relevance, 4, 2.0)
        self.kinship = random.uniform(0.2, 0.98)
        self.centres = random.random(numbers)
        self.wander = random.choice([0.03, 0.1, 0.25])
        self.steepness = np.exp(random.normal(0.0, 1.2, numbers)) * random.choice([0.0, 2.0, 6.0])
        self.tail = random.uniform(0.4, 1.5)
        self.log_unit, self.unit_spread = random.normal(0, 2), random.choice([0.1, 0.5, 1.0])
        self.dangerous = int(random.integers(numbers))
        self.limit = random.choice([2.0, 2.0, 0.9, 0.7])
        self.rates = _Waves.drawn(random, relevance, 2, 1.0)
        self.log_rate, self.rate_spread = random.uniform(0.5, 3.0), random.uniform(0.0, 1.0)
        self.chance = random.uniform(1.0, 4.0)
        self.overfit = random.choice([0.0, 0.0, 0.1, 0.3])
        self.noise = np.exp(random.uniform(np.log(0.003), np.log(0.1)))
        self.learning = _learning(random.spawn(1)[0])
        if self.learning < 1:
            self.chance = 1.0


def _learning(random: np.random.Generator) -> float:
    """Share of the configurations that learn anything: all of them, or few, where most of the space is at chance."""
    return float(np.exp(random.uniform(np.log(0.02), np.log(0.5)))) if random.random() < 0.25 else 1.0


class SearchFamilies:
    """Draws tasks, each with the past tasks of its family.

    Args:
        split: Which tasks: those of two splits have nothing in common.
        most_past: Past tasks that a task has, at most.
        without_past: Share of the tasks that have none.
    """

    def __init__(self, split: Split = Split.TRAIN, *, most_past: int = 8, without_past: float = 0.4) -> None:
        self._split, self._most_past, self._without_past = split, most_past, without_past

    def task(self, seed: int) -> GeneratedTask:
        """The task of a seed."""
        task, histories = self.with_histories(seed)
        if any(each.says_enough for each in histories):
            task.past = PastTasks(histories, seed)
        return task

    def with_histories(self, seed: int) -> tuple[GeneratedTask, list[History]]:
        """The task of a seed that knows no past yet, and the trials of its past tasks."""
        random = np.random.default_rng([list(Split).index(self._split), seed])
        family = _Family(random)
        task = GeneratedTask(family, random)
        if random.random() < self._without_past:
            return task, []
        count = int(np.exp(random.uniform(0, np.log(self._most_past + 1))))
        return task, [_history(GeneratedTask(family, random), random) for _ in range(count)]

    def unrelated(self, seed: int, task: GeneratedTask, count: int) -> list[History]:
        """The trials of as many past tasks of another family: they share the search space with a task, and no more."""
        random = np.random.default_rng([list(Split).index(self._split), seed, 1])
        family = _Family(random, task.space)
        return [_history(GeneratedTask(family, random), random) for _ in range(count)]


def _history(task: GeneratedTask, random: np.random.Generator) -> History:
    """Trials of a past task: at random, then adjustments of the best, as a search leaves them."""
    n = int(np.exp(random.uniform(np.log(16), np.log(120))))
    points = task.cube.sample(random, n)
    curves = task.curves(points, random)
    refined = n // random.integers(2, 6)
    top = points[np.argsort(np.nan_to_num(curves[:, -1], nan=np.inf))[: max(n // 8, 1)]]
    moved = task.cube.near(random, np.resize(top, (refined, points.shape[1])))
    values = np.concatenate([curves, task.curves(moved, random)])
    if random.random() < 0.5:
        # Those that were not promising were stopped.
        stopped = values[:, 0] > np.nanmedian(values[:, 0])
        values[np.ix_(stopped, np.arange(values.shape[1]) > 0)] = np.nan
    values[np.isnan(values[:, 0])] = np.inf
    return History(np.concatenate([points, moved]), values)
