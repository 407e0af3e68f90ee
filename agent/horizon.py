"""When decisions fall: evenly spread over a training, or at equal distances, as where its length is not known."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any

from ..envs.errors import ConfigurationError

OPEN_INTERVAL = 100
"""Optimiser steps between decisions of a training without a known end, unless told otherwise."""


class Horizon:
    """The steps and decisions of a training.

    Args:
        total_steps: Optimiser steps of the whole training, at least 1; None where it has no known end.
        decisions: Decisions of a training of known length.
        decide_every: Steps between decisions instead. The last interval is up to half as long again, or as short as a
            half, where they do not fill the training.

    Attributes:
        total_steps: As given, or as `extend` has set it.
        decisions: Decisions of the whole training; None where it has no known end.

    Raises:
        ConfigurationError: A number is not a whole one of at least 1.
    """

    def __init__(self, total_steps: int | None, decisions: int, decide_every: int | None = None) -> None:
        for name, value in (("total_steps", total_steps), ("decide_every", decide_every)):
            if value is not None:
                _require_positive(name, value)
        self.total_steps = None if total_steps is None else int(total_steps)
        self._begins, self._first = 0, 0
        self._every = None if decide_every is None else int(decide_every)
        self.decisions: int | None = None
        if self.total_steps is None:
            self._interval = float(self._every or OPEN_INTERVAL)
        elif self._every is not None:
            self._interval = float(self._every)
            self.decisions = max(1, round(self.total_steps / self._interval))
        else:
            self.decisions = min(decisions, self.total_steps)
            self._interval = self.total_steps / self.decisions

    def goes_on(self, step: int) -> bool:
        """Whether there are steps left after `step`."""
        return self.total_steps is None or step < self.total_steps

    def steps_after(self, decision: int, step: int) -> int:
        """Steps until the next decision, where number `decision` (from 0) falls before step `step`; at least 1."""
        if self.total_steps is None or self.decisions is None:
            return round(self._interval)
        if self._every is not None and decision + 1 < self.decisions:
            return self._every
        after = min(decision + 1, self.decisions) - self._first
        boundary = self._begins + after * (self.total_steps - self._begins) // max(self.decisions - self._first, 1)
        # As a rule the step is the boundary before this decision; one that skipped steps called for comes early.
        return max(1, boundary - step)

    def extend(self, total_steps: int, decision: int, step: int) -> None:
        """Gives the training another end; decisions keep their distance.

        Args:
            total_steps: Optimiser steps of the whole training.
            decision: The number of the next decision.
            step: The step before which it falls.
        """
        _require_positive("total_steps", total_steps)
        self.total_steps = int(total_steps)
        left = self.total_steps - step
        self.decisions = decision + (max(1, round(left / self._interval)) if left > 0 else 0)
        self._begins, self._first = step, decision

    def state_dict(self) -> dict[str, Any]:
        """A handful of numbers."""
        return dict(vars(self))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Back to a state."""
        vars(self).update(state)


def _require_positive(name: str, value: object) -> None:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        also = ", or None for a training without a known end" if name == "total_steps" else ""
        raise ConfigurationError(f"{name} must be a whole number of at least 1 optimiser steps{also}, got {value!r}")
