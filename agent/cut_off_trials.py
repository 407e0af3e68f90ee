"""Trials that a killed worker, or Ctrl-C, has cut off: they cost nothing and are tried again, each by one worker."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from ..envs.linux_process import process_times
from ..envs.records import MESSAGE_ATTRIBUTE, OWNER_ATTRIBUTE, VOID_ATTRIBUTE

GIVEN_ATTRIBUTE = "metatuner:given"  # a trial's user attribute: its configuration was given, and is tried once
RETRY_ATTRIBUTE = "metatuner:retry_of"  # a trial's user attribute: the number of the one that it repeats
_TRIES_ATTRIBUTE = "metatuner:tries"  # a trial's user attribute: how many times its configuration was cut off before
_FIRST_ATTRIBUTE = "metatuner:first_try"  # a trial's user attribute: the number of the first that had its configuration
MOST_TRIES = 5
"""A configuration that was cut off so many times has failed: it may be what kills its workers."""
_KILLS = f"its worker was gone in the middle, {MOST_TRIES} times: it may be what kills them (was memory short?)"


def this_process() -> str:
    """This process's name among all that there ever were: host, id, and when it began (where the system tells)."""
    return _name_of(os.getpid())


def is_cut_off(trial: FrozenTrial) -> bool:
    """Whether a trial of `tune` ended without having failed by itself: it costs nothing."""
    attributes = trial.user_attrs
    if trial.state is not TrialState.FAIL or OWNER_ATTRIBUTE not in attributes or MESSAGE_ATTRIBUTE in attributes:
        return False
    return VOID_ATTRIBUTE in attributes or not _is_last_try(trial)


def _is_last_try(trial: FrozenTrial) -> bool:
    return int(trial.user_attrs.get(_TRIES_ATTRIBUTE, 0)) + 1 >= MOST_TRIES


def is_to_be_retried(trial: FrozenTrial) -> bool:
    """Whether a trial was cut off with a configuration that is to be tried again."""
    return is_cut_off(trial) and VOID_ATTRIBUTE not in trial.user_attrs and bool(trial.params)


def first_try(trial: FrozenTrial | Trial) -> int:
    """The number of the trial that this one repeats, or repeats a repetition of; its own where it repeats none."""
    return int(trial.user_attrs.get(_FIRST_ATTRIBUTE, trial.number))


def retried(trials: Iterable[FrozenTrial]) -> set[int]:
    """Numbers of the trials that others repeat, or will."""
    found = (each.user_attrs.get(RETRY_ATTRIBUTE) for each in trials if VOID_ATTRIBUTE not in each.user_attrs)
    return {number for number in found if number is not None}


def retry_cut_off(study: Study, is_gone: Callable[[FrozenTrial], bool]) -> None:
    """Ends the running trials whose worker is gone, and enqueues the configurations of all that were cut off.

    Workers that do so at the same moment may enqueue a configuration twice: the later one is void, see `is_repeated`.

    Args:
        study: The study.
        is_gone: Tells whether nobody runs a running trial any more.
    """
    trials = study.get_trials(deepcopy=False)
    for trial in trials:
        if trial.state is TrialState.RUNNING and is_gone(trial):
            end(study, trial)
    trials = study.get_trials(deepcopy=False)
    there = retried(trials)
    for trial in trials:
        if is_to_be_retried(trial) and trial.number not in there:
            kept = {
                RETRY_ATTRIBUTE: trial.number,
                _TRIES_ATTRIBUTE: trial.user_attrs.get(_TRIES_ATTRIBUTE, 0) + 1,
                _FIRST_ATTRIBUTE: first_try(trial),
            }
            study.enqueue_trial(trial.params, user_attrs=kept)


def end(study: Study, trial: FrozenTrial, void: str = "") -> None:
    """Ends a trial that nobody runs; another worker may do so at the same moment.

    Args:
        study: The study.
        trial: The trial.
        void: Why it never began; empty where it was cut off.
    """
    with contextlib.suppress(UpdateFinishedTrialError, ValueError):  # it has ended
        if OWNER_ATTRIBUTE not in trial.user_attrs:
            study._storage.set_trial_user_attr(trial._trial_id, OWNER_ATTRIBUTE, this_process())
        if void:
            study._storage.set_trial_user_attr(trial._trial_id, VOID_ATTRIBUTE, void)
        elif _is_last_try(trial):
            study._storage.set_trial_user_attr(trial._trial_id, MESSAGE_ATTRIBUTE, _KILLS)
        study.tell(trial.number, state=TrialState.FAIL)


def give_back(study: Study, trial: FrozenTrial, why: str) -> None:
    """Ends a trial that was taken from the queue too early, and enqueues it anew."""
    end(study, trial, void=why)
    names = (GIVEN_ATTRIBUTE, RETRY_ATTRIBUTE, _TRIES_ATTRIBUTE, _FIRST_ATTRIBUTE)
    kept = {name: trial.user_attrs[name] for name in names if name in trial.user_attrs}
    study.enqueue_trial(trial.system_attrs["fixed_params"], user_attrs=kept)


def is_repeated(trial: FrozenTrial, trials: Iterable[FrozenTrial]) -> bool:
    """Whether an earlier trial repeats the same one that was cut off, or was given the same configuration.

    Workers that begin, or look, at the same moment enqueue what the others do.
    """
    mine = _enqueued_as(trial)
    return mine is not None and any(
        _enqueued_as(each) == mine and VOID_ATTRIBUTE not in each.user_attrs
        for each in trials
        if each.number < trial.number
    )


def _enqueued_as(trial: FrozenTrial) -> tuple[str, Any] | None:
    """Why a trial was enqueued; None for one that was not."""
    attributes = trial.user_attrs
    if RETRY_ATTRIBUTE in attributes:
        return RETRY_ATTRIBUTE, attributes[RETRY_ATTRIBUTE]
    if GIVEN_ATTRIBUTE in attributes:
        return GIVEN_ATTRIBUTE, trial.system_attrs.get("fixed_params")
    return None


def is_orphan(owner: str) -> bool:
    """Whether an owner was a process of this machine that has ended."""
    host, _, rest = owner.partition("/")
    process, _, began = rest.partition("/")
    if host != _host() or not (process.isascii() and process.isdigit()):
        return False
    return _name_of(int(process)) != f"{host}/{process}/{began.partition('/')[0]}"


def _name_of(process: int) -> str:
    times = process_times(process)
    return f"{_host()}/{process}/{times.started if times is not None else 'gone'}"


@functools.cache
def _host() -> str:
    """This machine's name, and what tells it from others of this name: containers may share it, but no process ids."""
    parts = []
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    told = hashlib.sha256("".join(parts).encode()).hexdigest()[:8]
    return f"{socket.gethostname()}:{told}"
