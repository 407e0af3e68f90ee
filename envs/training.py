"""The protocol of something that trains: whatever implements it can be scheduled, and whatever schedules needs no more.

`envs.testing.check_training` is the conformance suite: run it against your own implementation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from .signals import Interval

Values = Mapping[str, float | Sequence[float]]
"""Hyperparameters for an interval: a number holds for all its steps, a sequence gives one value an optimiser step."""


@runtime_checkable
class Training(Protocol):
    """One training that can be advanced step by step, looked at, and taken back.

    Attributes:
        adaptive: 1.0 where the optimiser normalises its steps by gradient size (Adam and its kin), 0.0 where not
            (SGD).
    """

    adaptive: float

    def start(self, config: Mapping[str, float], seed: int) -> Interval:
        """Begins afresh.

        Args:
            config: Starting values of the hyperparameters, by name.
            seed: Everything random follows from it: weights, mini-batches, dropout.

        Returns:
            An interval of no steps: only `val_loss` is measured.
        """

    def advance(self, hyperparameters: Values, steps: int) -> Interval:
        """Trains on for `steps` optimiser steps and measures; a hyperparameter that is not named stays as it is.

        Never raises because of a loss or weight that is not finite: the interval says `diverged`.
        """

    def snapshot(self) -> Any:
        """The whole state, independent of what happens later: weights, optimiser, random generators, data order."""

    def restore(self, snapshot: Any) -> None:
        """Back to a snapshot, bit for bit; a snapshot can be restored any number of times."""

    def close(self) -> None:
        """Frees what is held. Safe to call twice."""
