"""Two workers whose study lies on a disk that is full for a while, then full until they give up.

The disk is a file system of its own in memory, of two megabytes, beside which a file takes all the room that is left.
"""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from crew import Crew, found

SIZE = "2m"
FULL_S = 3.0
STORAGES = {"journal file": "{}/study.journal", "SQLite": "sqlite:///{}/study.db"}


def run(storage: str, trials: int, folder: Path, limit_s: float) -> dict[str, Any]:
    """Runs it.

    Args:
        storage: Which of `STORAGES`.
        trials: The study's budget.
        folder: Where everything is kept.
        limit_s: Seconds after which it is given up.

    Returns:
        What was done, and what was found.
    """
    deadline = time.monotonic() + limit_s

    def wait_for(what: Callable[[], object]) -> None:
        while not what():
            if time.monotonic() > deadline:
                raise SystemExit(f"the study on a full disk ({storage}) has not ended in {limit_s:g} s: {crew.said}")
            time.sleep(0.2)

    with small_disk(folder / "disk") as disk:
        crew = Crew(folder, STORAGES[storage].format(disk), trials, 2)
        try:
            crew.fill()
            wait_for(lambda: crew.done() >= trials / 4)
            fill(disk)
            wait_for(lambda: "free some space" in crew.said)
            time.sleep(FULL_S)
            living = len(crew.live)
            free(disk)
            wait_for(lambda: crew.done() >= trials / 2)
            fill(disk)
            began = time.monotonic()
            wait_for(lambda: not crew.live)
            gave_up_s, given_up = time.monotonic() - began, crew.codes(1.0)
            before = {trial.number: trial.value for trial in crew.study.trials if trial.value is not None}
            said = crew.said.splitlines()
            free(disk)
            crew.begin_anew()
            wait_for(lambda: not crew.live)
            after = {trial.number: trial.value for trial in crew.study.trials if trial.value is not None}
            return {
                "storage": storage,
                f"workers that wait while the disk is full for {FULL_S:g} s": living,
                "full for good: gave up after, seconds": round(gave_up_s),
                "exit codes": given_up,
                "lines with an error": sorted({line for line in said if "error" in line}),
                "other lines": sorted({line for line in said if "error" not in line and "free some" not in line}),
                "finished before, and there afterwards": f"{len(before.items() & after.items())} of {len(before)}",
                "exit codes of the same command, with room": crew.codes(1.0),
                **found(crew, trials),
            }
        finally:
            crew.end()


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[Path]:
    """A disk of `SIZE`."""
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]).returncode:
        raise SystemExit("expected to be allowed to mount a small disk, as the superuser is")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    """Leaves no room at all."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size):
                    pass


def free(disk: Path) -> None:
    """Makes room again."""
    (disk / "ballast").unlink()
