"""An objective in a process of its own: one that crashes, hangs or runs out of memory fails alone."""

from __future__ import annotations

import json
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import cloudpickle

from ..envs.child_process import wait_with_costs
from ..envs.errors import ConfigurationError, TrainingError

_GRACE_S = 2.0
"""How long a child may take to end by itself, once it was told to."""

_LOOK_S = 1.0
"""How often is looked whether a silent child still runs."""

_MOMENT_S = 0.002
"""How often, where it is about to end."""


def packed(objective: Callable[..., Any], config: Mapping[str, Any], folder: Path | None = None) -> bytes:
    """What is sent to the other process; `Child` tells what the arguments are.

    Raises:
        ConfigurationError: It cannot be.
    """
    try:
        job: bytes = cloudpickle.dumps((objective, dict(config), folder))
    except Exception as error:
        raise ConfigurationError(
            f"the objective cannot be sent to a process of its own ({error}): define it, and what it uses, at the top "
            "of a module"
        ) from error
    return job


class Child:
    """Runs an objective on one configuration.

    Usage:

        with Child(objective, config, timeout_s=60) as child:
            for value in child.units():   # one for each unit of budget; leaving the loop stops the objective
                ...
        child.value, child.costs

    What the child prints goes where this process prints.

    Args:
        objective: A function of a configuration, or a generator function. One that cannot be imported by its name, such
            as a lambda, is sent as it is.
        config: The configuration.
        timeout_s: Seconds that it may take in all; None sets no end.
        folder: What `trial_folder()` gives it.

    Attributes:
        pid: The process's id.
        value: What a plain function returned; None before that, and for generators.
        costs: What it cost, once it has ended (`envs.child_process.wait_with_costs`).

    Raises:
        ConfigurationError: The objective or the configuration cannot be sent to another process.
    """

    def __init__(
        self,
        objective: Callable[..., Any],
        config: Mapping[str, Any],
        timeout_s: float | None = None,
        folder: Path | None = None,
    ) -> None:
        job = packed(objective, config, folder)
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        theirs, commands = os.pipe()
        answers, theirs_too = os.pipe()
        command = [sys.executable, "-m", "metatuner.agent.child_main", str(theirs), str(theirs_too), str(os.getpid())]
        try:
            # A session of its own: what it starts is ended with it, and Ctrl-C reaches this process alone.
            self._process = subprocess.Popen(command, pass_fds=(theirs, theirs_too), start_new_session=True)
        except BaseException:
            os.close(commands)
            os.close(answers)
            raise
        finally:
            os.close(theirs)
            os.close(theirs_too)
        self._commands, self._answers = os.fdopen(commands, "wb", buffering=0), answers
        self._listener = select.poll()  # not select, which knows no descriptor above 1023
        self._listener.register(answers, select.POLLIN)
        self._unread = b""
        self.pid = self._process.pid
        self.value: Any = None
        self.costs: dict[str, float] = {}
        self._send(pickle.dumps(sys.path) + job)

    def units(self) -> Iterator[Any]:
        """What the objective yields, one after the other.

        Raises:
            TrainingError: It raised, took too long, or its process ended before it did.
        """
        while True:
            what, value = self._hear()
            if isinstance(value, str):  # an error, or why it is no number
                raise TrainingError(value)
            if what != "unit":
                self.value = value
                return
            yield value
            self._send(b"+")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._commands.close()
        os.close(self._answers)
        if not self.costs:
            self._end(_GRACE_S)

    def _hear(self) -> tuple[str, Any]:
        """The next line of the child."""
        while b"\n" not in self._unread:
            gone = self._is_gone
            ready = self._listener.poll(0 if gone else 1000 * max(min(self._left_s, _LOOK_S), 0.0))
            part = os.read(self._answers, 65536) if ready else b""
            if part:
                self._unread += part
            elif ready or gone:
                self._end(_GRACE_S)
                raise TrainingError(f"its process {_ending(self._process.returncode)} before the objective was done")
            elif self._left_s <= 0.0:
                self._end(0.0)
                raise TrainingError(f"the trial took more than {self._timeout_s:g} s: its process was ended")
        line, _, self._unread = self._unread.partition(b"\n")
        what, value = json.loads(line)
        return what, value

    @property
    def _left_s(self) -> float:
        return math.inf if self._deadline is None else self._deadline - time.monotonic()

    @property
    def _is_gone(self) -> bool:
        """Whether it has ended, though a process that it forked may hold its end of the pipe."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _send(self, data: bytes) -> None:
        # A child that is gone is noticed when it is listened to.
        try:
            while data:
                data = data[self._commands.write(data) or 0 :]
        except BrokenPipeError:
            pass

    def _end(self, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s
        while not self._is_gone and time.monotonic() < deadline:
            time.sleep(_MOMENT_S)
        os.killpg(self.pid, signal.SIGKILL)  # it, if it goes on, and those that it has left behind
        self.costs = wait_with_costs(self._process)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    known = -code in set(signal.Signals)  # real-time signals have no names
    name = signal.Signals(-code).name if known else f"signal {-code}"
    return f"was killed by {name}" + (" (was memory short?)" if name == "SIGKILL" else "")
