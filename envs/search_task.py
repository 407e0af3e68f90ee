"""What a search environment searches: the values of every configuration, and what is best."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .past_tasks import PastTasks
from .unit_cube import Cube

Array = NDArray[np.float64]


class SearchTask(Protocol):
    """A task whose regrets are known, as they are in meta-training and on benchmarks.

    Attributes:
        rungs: Fractions of a full training after which a trial may pause, ascending, the last one 1.
        past: What past tasks say of it; None without any.
    """

    rungs: tuple[float, ...]
    past: PastTasks | None

    @property
    def cube(self) -> Cube:
        """The search space."""

    def curve(self, point: Array, seed: int) -> Array:
        """Values of a training at every rung, to be minimised, shape (R,); NaN from where it failed."""

    def regret(self, point: Array) -> float:
        """Of a full training, without noise: 0 for the best configuration there is, about 1 for the median one."""


class SearchTasks(Protocol):
    """Where a search environment draws its tasks from."""

    def task(self, seed: int) -> SearchTask:
        """The task of a seed."""
