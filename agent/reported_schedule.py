"""The schedule of a training that is only heard of: by the losses that it reports, from another process."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np

from ..envs.adjustments import Adjustable
from ..envs.controller import ScheduleController
from ..envs.records import Decision
from ..envs.signals import Interval
from .guard import Guard
from .policy import Policy


class ReportedSchedule:
    """What a schedule policy makes of one training by its reported losses.

    Of `AdaptiveSchedule` it has the arithmetic, the policy and the guard. What only a look into the optimiser would
    tell (gradients, updates, the noise of mini-batches) is unknown to it, and unknown signals are 0, as everywhere.

    Args:
        policy: Who decides.
        hyperparameters: What is adjusted, and within which bounds.
        values: The starting values by name; one out of bounds stays as it is until it is moved.
        adaptive: Whether the optimiser normalises its steps, as Adam does.
        decisions: Decisions of the whole training; None where nobody knows.
        guard: Whether `Guard` may overrule the policy.

    Attributes:
        diverged: Whether the last interval diverged.
        diverged_in_a_row: How many intervals have diverged since the last one that did not.
        last: The last decision, of trial 0; None before the first one.
    """

    def __init__(
        self,
        policy: Policy,
        hyperparameters: Sequence[Adjustable],
        values: Mapping[str, float],
        *,
        adaptive: bool = True,
        decisions: int | None = None,
        guard: bool = True,
    ) -> None:
        self._policy, self._hyperparameters = policy, tuple(hyperparameters)
        self._reference = np.array([[float(values[each.name]) for each in self._hyperparameters]])
        self._controller = ScheduleController(self._hyperparameters, decisions or 1, np.array([float(adaptive)]))
        self._controller.set_horizon(decisions)
        self._guard = Guard(policy.signal_ranges, 1, len(self._hyperparameters)) if guard else None
        self._remembered = policy.first_state(1)
        self._begun = False
        self._val_losses: list[float] = []
        self._train_losses: list[float] = []
        self.diverged, self.diverged_in_a_row = False, 0
        self.last: Decision | None = None

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters as they are to be now."""
        found = self._controller.values(self._reference[:, None, :])[0, 0]
        return {each.name: float(found[i]) for i, each in enumerate(self._hyperparameters)}

    def report(self, val_loss: float, train_loss: float | None = None, *, decision: int = 0) -> None:
        """Takes in a report of the training; the first one is what later losses are compared with.

        Args:
            val_loss: The validation loss. Never the test loss: the policy acts on what it hears.
            train_loss: The mean training loss since the last report, where it is known.
            decision: With the first report, how many intervals are over.

        Raises:
            TrainingError: The first loss is not positive.
        """
        if not self._begun:
            started = Interval.of(val_loss=val_loss if math.isfinite(val_loss) else math.nan)
            self._controller.begin(self._reference, started, decision)
            self._begun = True
            if math.isfinite(val_loss):
                return
        self._val_losses.append(val_loss)
        if train_loss is not None:
            self._train_losses.append(train_loss)

    def decide(self, step: int) -> Decision:
        """Ends an interval: takes in what was reported since the last decision, and adjusts.

        Args:
            step: How far the training is, for the record.
        """
        reward = self._observe() if self._val_losses else math.nan
        action, self._remembered = self._policy.decide(self._controller.observation(), self._remembered)
        note = "diverged: rate cut" if self.diverged else ""
        if self._guard is not None and self._policy.actor is not None:
            action, (why,) = self._guard.overrule(self._controller, action)
            note = "; ".join(filter(None, [note, why]))
        number, signals = self._controller.decision, self._controller.named_signals()
        self._controller.adjust(action)
        self.last = Decision(
            trial=0,
            number=number,
            step=step,
            signals=signals,
            adjustments={each.name: float(action[0, i]) for i, each in enumerate(self._hyperparameters)},
            values=self.values,
            reward=reward,
            note=note,
        )
        return self.last

    def displace(self, values: Mapping[str, float]) -> None:
        """Takes in that someone else set hyperparameters, as far as bounds allow."""
        now = self.values
        moved = [
            each.to_natural(values[each.name]) - each.to_natural(now[each.name]) if each.name in values else 0.0
            for each in self._hyperparameters
        ]
        self._controller.displace(np.array([moved], dtype=np.float64))

    def branch(self) -> Self:
        """A schedule that goes on from the last decision of this one, by itself."""
        twin = copy.deepcopy(self, {id(self._policy): self._policy})
        twin._val_losses, twin._train_losses = [], []
        return twin

    def _observe(self) -> float:
        """Takes in an interval; returns its reward."""
        train, half = np.array(self._train_losses), len(self._train_losses) // 2
        known = np.isfinite(train).all() and len(train) > 0
        halves = {"early_loss": train[:half].mean(), "late_loss": train[half:].mean()} if known and half else {}
        rewards, diverged = self._controller.observe(
            Interval.of(
                **({"train_loss": train.mean(), "first_loss": train[0]} if known else {}),
                **halves,
                val_loss=self._val_losses[-1] if math.isfinite(self._val_losses[-1]) else math.nan,
                diverged=not math.isfinite(self._val_losses[-1]) or (len(train) > 0 and not known),
            )
        )
        self._val_losses, self._train_losses = [], []
        self.diverged = bool(diverged[0])
        self.diverged_in_a_row = self.diverged_in_a_row + 1 if self.diverged else 0
        return float(rewards[0])
