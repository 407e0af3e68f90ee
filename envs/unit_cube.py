"""The unit cube: where configurations of any search space look alike.

A number is one coordinate, on its distribution's scale; a choice is one coordinate for each of its values (one-hot, as
Optuna's own samplers have it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from .errors import SearchSpaceError

Array = NDArray[np.float64]

_MOST_LISTED = 20_000
"""Configurations of a space that are listed, at most."""

_DIGITS = 12
"""Of a coordinate that count: Optuna decodes the end of a range as the number before it."""

_STEPS = (0.02, 0.05, 0.15)
"""Standard deviations of adjustments, in widths of a hyperparameter's range."""


class Cube(Protocol):
    """Points that are configurations."""

    dimensions: int

    def sample(self, random: np.random.Generator, n: int) -> Array:
        """Draws n points at random, shape (n, d)."""

    def snapped(self, points: Array) -> Array:
        """Points (n, d) to be compared: the same to the last bit where they are the same configuration."""

    @property
    def is_grid(self) -> bool:
        """Whether every hyperparameter is a choice or has steps, so that a point may be drawn twice."""

    def every(self) -> Array | None:
        """All points that there are, shape (n, d); None where they are too many to list."""

    def middle(self, random: np.random.Generator) -> Array:
        """The point (1, d) in the middle of every range; where there is no middle, it is drawn."""

    def filled(self, random: np.random.Generator, points: Array) -> Array:
        """Points (n, d) with a value where nobody knows one (NaN): the middle of a range; choices are drawn."""

    def near(self, random: np.random.Generator, points: Array, *, to_ends: bool = False) -> Array:
        """Points (n, d), each with one or a few hyperparameters adjusted; beyond a range's end is its end if asked."""


class ColumnCube:
    """A cube of numbers and choices.

    Args:
        widths: Coordinates of each hyperparameter: 1 for a number, more for as many choices.
    """

    def __init__(self, widths: Sequence[int]) -> None:
        self.dimensions = sum(widths)
        ends = np.cumsum(widths)
        self._slices = [slice(int(end - width), int(end)) for end, width in zip(ends, widths, strict=True)]

    def sample(self, random: np.random.Generator, n: int) -> Array:
        """Draws n points, uniform, shape (n, d)."""
        points = random.random((n, self.dimensions))
        for each in self._slices:
            if each.stop - each.start > 1:
                points[:, each] = _one_hot(random.integers(each.stop - each.start, size=n), each.stop - each.start)
        return points

    def snapped(self, points: Array) -> Array:
        """The points themselves."""
        return points

    @property
    def is_grid(self) -> bool:
        """Whether all hyperparameters are choices."""
        return all(each.stop - each.start > 1 for each in self._slices)

    def every(self) -> Array | None:
        """None: numbers without steps are too many to list."""
        return None

    def middle(self, random: np.random.Generator) -> Array:
        """The point (1, d) in the middle of every range; choices, which have no middle, are drawn."""
        point = self.sample(random, 1)
        for each in self._slices:
            if each.stop - each.start == 1:
                point[:, each] = 0.5
        return point

    def filled(self, random: np.random.Generator, points: Array) -> Array:
        """Points (n, d) with a value where nobody knows one (NaN): the middle of a range; choices are drawn.

        Where all is known, nothing is drawn.
        """
        unknown = np.isnan(points)
        if not unknown.any():
            return points
        return np.where(unknown, np.concatenate([self.middle(random) for _ in points]), points)

    def near(self, random: np.random.Generator, points: Array, *, to_ends: bool = False) -> Array:
        """Points (n, d), each with one hyperparameter or a few adjusted, by little or more.

        What would be beyond the end of a range is reflected there, or is the end itself where `to_ends` asks for it.
        """
        n = len(points)
        moved = points.copy()
        chosen = random.random((n, len(self._slices))) < random.choice([1.0, 2.0, 4.0], (n, 1)) / len(self._slices)
        chosen[np.arange(n), random.integers(len(self._slices), size=n)] = True
        step = random.choice(_STEPS, n)
        for column, each in enumerate(self._slices):
            width = each.stop - each.start
            if width == 1:
                drawn = points[:, each.start] + step * random.normal(size=n)
                if not to_ends:
                    drawn = np.where(drawn < 0, -drawn, drawn)
                    drawn = np.where(drawn > 1, 2 - drawn, drawn)
                other = np.clip(drawn, 0, 1)[:, None]
            else:
                other = _one_hot(random.integers(width, size=n), width)
            moved[:, each] = np.where(chosen[:, [column]], other, points[:, each])
        return moved


@dataclass(frozen=True)
class _Grid:
    """Where the values of a hyperparameter that has steps lie, as Optuna's transformation has them.

    Each value is in the middle of its cell: the range ends half a step below the lowest one and above the highest one.
    """

    column: int
    low: float
    high: float
    step: float
    log: bool

    def values(self) -> Array:
        """The coordinates of all values, or of so many that there are too many to list."""
        steps = min(round((self.high - self.low) / self.step), _MOST_LISTED)
        below, above = self._ends()
        values: Array = self.low + np.arange(steps + 1, dtype=np.float64) * self.step
        found: Array = ((np.log(values) if self.log else values) - below) / (above - below)
        return found

    def _ends(self) -> tuple[float, float]:
        below, above = self.low - self.step / 2, self.high + self.step / 2
        return (math.log(below), math.log(above)) if self.log else (below, above)

    def nearest(self, coordinates: Array) -> Array:
        below, above = self._ends()
        scaled = below + coordinates * (above - below)
        values = np.exp(scaled) if self.log else scaled
        values = np.clip(self.low + np.round((values - self.low) / self.step) * self.step, self.low, self.high)
        found: Array = ((np.log(values) if self.log else values) - below) / (above - below)
        return found


class UnitCube(ColumnCube):
    """The cube of a search space. Points that it draws are configurations, not beside one.

    Args:
        space: Optuna's distributions by name, at least one with more than one value.

    Attributes:
        space: The hyperparameters that have more than one value.
        names: Their names.

    Raises:
        SearchSpaceError: There is nothing to choose.
    """

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        varied = {name: each for name, each in space.items() if not each.single()}
        if not varied:
            raise SearchSpaceError("expected a search space with something to choose, got only single values")
        self._transform = _SearchSpaceTransform(varied, transform_0_1=True)
        super().__init__([len(columns) for columns in self._transform.column_to_encoded_columns])
        self.space = varied
        self.names = tuple(varied)
        self._grids = [
            _Grid(each.start, distribution.low, distribution.high, distribution.step, distribution.log)
            for each, distribution in zip(self._slices, varied.values(), strict=True)
            if isinstance(distribution, FloatDistribution | IntDistribution) and distribution.step is not None
        ]

    def sample(self, random: np.random.Generator, n: int) -> Array:
        """Draws n points, shape (n, d): uniform, but for hyperparameters that have steps."""
        return self._on_grid(super().sample(random, n))

    def snapped(self, points: Array) -> Array:
        """Points (n, d) where hyperparameters that have steps are on one, without what decoding and encoding change."""
        snapped: Array = np.round(self._on_grid(points.copy()), _DIGITS) + 0.0  # there is no -0
        return snapped

    @property
    def is_grid(self) -> bool:
        """Whether every hyperparameter is a choice or has steps."""
        gridded = {grid.column for grid in self._grids}
        return all(each.stop - each.start > 1 or each.start in gridded for each in self._slices)

    def every(self) -> Array | None:
        """All configurations, shape (n, d); None where a hyperparameter has no steps, or there are too many."""
        columns: list[Array] = []
        gridded = {grid.column: grid for grid in self._grids}
        for each in self._slices:
            if each.stop - each.start > 1:
                columns.append(np.eye(each.stop - each.start))
            elif each.start in gridded:
                columns.append(gridded[each.start].values()[:, None])
            else:
                return None
            if math.prod(map(len, columns)) > _MOST_LISTED:
                return None
        rows = np.indices([len(column) for column in columns]).reshape(len(columns), -1)
        return self._on_grid(np.concatenate([column[row] for column, row in zip(columns, rows, strict=True)], axis=1))

    def middle(self, random: np.random.Generator) -> Array:
        """The point (1, d) nearest to the middle of every range; choices, which have no middle, are drawn."""
        return self._on_grid(super().middle(random))

    def near(self, random: np.random.Generator, points: Array, *, to_ends: bool = False) -> Array:
        """Points (n, d), each with one hyperparameter or a few adjusted: less than half a step is no adjustment."""
        return self._on_grid(super().near(random, points, to_ends=to_ends))

    def _on_grid(self, points: Array) -> Array:
        for grid in self._grids:
            points[:, grid.column] = grid.nearest(points[:, grid.column])
        return points

    def encode(self, configs: Sequence[Mapping[str, Any]]) -> Array:
        """Points of configurations, shape (n, d)."""
        if not configs:
            return np.empty((0, self.dimensions))
        return np.stack([self._transform.transform({k: config[k] for k in self.names}) for config in configs])

    def encode_known(self, configs: Sequence[Mapping[str, Any]]) -> Array:
        """Points of configurations that may lack hyperparameters, shape (n, d): NaN where one does."""
        middle = self.decode(np.full(self.dimensions, 0.5))
        points = self.encode([{**middle, **config} for config in configs])
        for name, columns in zip(self.names, self._slices, strict=True):
            points[[name not in config for config in configs], columns] = np.nan
        return points

    def decode(self, point: Array) -> dict[str, Any]:
        """The configuration at a point (d,), or the nearest one, without what has a single value."""
        return dict(self._transform.untransform(np.clip(point, 0, 1)))


def _one_hot(values: NDArray[np.int64], width: int) -> Array:
    found: Array = (values[..., None] == np.arange(width)).astype(float)
    return found
