"""Watches a training loop for what would make its schedule adjust something else than it thinks."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from ..envs.errors import ConfigurationError, TrainingError

Array = NDArray[np.float64]

SUSPICIOUS = 8
"""After so many skipped steps in a row the loss is looked at: a gradient scaler skips forever once it is not finite.
And so many steps in a row that nobody has told of are no accident."""

NEVER = 100
"""An optimiser that has skipped so many steps from the start is not the one that the loop steps."""


class LoopWatch:
    """Of one optimiser. What is wrong for sure is an error, what may be meant is a warning, once.

    Args:
        optimizer: The optimiser.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer, self._groups = optimizer, _sizes(optimizer)
        self._untold = 0  # steps, one after the other, that nobody has told of
        self._warned: set[str] = set()

    def steps(self) -> None:
        """The optimiser is about to step.

        Raises:
            ConfigurationError: It has other parameters than it had, or other groups of them.
        """
        groups = _sizes(self._optimizer)
        if groups != self._groups:
            now, before = (f"{len(each)} parameter groups of {sum(each)} parameters" for each in (groups, self._groups))
            raise ConfigurationError(
                f"the optimiser has {now}, and had {before} when its schedule was made: close that one where some are "
                "added, and make another for the rest of the training"
            )
        self._untold += 1
        if self._untold > SUSPICIOUS:
            self._warn(
                "untold", f"the optimiser took {SUSPICIOUS} steps without a call of `step`: call it after each of them"
            )

    def told(self) -> None:
        """Somebody told of the step."""
        self._untold = 0

    def skipped(self, in_a_row: int, *, begun: bool) -> None:
        """Somebody told of a step that the optimiser did not take, one of so many in a row.

        Raises:
            TrainingError: It has never taken any.
        """
        if not begun and in_a_row >= NEVER:
            raise TrainingError(
                f"`step` was called {NEVER} times, and this schedule's optimiser took no step before any of them: "
                "give the schedule the optimiser that the training steps"
            )

    def finds(self, found: Array, left: Array) -> None:
        """The optimiser has these values, and was left with those."""
        if not np.allclose(found, left, rtol=1e-5, atol=0.0):
            at = ~np.isclose(found, left, rtol=1e-5, atol=0.0)
            self._warn(
                "values",
                f"somebody else has set hyperparameters: the optimiser has {found[at].tolist()} where its schedule had "
                f"set {left[at].tolist()}; a scheduler that you step is followed with reference='optimizer', else "
                "leave them to the schedule",
            )

    def hears(self, loss: float, kind: str) -> None:
        """A loss is told in the middle of the training, of the validation or the training."""
        if loss <= 0:
            self._warn(
                f"{kind} loss",
                f"the {kind} loss is {loss:g}, but a schedule compares losses by their ratios, so they must be "
                "positive: it is blind to those that are not; add a constant to it",
            )

    def _warn(self, cause: str, message: str) -> None:
        if cause not in self._warned:
            self._warned.add(cause)
            warnings.warn(message, stacklevel=4)


def _sizes(optimizer: Optimizer) -> list[int]:
    """Parameters of each group."""
    return [len(group["params"]) for group in optimizer.param_groups]
