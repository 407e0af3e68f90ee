"""How far proposals go: explorers stay away from what is known, exploiters stay near the best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from .unit_cube import UnitCube

Array = NDArray[np.float64]


def proposal_distances(
    space: Mapping[str, BaseDistribution], configs: Sequence[Mapping[str, Any]], losses: Sequence[float]
) -> tuple[Array, Array]:
    """Distances of each configuration to the best one before it, and to the nearest one before it.

    A distance is the root mean square over hyperparameters, each on its scale and as a share of its range; a choice
    that differs counts as the whole range. So it is 0 for the same configuration and 1 for opposite corners, in spaces
    of any size; two random points are about 0.4 apart.

    Args:
        space: The hyperparameters that every configuration has, by name.
        configs: n configurations, in the order in which they were proposed.
        losses: Their n losses; infinite where there is none.

    Returns:
        Both distances, each of shape (n): NaN where there is nothing before it, or nothing with a loss.

    Raises:
        SearchSpaceError: There is nothing to choose.
    """
    cube = UnitCube(space)
    scales = [scale for each in cube.space.values() for scale in _scales(each)]
    points = cube.encode(configs) * np.array(scales) / math.sqrt(len(cube.space))
    to_best, to_nearest = np.full(len(points), np.nan), np.full(len(points), np.nan)
    best: int | None = None
    for place, point in enumerate(points):
        if place:
            distances = np.linalg.norm(points[:place] - point, axis=1)
            to_nearest[place] = distances.min()
            to_best[place] = np.nan if best is None else distances[best]
        if losses[place] < (math.inf if best is None else losses[best]):
            best = place
    return to_best, to_nearest


def _scales(distribution: BaseDistribution) -> list[float]:
    """What a hyperparameter's coordinates are multiplied by: two coordinates change where a choice does."""
    if isinstance(distribution, CategoricalDistribution):
        return [math.sqrt(0.5)] * len(distribution.choices)
    return [1.0]
