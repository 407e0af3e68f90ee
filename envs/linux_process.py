"""What Linux tells of a process under `/proc`. Of a process that is gone, and where there is no `/proc`: None."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")
_KB_PER_MB = 1024


class ProcessTimes(NamedTuple):
    """A process's place and times. They are there until its parent has waited for it.

    Attributes:
        parent: Its parent's id.
        started: When it began, in clock ticks since the machine did. An id that is used again has another one.
        cpu_s: Seconds of CPU, with those of descendants that it has waited for.
    """

    parent: int
    started: int
    cpu_s: float


class ProcessMemory(NamedTuple):
    """A process's resident memory in MiB, shared pages included. It is gone as soon as the process has ended.

    Attributes:
        rss_mb: Now.
        peak_rss_mb: The most that this program has held, whatever ran under this id before.
    """

    rss_mb: float
    peak_rss_mb: float


def process_times(process: int) -> ProcessTimes | None:
    """The times of a process."""
    try:
        text = (PROC / str(process) / "stat").read_text(errors="replace")
        fields = text[text.rindex(")") + 1 :].split()  # the program's name before it may hold anything
        return ProcessTimes(int(fields[1]), int(fields[19]), sum(map(int, fields[11:15])) / _ticks_per_second())
    except (OSError, ValueError, LookupError):
        return None


def process_memory(process: int) -> ProcessMemory | None:
    """The memory of a process."""
    try:
        with (PROC / str(process) / "status").open(errors="replace") as lines:
            status = dict(line.split(":", 1) for line in lines)
        return ProcessMemory(_megabytes(status["VmRSS"]), _megabytes(status["VmHWM"]))
    except (OSError, ValueError, LookupError):
        return None


def processes() -> dict[int, ProcessTimes]:
    """All processes that may be seen, by their ids."""
    try:
        ids = [int(path.name) for path in PROC.iterdir() if path.name.isdecimal()]
    except OSError:
        return {}
    return {process: times for process in ids if (times := process_times(process)) is not None}


def seconds_since(started: int) -> float:
    """How long ago a process began that started at this clock tick."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started / _ticks_per_second()


def _megabytes(amount: str) -> float:
    return int(amount.removesuffix("kB\n")) / _KB_PER_MB


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK")
