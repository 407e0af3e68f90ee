"""Trials that a killed process, or Ctrl-C, has cut off: they cost nothing and are tried again."""

from __future__ import annotations

import os
import socket

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..envs.linux_process import process_times

OWNER_ATTRIBUTE = "metatuner:owner"  # a trial's user attribute: which process runs it
MESSAGE_ATTRIBUTE = "metatuner:message"  # a trial's user attribute: why it failed
_RETRY_ATTRIBUTE = "metatuner:retry_of"  # a trial's user attribute: the number of the one that it repeats


def this_process() -> str:
    """This process's name among all that there ever were: host, id, and when it began (where the system tells)."""
    return _name_of(os.getpid())


def is_cut_off(trial: FrozenTrial) -> bool:
    """Whether a trial of `tune` ended without having failed by itself."""
    attributes = trial.user_attrs
    return trial.state is TrialState.FAIL and OWNER_ATTRIBUTE in attributes and MESSAGE_ATTRIBUTE not in attributes


def retry_cut_off(study: Study) -> None:
    """Ends the trials of this machine whose process is gone, and enqueues the configurations of all that were cut off.

    Trials of other machines may still run: those are for their heartbeat to tell of, see `optuna.storages.RDBStorage`.
    """
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if _is_orphan(trial):
            study.tell(trial.number, state=TrialState.FAIL)
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get(_RETRY_ATTRIBUTE) for trial in trials}
    for trial in trials:
        if is_cut_off(trial) and trial.number not in retried and trial.params:
            study.enqueue_trial(trial.params, user_attrs={_RETRY_ATTRIBUTE: trial.number})


def _is_orphan(trial: FrozenTrial) -> bool:
    host, _, process = str(trial.user_attrs.get(OWNER_ATTRIBUTE, "")).partition("/")
    number = process.partition("/")[0]
    if host != socket.gethostname() or not (number.isascii() and number.isdigit()):
        return False
    return _name_of(int(number)) != f"{host}/{process}"


def _name_of(process: int) -> str:
    times = process_times(process)
    return f"{socket.gethostname()}/{process}/{times.started if times is not None else 'gone'}"
