"""Tabu search as an Optuna sampler."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from ..envs.errors import ConfigurationError
from .joint_sampler import JointSampler, finished_trials, loss

Point = npt.NDArray[np.float64]  # in the unit cube, categories one-hot encoded

RADIUS = 0.01
"""How near to a point of the tabu list, in every hyperparameter, is tabu."""

TENURE = 7
"""How many points the tabu list has (Glover 1990)."""

PATIENCE = 3
"""Rounds without a new best after which the walk goes elsewhere."""

DRAWS = 30
"""Candidates that are looked at for a proposal."""


class TabuSampler(JointSampler):
    """Walks from point to point, also uphill, and not soon back to where it was.

    Tabu search (Glover 1989, 1990), with neighbourhoods for continuous spaces as Chelouah & Siarry (2000) have them: a
    round of trials has one neighbour from each of several nested shells around the current point, moved in one or
    several hyperparameters.

    - The best trial of a round is the next current point, even where it is worse than the last one.
    - The last current points, and what is near to them, are tabu: neither proposed nor moved to.
    - Aspiration: a trial that is the best so far is moved to in any case, and at once.
    - Diversification: after some rounds without a new best, a round of points far from all that was tried.
    - Intensification: after as many more, back to the best.

    Where the walk stands follows from the trials that have finished, whoever proposed them, and chance from the seed
    and the trial's number: a study that is resumed goes on as if it had not been interrupted.
    """

    def __init__(self, neighbours: int = 6, seed: int | None = None) -> None:
        """Makes a sampler of one study.

        Args:
            neighbours: How many trials a round has.
            seed: Proposals follow from it (with one worker). None draws one.

        Raises:
            ConfigurationError: A round has no trial.
        """
        super().__init__(seed)
        if neighbours < 1:
            raise ConfigurationError(f"expected a round of at least 1 neighbour, got {neighbours}")
        self._neighbours = neighbours

    def _propose(self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        past = finished_trials(study, space)
        region = _Region(space, np.random.default_rng(self._seed_of(trial, "tabu")))
        tried = np.array([region.encode(each.params) for each in past])
        losses = [loss(study, each.state, each.value) for each in past]
        walk = _walked(tried, losses, self._neighbours)
        if walk.goes_far:
            return region.decode(max((region.anywhere() for _ in range(DRAWS)), key=lambda point: _gap(point, tried)))
        radius = 0.5 ** (1 + trial.number % self._neighbours)
        candidates = [region.neighbour(walk.current, radius) for _ in range(DRAWS)]
        # What was tried already is not tried again, up to rounding.
        allowed = (point for point in candidates if _gap(point, tried) > 1e-9 and not walk.is_tabu(point))
        # A small space is soon tabu all over: then to where there was least.
        return region.decode(next(allowed, max(candidates, key=lambda point: _gap(point, tried))))


@dataclass
class _Walk:
    """Where a walk stands.

    Attributes:
        current: Neighbours of this point are next.
        best: The best point.
        best_loss: Its value.
        tabu: The last current points.
        stalled: Rounds since there was a new best.
    """

    current: Point
    best: Point
    best_loss: float = math.inf
    tabu: deque[Point] = field(default_factory=lambda: deque(maxlen=TENURE))
    stalled: int = 0

    @property
    def goes_far(self) -> bool:
        """Whether the next round is of points far from all others: at the start, and after too long without a best."""
        return self.best_loss == math.inf or self.stalled == PATIENCE

    def is_tabu(self, point: Point) -> bool:
        """Whether it is near to one of the last current points."""
        return _gap(point, self.tabu) < RADIUS

    def move(self, round_: list[tuple[Point, float]]) -> None:
        """Moves to the best trial of a round that may be moved to."""
        allowed = [each for each in round_ if each[1] < self.best_loss or not self.is_tabu(each[0])]
        self.current, value = min(allowed or round_, key=lambda each: each[1])
        self.tabu.append(self.current)
        self.stalled += 1
        if value < self.best_loss:
            self.best, self.best_loss, self.stalled = self.current, value, 0
        elif self.stalled == 2 * PATIENCE:
            self.current, self.stalled = self.best, 0


def _walked(points: Iterable[Point], losses: list[float], neighbours: int) -> _Walk:
    """The walk that these trials make, round by round."""
    nowhere = np.empty(0)
    walk = _Walk(nowhere, nowhere)
    round_: list[tuple[Point, float]] = []
    for trial in zip(points, losses, strict=True):
        round_.append(trial)
        # Where the walk goes far, it looks at the whole round before it settles.
        if len(round_) == neighbours or (trial[1] < walk.best_loss and not walk.goes_far):
            walk.move(round_)
            round_ = []
    return walk


class _Region:
    """The unit cube of a space, and chance in it. Its points are those that a configuration has exactly."""

    def __init__(self, space: dict[str, BaseDistribution], chance: np.random.Generator) -> None:
        self._space, self._chance = space, chance
        self._encoding = _SearchSpaceTransform(space, transform_0_1=True)

    def encode(self, params: dict[str, Any]) -> Point:
        return self._encoding.transform({name: params[name] for name in self._space})

    def decode(self, point: Point) -> dict[str, Any]:
        return self._encoding.untransform(point)

    def anywhere(self) -> Point:
        """A random point."""
        return self._exact(self._chance.random(len(self._encoding.bounds)))

    def neighbour(self, centre: Point, radius: float) -> Point:
        """A point between half of the radius and the radius away, in half of the hyperparameters and at least one.

        Another category is as far as can be, so it is tried the more seldom, the smaller the radius is.
        """
        point = centre.copy()
        moved = self._chance.random(len(self._space)) < 0.5
        moved[self._chance.integers(len(moved))] = True
        for columns in itertools.compress(self._encoding.column_to_encoded_columns, moved):
            if len(columns) == 1:
                step = self._chance.choice((-1, 1)) * self._chance.uniform(radius / 2, radius)
                inside = abs(point[columns] + step)  # reflected at either end
                point[columns] = np.minimum(inside, 2 - inside)
            elif self._chance.random() < radius:
                others = columns[point[columns] == 0]
                point[columns] = columns == self._chance.choice(others)
        return self._exact(point)

    def _exact(self, point: Point) -> Point:
        return self.encode(self.decode(point))


def _gap(point: Point, others: Collection[Point]) -> float:
    """The distance to the nearest of others, each in the hyperparameter in which it is largest."""
    return float(np.abs(np.asarray(others) - point).max(axis=1).min()) if len(others) else math.inf
