"""Which workers of a study live: each shows signs of life in the study's storage, whatever storage that is.

Optuna's own heartbeat is a table of its databases, which journal files and the gRPC proxy have not; so a worker's sign
is a number among the study's user attributes that grows. Whoever watches needs no clock in common with it: a worker is
gone that has been silent for as long as the watcher itself has watched. A storage that is away, or a watcher that was
suspended, is nobody's silence.

One of those that live leads: it alone records what concerns the study as a whole.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from optuna.study import Study

from .cut_off_trials import is_orphan, this_process

DEFAULT_BEAT_S = 10.0
"""Seconds between two signs of life."""

_SILENT = 5  # signs that are missed by whoever is gone
_WORKER, _LEADER = "metatuner:worker:", "metatuner:leader"  # user attributes of a study
_LEFT = 0  # the sign of a worker that has ended as it should
_log = logging.getLogger(__name__)
_SETTLING_S = 0.1  # claims to lead at the same moment: the last one to be written stands


@dataclass
class _Watched:
    sign: int
    every_s: float
    silent_s: float = 0.0


def _read(value: object) -> tuple[int, float] | None:
    """A worker's sign, and seconds between two; None where it has left, or where it is no sign at all."""
    match value:
        case [int(sign), int() | float() as every_s] if 0.0 < every_s < math.inf:
            return sign, float(every_s)
    return None


class RollCall:
    """The workers of a study, as one of them sees them. Several threads may use it.

    Args:
        study: The study.
        every_s: Seconds between two signs of life of this worker.
        made: Whether this worker has just made the study, so that nobody else can lead.

    Attributes:
        name: This worker's name among all that there ever were.
        leads: Whether it leads, as of the last look.
    """

    def __init__(self, study: Study, every_s: float = DEFAULT_BEAT_S, *, made: bool = False) -> None:
        self.name = f"{this_process()}/{uuid.uuid4().hex[:8]}"
        self.every_s, self.leads = every_s, made
        self._study, self._sign, self._looked_s = study, 0, time.monotonic()
        self._watched: dict[str, _Watched] = {}
        self._leader: str | None = None
        self._lock = threading.Lock()
        if made:
            study.set_user_attr(_LEADER, self.name)
        self.show()
        self.look()

    def show(self) -> None:
        """Shows a sign of life."""
        self._sign += 1
        self._shown_s = time.monotonic()
        self._study.set_user_attr(_WORKER + self.name, [self._sign, self.every_s])

    def show_if_due(self) -> None:
        """Shows one where the last is long ago, such as after the process was suspended: before a trial begins."""
        if time.monotonic() - self._shown_s > 1.5 * self.every_s:
            self.show()

    def look(self) -> None:
        """Looks who has shown one since the last look, and who leads."""
        attributes = self._study.user_attrs
        with self._lock:
            now = time.monotonic()
            passed, self._looked_s = min(now - self._looked_s, self.every_s), now
            shown = {key.removeprefix(_WORKER): value for key, value in attributes.items() if key.startswith(_WORKER)}
            for name in self._watched.keys() - shown:  # such as the owner of a trial who has never shown a sign
                self._watched[name].silent_s += passed
            for name, value in shown.items():
                self._watch(name, value, passed)
        leader = attributes.get(_LEADER)
        self._elect(leader if isinstance(leader, str) else None)

    def _watch(self, name: str, value: Any, passed_s: float) -> None:
        sign, every_s = _read(value) or (_LEFT, self.every_s)
        before = self._watched.get(name)
        if before is None or before.sign != sign:
            self._watched[name] = _Watched(sign, every_s)
        else:
            before.silent_s += passed_s

    def is_gone(self, owner: str) -> bool:
        """Whether a worker has ended, or is taken for dead."""
        if owner == self.name:
            return False
        if is_orphan(owner):
            return True
        with self._lock:
            # One that has never shown a sign is watched from now on.
            watched = self._watched.setdefault(owner, _Watched(-1, self.every_s))
            return watched.sign == _LEFT or watched.silent_s > _SILENT * watched.every_s

    def others(self) -> list[str]:
        """Names of the other workers that live."""
        with self._lock:
            known = [name for name, watched in self._watched.items() if watched.sign > _LEFT]
        return sorted(name for name in known if name != self.name and not self.is_gone(name))

    def _elect(self, leader: str | None) -> None:
        self._leader = leader
        if leader is not None and leader != self.name and not self.is_gone(leader):
            self.leads = False
        elif leader != self.name and min([self.name, *self.others()]) == self.name:
            self._study.set_user_attr(_LEADER, self.name)
            self._leader = self.name
            time.sleep(_SETTLING_S)
            self.leads = self._study.user_attrs.get(_LEADER) == self.name
        else:
            self.leads = leader == self.name

    @property
    def has_leader(self) -> bool:
        """Whether somebody who lives leads, as of the last look."""
        return self.leads or (self._leader is not None and not self.is_gone(self._leader))

    def leave(self) -> None:
        """This worker ends. One that cannot say so is taken for dead after a while."""
        with contextlib.suppress(Exception):
            self._study.set_user_attr(_WORKER + self.name, _LEFT)


class Beating:
    """Shows signs of life and looks around, in a thread, until it is closed.

    Args:
        roll: The roll call.

    Attributes:
        then: What is done after each look.
    """

    def __init__(self, roll: RollCall) -> None:
        self._roll = roll
        self.then: Callable[[], None] = lambda: None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metatuner-roll-call", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._roll.every_s):
            try:
                self._roll.show()
                self._roll.look()
                self.then()
            except Exception as error:
                _log.warning("the study's storage takes no sign of life (%s); another one is shown later", error)

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        self._thread.join()
