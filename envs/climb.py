"""Looks beside the most promising points for what promises more: a search for the best of an acquisition function.

Of points at random few are near the best ones, and none is at the end of a range, where many a range is best. No
gradient is needed, so that choices and hyperparameters with steps are changed as well.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .unit_cube import Cube

Array = NDArray[np.float64]

ROUNDS, CLIMBERS, BESIDE = 3, 6, 8
"""Rounds of looking beside so many points, at so many beside each."""


def climbed(
    points: Array,
    promise: Callable[[Array], Array],
    cube: Cube,
    random: np.random.Generator,
    untried: Callable[[Array], Array],
) -> Array:
    """The most promising of some points and of what was found beside them, `CLIMBERS` at most.

    Args:
        points: Where to begin, shape (n, d), n at least 1.
        promise: Of points (n, d) how much each promises, shape (n,).
        cube: The search space.
        random: What is looked at follows from it.
        untried: Of points (n, d) those that may be tried, shape (m, d).

    Returns:
        Points, best first, shape (k, d).
    """
    worth = promise(points)
    for _ in range(ROUNDS):
        order = np.argsort(-worth, kind="stable")[:CLIMBERS]
        best = points[order]
        beside = cube.near(random, np.repeat(best, BESIDE, axis=0), to_ends=True)
        beside = untried(without(cube, beside, best))
        worth = np.concatenate([worth[order], promise(beside)])
        points = np.concatenate([best, beside])
    return points[np.argsort(-worth, kind="stable")[:CLIMBERS]]


def without(cube: Cube, points: Array, others: Array) -> Array:
    """Those of some points (n, d) that are not among others, each once."""
    kept = dict(zip(map(bytes, cube.snapped(points)), points, strict=True))
    for each in cube.snapped(others):
        kept.pop(bytes(each), None)
    return np.array(list(kept.values())).reshape(len(kept), cube.dimensions)
