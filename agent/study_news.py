"""Tells the recorder of a shared study's leader what all workers' trials came to, as the study's storage has it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import datetime

from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ..envs.constraints import excess_of
from ..envs.records import (
    MESSAGE_ATTRIBUTE,
    VOID_ATTRIBUTE,
    WHY_ATTRIBUTE,
    Recorder,
    StudyLed,
    TrialSeen,
    TrialState,
)
from .cut_off_trials import is_cut_off
from .purse import KNOWN_ATTRIBUTE
from .trial_queue import KNOWN

_STATES = {
    OptunaState.COMPLETE: TrialState.FINISHED,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}


class StudyNews:
    """What the leader's recorder is told. Several threads may use it.

    Args:
        study: The study.
        recorder: The recorder.
        strategy: Who proposes.
    """

    def __init__(self, study: Study, recorder: Recorder, strategy: str) -> None:
        self._study, self._recorder, self._strategy = study, recorder, strategy
        self._led, self._read, self._open = False, 0, set[int]()
        self._lock = threading.Lock()

    def tell(self, leads: bool) -> None:
        """Tells whether this worker leads, where that has changed, and if it does, which trials have ended since."""
        with self._lock:
            if leads != self._led:
                self._led = leads
                self._recorder.record(StudyLed(leads=leads))
            if not leads:
                return
            trials = self._study.get_trials(deepcopy=False)
            for number in sorted({*self._open, *range(self._read, len(trials))}):
                if not trials[number].state.is_finished():
                    self._open.add(number)
                    continue
                self._open.discard(number)
                if VOID_ATTRIBUTE not in trials[number].user_attrs:
                    is_known = KNOWN_ATTRIBUTE in trials[number].user_attrs
                    self._recorder.record(_seen(trials[number], KNOWN if is_known else self._strategy))
            self._read = len(trials)


def _seen(trial: FrozenTrial, strategy: str) -> TrialSeen:
    state = TrialState.KILLED if is_cut_off(trial) else _STATES[trial.state]
    why = trial.user_attrs.get(WHY_ATTRIBUTE)
    begun = trial.datetime_start or trial.datetime_complete
    return TrialSeen(
        trial=trial.number,
        name=strategy,
        started_ms=_ms(begun),
        time_ms=_ms(trial.datetime_complete),
        params=trial.params,
        why=why if isinstance(why, Mapping) else {},
        excess=excess_of(trial),
        state=state,
        value=trial.value if state in (TrialState.FINISHED, TrialState.PRUNED) else None,
        message=str(trial.user_attrs.get(MESSAGE_ATTRIBUTE, "")) if state is TrialState.FAILED else "",
    )


def _ms(moment: datetime | None) -> int:
    return 0 if moment is None else int(moment.timestamp() * 1000)
