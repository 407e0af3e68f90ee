"""What of a study's budget is left, and the best value so far: read trial by trial, so that long studies stay fast."""

from __future__ import annotations

import threading

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .cut_off_trials import is_cut_off

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
        best: The best value of all trials that finished and are allowed, as of the last look; None before there is one.
        waiting: Trials that are enqueued and that nobody has begun, as of the last look.
    """

    def __init__(self, study: Study, budget: int, units: int | None) -> None:
        self.budget = budget
        self.best: float | None = None
        self.waiting = 0
        self._study, self._units = study, units
        self._better = max if study.direction is StudyDirection.MAXIMIZE else min
        self._spent = 0  # in units where a full training has some: whole numbers add up without rounding
        self._read, self._open = 0, set[int]()
        self._lock = threading.Lock()
        self.look()

    def look(self) -> None:
        """Counts what has ended since the last look."""
        with self._lock:
            trials = self._study.get_trials(deepcopy=False)  # by number, without a gap
            for number in [*self._open, *range(self._read, len(trials))]:
                self._take(trials[number])
            self._read = len(trials)
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

    def _take(self, trial: FrozenTrial) -> None:
        if not trial.state.is_finished():
            self._open.add(trial.number)
            return
        self._open.discard(trial.number)
        self._spent += cost_of(trial, self._units)
        if trial.state is TrialState.COMPLETE and all(excess <= 0.0 for excess in trial.constraints.values()):
            value = float(trial.values[0])
            self.best = value if self.best is None else self._better(self.best, value)


def cost_of(trial: FrozenTrial, units: int | None) -> int:
    """Units of budget that a trial which has ended took; full trainings where nobody counts units.

    Args:
        trial: The trial.
        units: Units of budget of a full training; None where every trial costs a full one.
    """
    if KNOWN_ATTRIBUTE in trial.user_attrs or is_cut_off(trial):
        return 0
    if units is None:
        return 1
    # One that got nowhere costs a full training: whatever costs nothing may be tried without end.
    return int(trial.user_attrs.get(UNITS_ATTRIBUTE, len(trial.intermediate_values))) or units
