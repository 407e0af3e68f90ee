"""The child process of `agent.child`: loads an objective, runs it, tells what it gives.

    python -m metatuner.agent.child_main READ WRITE PARENT

READ and WRITE are file descriptors, PARENT is the parent's process id: the child ends with it. The parent sends a
pickle of its `sys.path`, then one of the objective and its configuration; the child answers with lines of JSON. After
each unit it waits for the parent's word to go on. What is no number comes as a text that says so.

These pickles were made by the parent a moment ago and come over a pipe that nobody else holds; nothing from a storage,
a file or a network is ever unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

from .answers import as_number, error_text
from .trial_folder import within

_LOOK_S = 0.5
_SOONER, _SOONEST = 300, 1000  # of `/proc/PID/oom_score_adj`: thousandths of the machine's memory


def main(read: int, write: int, parent: int) -> None:
    """Runs the objective that is sent."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    _come_before_the_parent()
    # Where the pipe is broken nobody listens any more: the search was interrupted.
    with (
        contextlib.suppress(BrokenPipeError),
        os.fdopen(read, "rb") as commands,
        os.fdopen(write, "w", encoding="utf-8") as answers,
    ):
        # First the path: what is pickled by name must be found.
        sys.path[:] = pickle.load(commands)
        try:
            objective, config, folder = pickle.load(commands)
            with within(folder):
                found = objective(config)
                if isinstance(found, Generator):
                    _run_units(found, commands, answers)
                else:
                    _tell(answers, "value", as_number(found))
        except SystemExit:
            raise  # its exit code tells
        except BaseException as error:
            _tell(answers, "error", error_text(error))


def _end_with(parent: int) -> None:
    """A parent that was killed can end nothing; what this process has started, in its own session, ends too."""
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    # Not SIGTERM: it would end this process, and leave what does not heed it.
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _come_before_the_parent() -> None:
    """Where memory gets short, Linux is to kill this process and not the worker that would start the next one."""
    own = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        own.write_text(str(min(int(own.read_text()) + _SOONER, _SOONEST)))


def _run_units(units: Generator[Any, None, None], commands: IO[bytes], answers: IO[str]) -> None:
    for found in units:
        if not _tell(answers, "unit", as_number(found)) or commands.read(1) != b"+":
            units.close()
            return
    _tell(answers, "end", None)


def _tell(answers: IO[str], what: str, value: float | str | None) -> bool:
    """Whether anybody listens."""
    try:
        answers.write(json.dumps([what, value]) + "\n")
        answers.flush()
    except BrokenPipeError:
        return False
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
