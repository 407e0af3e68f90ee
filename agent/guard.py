"""Overrules a policy that is out of its depth.

A policy extrapolates badly: where a training looks like none that it learnt on, its adjustments mean nothing. The guard
watches for that and for its consequences. Where it speaks up, hyperparameters go back to where the validation loss was
last at its best, which is the reference itself as long as nothing was better, and no learning rate is raised. Where a
training overfits and that interval is not taken back (`ScheduleController.unlearns`), its learning rates come down.
And where the first step would already destroy a network, rates are lowered before it: no decision after it could mend
that.

Source: what tells of overfitting, see `envs.signals.overfits` (Prechelt 1998).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..envs.controller import ScheduleController
from ..envs.signals import LIMIT, overfits

Array = NDArray[np.float64]

MOST_DIVERGENCES = 2
"""More intervals than this that were taken back in one training are not bad luck."""

TRAILING = float(np.log(1.2))
"""A validation loss so far above the best one (natural log) trails it."""

TRAILING_FOR = 4
"""So many validations in a row above it are not noise, nor a rate that is high for the moment."""

LONGEST_FIRST_STEP = 0.15
"""A first step may move the weights by this share of their norm."""

MARGIN = 0.1
"""A signal is out of its range when it leaves it by more than this share of the range's width."""


class Guard:
    """The guard of n schedules with h hyperparameters.

    Args:
        ranges: The least and the greatest value of each signal that a policy saw in meta-training, by name; those that
            are not named may take any value.
        schedules: n.
        hyperparameters: h.
    """

    def __init__(self, ranges: Mapping[str, tuple[float, float]], schedules: int, hyperparameters: int) -> None:
        self._ranges = dict(ranges)
        self._best = np.zeros((schedules, hyperparameters))
        self._divergences, self._trailing = np.zeros(schedules), np.zeros(schedules)
        # The log of the training loss over its start, when the validation loss was last at its best.
        self._train_at_best = np.zeros(schedules)
        self._val_start = np.full(schedules, np.nan)

    def overrule(self, controller: ScheduleController, action: Array) -> tuple[Array, list[str]]:
        """Looks at what the policy sees and wants; to be called once a decision.

        Args:
            controller: The schedules, before they are adjusted.
            action: The policy's adjustments, shape (n, h).

        Returns:
            The adjustments to make, shape (n, h), and for each schedule why they are not the policy's; empty where
            they are.
        """
        seen = controller.signals()
        fresh = self._follow(controller, seen)
        diverging, trailing = self._divergences > MOST_DIVERGENCES, self._trailing >= TRAILING_FOR
        strange = self._out_of_range(seen)
        back = trailing | np.array([bool(names) for names in strange])
        wanted = np.where(back[:, None], controller.action_to(self._best), action)
        calmed = controller.is_rate & (back | diverging)[:, None]
        wanted = np.where(calmed, np.minimum(wanted, 0.0), wanted)
        overfitting = fresh & self._overfits(seen)
        wanted = np.where(controller.is_rate & overfitting[:, None], -1.0, wanted)
        far = self._shorten_first_step(controller, wanted)
        overruled = np.any(wanted != action, axis=1) | far
        reasons = zip(overruled, diverging, trailing, overfitting, far, strange, strict=True)
        return wanted, [_reason(*why) if changed else "" for changed, *why in reasons]

    def _shorten_first_step(self, controller: ScheduleController, wanted: Array) -> NDArray[np.bool_]:
        if controller.decision > 0:
            return np.zeros(len(wanted), dtype=np.bool_)
        return controller.shorten_first_step(wanted, LONGEST_FIRST_STEP)

    def state_dict(self) -> dict[str, Array]:
        """A copy of the state: a handful of numbers a schedule."""
        return {name: getattr(self, f"_{name}").copy() for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Back to a state, bit for bit."""
        for name in _STATE:
            setattr(self, f"_{name}", np.array(state[name]))

    def _follow(self, controller: ScheduleController, seen: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Takes in what is new; returns where validation losses are, and of the same data as those before."""
        diverged = seen["diverged"] > 0
        fresh: NDArray[np.bool_] = seen["val_age"] == 0
        better = fresh & ~diverged & (seen["val_since_best"] < 0)
        self._best = np.where(better[:, None], controller.offset, self._best)
        self._divergences = self._divergences + (diverged & ~controller.overfitted)
        # Where the data have changed, losses before tell nothing of those from here on.
        changed, self._val_start = controller.val_start != self._val_start, controller.val_start.copy()
        self._train_at_best = np.where(changed, 0.0, self._train_at_best)
        self._trailing = np.where(changed, 0.0, self._trailing)
        fresh &= ~changed
        at_best = fresh & ~diverged & (seen["val_since_best"] <= 0)
        self._train_at_best = np.where(at_best, seen["train_since_start"], self._train_at_best)
        # A training loss that gets on is no matter of the values of then: going back to them would not help.
        behind = (seen["val_since_best"] > TRAILING) & ~self._gets_on(seen)
        self._trailing = np.where(fresh, np.where(behind, self._trailing + 1, 0.0), self._trailing)
        return fresh

    def _gets_on(self, seen: Mapping[str, Array]) -> NDArray[np.bool_]:
        """Whether the training loss is below what it was at the best validation loss."""
        gets_on: NDArray[np.bool_] = seen["train_since_start"] < self._train_at_best
        return gets_on

    def _overfits(self, seen: Mapping[str, Array]) -> NDArray[np.bool_]:
        # Validation losses in units of the starting one; of training losses only the order matters.
        now, start = np.exp(seen["val_since_start"]), np.ones_like(self._trailing)
        last, best = (np.exp(seen["val_since_start"] - seen[name]) for name in ("val_since_last", "val_since_best"))
        return overfits(now, last, best, start, seen["train_since_start"], self._train_at_best)

    def _out_of_range(self, seen: Mapping[str, Array]) -> list[list[str]]:
        """Of each schedule the signals, clipped as the policy sees them, that no training of meta-training showed."""
        strange: list[list[str]] = [[] for _ in self._trailing]
        for name, (low, high) in self._ranges.items():
            margin = MARGIN * (high - low)
            value = np.clip(seen[name], -LIMIT, LIMIT)
            for i in np.flatnonzero((value < low - margin) | (value > high + margin)):
                strange[i].append(name)
        return strange


_STATE = ("best", "divergences", "trailing", "train_at_best", "val_start")


def _reason(diverging: bool, trailing: bool, overfitting: bool, far: bool, strange: list[str]) -> str:
    reasons = {
        "taken back again and again": diverging,
        "trails its best validation loss": trailing,
        "overfits": overfitting,
        "first step too long": far,
        f"{', '.join(strange)} outside of what the policy knows": bool(strange),
    }
    return "guard: " + "; ".join(reason for reason, holds in reasons.items() if holds)
