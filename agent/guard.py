"""Overrules a policy that is out of its depth.

A policy extrapolates badly: where a training looks like none that it learnt on, its adjustments mean nothing. The guard
watches for that and for its consequences. Where it speaks up, hyperparameters go back to where the validation loss was
last at its best, which is the reference itself as long as nothing was better, and no learning rate is raised.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..envs.controller import ScheduleController
from ..envs.signals import LIMIT

Array = NDArray[np.float64]

MOST_DIVERGENCES = 2
"""More diverged intervals than this in one training are not bad luck."""

TRAILING = float(np.log(1.2))
"""A validation loss so far above the best one (natural log) trails it."""

TRAILING_FOR = 4
"""So many validations in a row above it are not noise, nor a rate that is high for the moment."""

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
        self._follow(controller, seen)
        diverging, trailing = self._divergences > MOST_DIVERGENCES, self._trailing >= TRAILING_FOR
        strange = self._out_of_range(seen)
        back = trailing | np.array([bool(names) for names in strange])
        wanted = np.where(back[:, None], controller.action_to(self._best), action)
        calmed = controller.is_rate & (back | diverging)[:, None]
        wanted = np.where(calmed, np.minimum(wanted, 0.0), wanted)
        overruled = np.any(wanted != action, axis=1)
        reasons = zip(overruled, diverging, trailing, strange, strict=True)
        return wanted, [_reason(*why) if changed else "" for changed, *why in reasons]

    def state_dict(self) -> dict[str, Array]:
        """A copy of the state: a handful of numbers a schedule."""
        return {name: getattr(self, f"_{name}").copy() for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Back to a state, bit for bit."""
        for name in _STATE:
            setattr(self, f"_{name}", np.array(state[name]))

    def _follow(self, controller: ScheduleController, seen: Mapping[str, Array]) -> None:
        diverged, fresh = seen["diverged"] > 0, seen["val_age"] == 0
        better = fresh & ~diverged & (seen["val_since_best"] < 0)
        self._best = np.where(better[:, None], controller.offset, self._best)
        self._divergences = self._divergences + diverged
        behind = np.where(seen["val_since_best"] > TRAILING, self._trailing + 1, 0.0)
        self._trailing = np.where(fresh, behind, self._trailing)

    def _out_of_range(self, seen: Mapping[str, Array]) -> list[list[str]]:
        """Of each schedule the signals, clipped as the policy sees them, that no training of meta-training showed."""
        strange: list[list[str]] = [[] for _ in self._trailing]
        for name, (low, high) in self._ranges.items():
            margin = MARGIN * (high - low)
            value = np.clip(seen[name], -LIMIT, LIMIT)
            for i in np.flatnonzero((value < low - margin) | (value > high + margin)):
                strange[i].append(name)
        return strange


_STATE = ("best", "divergences", "trailing")


def _reason(diverging: bool, trailing: bool, strange: list[str]) -> str:
    reasons = {
        "keeps diverging": diverging,
        "trails its best validation loss": trailing,
        f"{', '.join(strange)} outside of what the policy knows": bool(strange),
    }
    return "guard: " + "; ".join(reason for reason, holds in reasons.items() if holds)
