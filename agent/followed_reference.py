"""The schedule that is adjusted: the policy's own, a user's scheduler's, or whatever stands in the optimiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from ..envs.adjustments import Adjustable
from ..envs.errors import ConfigurationError
from ..envs.references import Reference, constant, reference_named, reference_values, stable_decay
from .dials import Dials

Followed = LRScheduler | Literal["optimizer"] | None


class FollowedReference:
    """The values before they are adjusted, shape (groups, h).

    Args:
        followed: A scheduler, "optimizer" for what stands in it, or None for the policy's own.
        own: The name of the policy's own.
        optimizer: Whose hyperparameters are adjusted.
        dials: Where they are; their present values are the starting ones.
        hyperparameters: What they are.
        total_steps: Optimiser steps of the whole training; None where it has no known end.

    Attributes:
        start: The starting values.
        values: The present ones.
        outside: Whether someone else steps it: adjusted values stand in the optimiser only while that one steps.

    Raises:
        ConfigurationError: There is nothing to follow: no such thing, another optimiser's, or the policy's own one
            depends on an end that is not known.
    """

    def __init__(
        self,
        followed: Followed,
        own: str,
        optimizer: Optimizer,
        dials: Dials,
        hyperparameters: Sequence[Adjustable],
        total_steps: int | None,
    ) -> None:
        _check(followed, optimizer)
        self.outside = followed == "optimizer"
        self._scheduler = followed if isinstance(followed, LRScheduler) else None
        self._own = reference_named(own) if followed is None else None
        _check_end(self._own, total_steps)
        self._dials, self._hyperparameters = dials, hyperparameters
        self.start = self.values = dials.read()
        # Of the learning rates, as it was last applied; at the start, and after a resumption, that is not known.
        self._factor: float | None = None

    def read(self) -> None:
        """Takes what stands in the optimiser, where that is the reference."""
        if self.outside:
            self.values = self._dials.read_optimizer(self.values)

    def put_back(self) -> None:
        """Lets whoever computes the next values from the current ones find the reference's, not the adjusted ones."""
        self._dials.write_optimizer(self.values)

    def step(self, steps: int, total_steps: int | None) -> bool:
        """So many optimiser steps were taken; returns whether the values may have changed."""
        if self._scheduler is None:
            return self.stretch(steps, total_steps)
        self.put_back()
        self._scheduler.step()
        self.values = self._dials.read_optimizer(self.values)
        return True

    def stretch(self, steps: int, total_steps: int | None) -> bool:
        """The training ends elsewhere: returns whether a reference that depends on it has other values now."""
        if self._own is None or self._own is constant or total_steps is None:
            return False
        at = min(steps, total_steps - 1)
        factor = float(self._own(np.array(at / total_steps)))
        if factor == self._factor:
            return False
        self._factor = factor
        (self.values,) = reference_values(self._own, self.start, self._hyperparameters, at, 1, total_steps)
        return True

    def state_dict(self) -> dict[str, Any]:
        """What its rest follows from."""
        return {
            "start": self.start.tolist(),
            "reference": self.values.tolist(),
            "scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state."""
        self.start, self.values, self._factor = np.array(state["start"]), np.array(state["reference"]), None
        if self._scheduler is not None and state["scheduler"] is not None:
            self._scheduler.load_state_dict(state["scheduler"])


def followed_name(followed: Followed) -> str:
    """What is followed, in a word: the policy's own, the optimizer's, or a scheduler of some kind."""
    return "own" if followed is None else followed if isinstance(followed, str) else type(followed).__name__


def _check(followed: object, optimizer: Optimizer) -> None:
    if followed not in (None, "optimizer") and not isinstance(followed, LRScheduler):
        raise ConfigurationError(f"reference must be a torch LRScheduler, 'optimizer' or None, got {followed!r}")
    if isinstance(followed, ReduceLROnPlateau):
        raise ConfigurationError(
            "a ReduceLROnPlateau steps by a metric that only you know: step it yourself, and give reference='optimizer'"
        )
    if isinstance(followed, LRScheduler) and followed.optimizer is not optimizer:
        raise ConfigurationError("`reference` schedules another optimiser: make it on the one that is adjusted")


def _check_end(own: Reference | None, total_steps: int | None) -> None:
    if total_steps is None and own not in (None, constant, stable_decay):
        raise ConfigurationError(
            "this policy adjusts a schedule that depends on the end of the training, so total_steps cannot be None: "
            "give a number, a reference of your own, or a policy whose reference is constant"
        )
