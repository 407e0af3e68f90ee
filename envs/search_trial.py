"""A trial as a search sees it: where it is, and how far it was trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass
class SearchTrial:
    """A trial.

    Attributes:
        number: Its number.
        point: Its configuration in the unit cube, shape (d,).
        expected: What past tasks say of it, shape (T, R); None without any.
        values: At each rung that it has reached; infinite where it failed.
        touched: Number of the move that trained it last.
        running: Whether it is being trained.
        stopped: Whether it cannot go on.
    """

    number: int
    point: Array
    expected: Array | None
    values: list[float] = field(default_factory=list)
    touched: int = 0
    running: bool = False
    stopped: bool = False

    def may_go_on(self, rungs: int) -> bool:
        """Whether it is paused, so that it can be trained to its next rung; there are so many in all."""
        return not (self.running or self.stopped or self.failed) and 0 < len(self.values) < rungs

    @property
    def failed(self) -> bool:
        """Whether it gave no number."""
        return bool(self.values) and not math.isfinite(self.values[-1])
