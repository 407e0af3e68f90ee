"""The trials of one past task, as many as are looked at, out of any number of them."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass, field
from typing import Any

from ..envs.past_tasks import MOST_TRIALS
from ..envs.records import TrialState
from .curves import Curve

BEST, OTHERS = MOST_TRIALS // 2, 1_920
"""How many trials are kept, at most: the best ones, as many as a past task looks at, and others at random, so many that
their median hardly differs from that of all. With fewer trials all are."""


@dataclass(frozen=True, slots=True)
class MatchedTrial:
    """A past trial with what it tells of today's hyperparameters.

    Attributes:
        config: Values by name.
        value: To be minimised; None where it did not come to its end.
        curve: Values at each step, as they were told.
        state: How it ended.
    """

    config: dict[str, Any]
    value: float | None
    curve: Curve
    state: TrialState


@dataclass
class TaskSample:
    """A sample that fits in memory: the best trials, and of the others each with the same probability.

    Reservoir sampling (Vitter 1985, algorithm R); what is no longer among the best becomes one of the others.
    """

    count: int = 0
    _best: list[tuple[float, int, MatchedTrial]] = field(default_factory=list)  # a heap: the worst comes first
    _others: list[tuple[int, MatchedTrial]] = field(default_factory=list)
    _seen: int = 0
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def add(self, trial: MatchedTrial) -> None:
        """Another trial."""
        number, self.count = self.count, self.count + 1
        if trial.value is None:
            self._add_other(number, trial)
            return
        # Of equal values the earlier one is the better one; numbers differ, so trials are never compared.
        entry = (-trial.value, -number, trial)
        if len(self._best) < BEST:
            heapq.heappush(self._best, entry)
        else:
            _, worst, dropped = heapq.heappushpop(self._best, entry)
            self._add_other(-worst, dropped)

    def trials(self) -> list[MatchedTrial]:
        """What was kept, in the order in which it came."""
        kept = [*((-number, trial) for _, number, trial in self._best), *self._others]
        return [trial for _, trial in sorted(kept, key=lambda each: each[0])]

    def _add_other(self, number: int, trial: MatchedTrial) -> None:
        self._seen += 1
        if len(self._others) < OTHERS:
            self._others.append((number, trial))
        elif (place := self._random.randrange(self._seen)) < OTHERS:
            self._others[place] = (number, trial)
