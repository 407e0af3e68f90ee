"""What of a study's budget is left, and the best value so far: read trial by trial, so that long studies stay fast."""

from __future__ import annotations

import math
import threading
from collections import Counter

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..envs.constraints import is_allowed
from ..envs.records import VOID_ATTRIBUTE
from .cut_off_trials import RETRY_ATTRIBUTE, is_cut_off, is_to_be_retried

KNOWN_ATTRIBUTE = "metatuner:known"  # a trial's user attribute: its value was given, nobody tried it
UNITS_ATTRIBUTE = "metatuner:units"  # a trial's user attribute: how many units of budget it spent


class Purse:
    """What all trials of a study cost together, those of other processes too.

    A trial that has ended changes no more: it is counted once. Each look reads the ones that are new and the ones that
    had not ended, however many there are.

    Args:
        study: The study.
        budget: Full trainings that may be spent.
        units: Units of budget of a full training; None where every trial costs a full one.

    Attributes:
        budget: Full trainings that may be spent.
        best: The best finite value of trials that finished and are allowed, as of the last look; None before one is.
        waiting: Trials that are enqueued and that nobody has begun, as of the last look.
        trials: All trials, by number, as of the last look.
    """

    def __init__(self, study: Study, budget: int, units: int | None) -> None:
        self.budget = budget
        self.best: float | None = None
        self.waiting = 0
        self._study, self._units = study, units
        self._better = max if study.direction is StudyDirection.MAXIMIZE else min
        self._spent = 0  # in units where a full training has some: whole numbers add up without rounding
        self._read, self._open = 0, set[int]()
        self._lost, self._repeats = set[int](), Counter[int]()  # cut off trials, and how many trials repeat each
        self.trials: list[FrozenTrial] = []
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """Counts what has ended since the last look."""
        with self._lock:
            trials = self._study.get_trials(deepcopy=False)  # by number, without a gap
            for number in [*self._open, *range(self._read, len(trials))]:
                self._take(trials[number])
            self._read, self.trials = len(trials), trials
            self.waiting = sum(trials[number].state is TrialState.WAITING for number in self._open)

    @property
    def spent(self) -> float:
        """Full trainings that were spent, as of the last look."""
        return self._spent / (self._units or 1)

    @property
    def left(self) -> float:
        """Full trainings that may still be spent."""
        return max(self.budget - self.spent, 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether no more may be spent."""
        return self.left == 0.0

    def can_pay(self, number: int | None = None) -> bool:
        """Whether the budget is enough for one more trial, if all that have begun or wait before it are full trainings.

        Workers that begin trials at the same moment agree on whose turn it is: the lower number's.

        Args:
            number: The trial's number; None for one that is yet to begin.
        """
        with self._lock:
            before = sum(number is None or other < number for other in self._unfinished())
        return self.left > before

    def can_pay_waiting(self) -> bool:
        """Whether the budget is enough for the first of the trials that wait."""
        queue = self.queue()
        return bool(queue) and self.can_pay(queue[0].number)

    @property
    def unfinished(self) -> int:
        """Trials that run, wait, or were cut off and are to be tried again, as of the last look."""
        with self._lock:
            return len(self._unfinished())

    def queue(self) -> list[FrozenTrial]:
        """Trials that wait, in their order, as of the last look."""
        if not self.waiting:
            return []
        with self._lock:
            return [self.trials[each] for each in sorted(self._open) if self.trials[each].state is TrialState.WAITING]

    def _unfinished(self) -> set[int]:
        return self._open | {number for number in self._lost if not self._repeats[number]}

    def _take(self, trial: FrozenTrial) -> None:
        first = trial.user_attrs.get(RETRY_ATTRIBUTE)
        if first is not None and trial.number not in self._open:
            self._repeats[first] += 1
        if not trial.state.is_finished():
            self._open.add(trial.number)
            return
        if first is not None and VOID_ATTRIBUTE in trial.user_attrs:
            self._repeats[first] -= 1
        if is_to_be_retried(trial):
            self._lost.add(trial.number)
        self._open.discard(trial.number)
        self._spent += cost_of(trial, self._units)
        if trial.state is TrialState.COMPLETE and is_allowed(trial) and math.isfinite(trial.values[0]):
            value = float(trial.values[0])
            self.best = value if self.best is None else self._better(self.best, value)


def cost_of(trial: FrozenTrial, units: int | None) -> int:
    """Units of budget that a trial which has ended took; full trainings where nobody counts units.

    Args:
        trial: The trial.
        units: Units of budget of a full training; None where every trial costs a full one.
    """
    if units is None:
        return int(KNOWN_ATTRIBUTE not in trial.user_attrs and not is_cut_off(trial))
    return spent_units(trial, units)


def spent_units(trial: FrozenTrial, units: int) -> int:
    """Units of budget that a trial which has ended took, of a study where a full training has so many."""
    if KNOWN_ATTRIBUTE in trial.user_attrs or is_cut_off(trial):
        return 0
    # One that got nowhere costs a full training: whatever costs nothing may be tried without end.
    return int(trial.user_attrs.get(UNITS_ATTRIBUTE, len(trial.intermediate_values))) or units
