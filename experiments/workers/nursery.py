"""Starts workers that have imported everything already: a line of arguments on standard input, its process id back.

Imports take seconds of CPU: where a worker is killed every two seconds, few would get beyond them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path

import metatuner.agent.tune  # noqa: F401
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
import torch
from metatuner.__main__ import main


def _sleep(seconds: float) -> None:
    select.select([], [], [], max(seconds, 0.0))


if "libfaketime" in os.environ.get("LD_PRELOAD", ""):
    time.sleep = _sleep  # Python sleeps until a moment of the kernel's, which libfaketime 0.9.10 refuses to do


def nurse(log: Path) -> None:
    """Forks a worker for each line; whoever ends leaves its exit code beside the log, named by its process id."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system forgets whoever has ended
    print("ready", flush=True)
    for line in sys.stdin:
        worker = os.fork()
        if worker == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            try:
                code = main(json.loads(line))
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            (log.parent / f"{os.getpid()}.ended").write_text(str(code))
            sys.exit(code)
        print(worker, flush=True)


if __name__ == "__main__":
    nurse(Path(sys.argv[1]))
