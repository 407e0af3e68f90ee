"""Who of several workers tries a configuration that more than one of them has chosen at the same moment."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from ..envs.records import VOID_ATTRIBUTE
from .cut_off_trials import is_cut_off
from .trial_runner import GivenUp

_CLAIMED = "metatuner:claimed"  # a trial's user attribute: its configuration is its own
_LOOK_AGAIN_S, _LONGEST_S = 0.005, 5.0


class Claims:
    """Lets each new configuration of a study be tried once. Several threads may use it.

    Whoever has chosen writes it down, looks who else has, and claims it: the first one by number, unless a later one
    has claimed it already because it looked before this one wrote (Lamport's bakery, 1974).

    Args:
        study: The study.
        may_meet: Tells by its number whether a trial is to differ from all others, and may not.
    """

    def __init__(self, study: Study, may_meet: Callable[[int], bool]) -> None:
        self._study, self._may_meet = study, may_meet
        self._ended: set[tuple[Any, ...]] = set()
        self._open, self._read = set[int](), 0
        self._lock = threading.Lock()

    def __call__(self, trial: Trial) -> None:
        """Claims a trial's configuration.

        Raises:
            GivenUp: It is another's.
        """
        if not self._may_meet(trial.number):
            return
        mine, deadline = _identity(trial.params), time.monotonic() + _LONGEST_S
        while rivals := self._rivals_now(trial.number, mine):
            if None in rivals or any(each is not None and _comes_first(each, trial.number) for each in rivals):
                trial.set_user_attr(VOID_ATTRIBUTE, "another trial has this configuration")
                raise GivenUp
            if time.monotonic() > deadline:  # its worker may have died a moment ago
                break
            time.sleep(_LOOK_AGAIN_S)
        trial.set_user_attr(_CLAIMED, True)

    def _rivals_now(self, number: int, mine: tuple[Any, ...]) -> list[FrozenTrial | None]:
        """Other trials with this configuration that run; None for those that have ended."""
        with self._lock:
            return self._rivals(self._study.get_trials(deepcopy=False), number, mine)

    def _rivals(self, trials: list[FrozenTrial], number: int, mine: tuple[Any, ...]) -> list[FrozenTrial | None]:
        rivals: list[FrozenTrial | None] = []
        for other in sorted({*self._open, *range(self._read, len(trials))}):
            each = trials[other]
            if each.state.is_finished():
                self._open.discard(other)
                if not is_cut_off(each):
                    self._ended.add(_identity(each.params))
                continue
            self._open.add(other)
            runs = each.state is TrialState.RUNNING and VOID_ATTRIBUTE not in each.user_attrs
            if other != number and runs and _identity(each.params) == mine:
                rivals.append(each)
        self._read = len(trials)
        return [*rivals, None] if mine in self._ended else rivals


def _comes_first(rival: FrozenTrial, number: int) -> bool:
    return rival.number < number or _CLAIMED in rival.user_attrs


def _identity(params: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted((name, repr(value)) for name, value in params.items()))
