"""The schedule of a training that is only heard of: by the losses that it reports, from another process."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Self

import numpy as np

from ..envs.adjustments import Adjustable
from ..envs.controller import ScheduleController
from ..envs.records import Decision
from ..envs.references import reference_named, reference_values
from ..envs.signals import Interval
from .guard import Guard
from .policy import Policy

_MEASURED = (
    "first_loss",
    "train_loss",
    "train_loss_std",
    "early_loss",
    "late_loss",
    "log_grad_norm",
    "alignment",
    "relative_update",
    "diverged",
)


class ReportedSchedule:
    """What a schedule policy makes of one training by its reported losses.

    Of `AdaptiveSchedule` it has the arithmetic, the policy and the guard. What is not reported is unknown to it, and
    unknown signals are 0, as everywhere.

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
        self._start = np.array([[float(values[each.name]) for each in self._hyperparameters]])
        self._reference, self._follows_end = self._start, decisions is not None
        self._controller = ScheduleController(self._hyperparameters, decisions or 1, np.array([float(adaptive)]))
        self._controller.set_horizon(decisions)
        self._guard = Guard(policy.signal_ranges, 1, len(self._hyperparameters)) if guard else None
        self._remembered = policy.first_state(1)
        self._begun = self._warned = False
        self._reports: list[dict[str, float]] = []
        self.diverged, self.diverged_in_a_row = False, 0
        self.last: Decision | None = None

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters as they are to be now."""
        (found,) = self._controller.values(self._reference)
        return {each.name: float(value) for each, value in zip(self._hyperparameters, found, strict=True)}

    def report(
        self, val_loss: float, measured: Mapping[str, float] = MappingProxyType({}), *, decision: int = 0
    ) -> None:
        """Takes in a report of the training; the first one is what later losses are compared with.

        Args:
            val_loss: The validation loss. Never the test loss: the policy acts on what it hears.
            measured: What else was measured since the last report, by its name in `Interval`.
            decision: With the first report, how many intervals were over when that one began.

        Raises:
            TrainingError: The first loss is not positive.
        """
        if not self._begun:
            started = {"val_loss": val_loss if math.isfinite(val_loss) else math.nan}
            started |= {"first_update": measured["first_update"]} if "first_update" in measured else {}
            self._controller.begin(self._reference, Interval.of(**started), decision)
            self._begun = True
        elif val_loss <= 0 and not self._warned:
            self._warned = True
            warnings.warn(
                f"the validation loss is {val_loss:g}, but a schedule compares losses by their ratios, so they must be "
                "positive: it is blind to those that are not; add a constant to it",
                stacklevel=2,
            )
        self._reports.append({**measured, "val_loss": val_loss})

    def decide(self, step: int) -> Decision:
        """Ends an interval: takes in what was reported since the last decision, and adjusts.

        Args:
            step: How far the training is, for the record.
        """
        reward = self._observe() if self._reports else math.nan
        action, self._remembered = self._policy.decide(self._controller.observation(), self._remembered)
        note = "diverged: rate cut" if self.diverged else ""
        if self._guard is not None and self._policy.actor is not None:
            action, (why,) = self._guard.overrule(self._controller, action)
            note = "; ".join(filter(None, [note, why]))
        number, signals = self._controller.decision, self._controller.named_signals()
        self._follow_reference(number)
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
        now = np.array([[values[each.name] for each in self._hyperparameters]], dtype=np.float64)
        self._controller.displace(now, self._reference)

    def branch(self) -> Self:
        """A schedule that goes on from the last decision of this one, by itself."""
        twin = copy.deepcopy(self, {id(self._policy): self._policy})
        twin._reports = []
        return twin

    def _follow_reference(self, decision: int) -> None:
        """Takes the policy's own reference in the middle of the interval; without a known end it stays at the start."""
        if not self._follows_end:
            return
        middle = [2 * min(decision, self._controller.decisions - 1) + 1, 1, 2 * self._controller.decisions]
        reference = reference_named(self._policy.reference)
        self._reference = reference_values(reference, self._start, self._hyperparameters, *middle)[0]
        self._controller.follow(self._reference)

    def _observe(self) -> float:
        """Takes in an interval; returns its reward."""
        rewards, diverged = self._controller.observe(_interval(self._reports))
        self._reports = []
        self.diverged = bool(diverged[0])
        self.diverged_in_a_row = self.diverged_in_a_row + 1 if self.diverged else 0
        return float(rewards[0])


def _interval(reports: Sequence[Mapping[str, float]]) -> Interval:
    """An interval of several reports."""
    columns = {name: [report[name] for report in reports if name in report] for name in _MEASURED}
    half = len(reports) // 2
    train = columns["train_loss"]
    found = {name: float(np.mean(columns[name])) for name in ("log_grad_norm", "alignment") if columns[name]}
    if train:
        found |= {"first_loss": (columns["first_loss"] or train)[0], "train_loss": float(np.mean(train))}
        if columns["train_loss_std"]:
            # Of all steps: within reports and between them.
            found["train_loss_std"] = math.hypot(np.sqrt(np.mean(np.square(columns["train_loss_std"]))), np.std(train))
        if half:
            found |= {"early_loss": float(np.mean(train[:half])), "late_loss": float(np.mean(train[half:]))}
        else:
            found |= {name: columns[name][-1] for name in ("early_loss", "late_loss") if columns[name]}
    if columns["relative_update"]:
        found["relative_update"] = columns["relative_update"][-1]
    val_loss = reports[-1]["val_loss"]
    finite = all(math.isfinite(value) for value in (val_loss, *train)) and not any(columns["diverged"])
    return Interval.of(**found, val_loss=val_loss if math.isfinite(val_loss) else math.nan, diverged=not finite)
