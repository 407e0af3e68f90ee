"""What the system's accounting (`getrusage`, `wait4`) tells, in the same units on every platform."""

from __future__ import annotations

import resource
import sys

MB = 2**20
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def cpu_s(usage: resource.struct_rusage) -> float:
    """Seconds of CPU, in user and in system mode."""
    return usage.ru_utime + usage.ru_stime


def peak_rss_mb(usage: resource.struct_rusage) -> float:
    """The most memory that one process has held, in MiB.

    On Linux a process that begins a program with `exec` hands on the peak of the one before: that of the program that
    started it.
    """
    return usage.ru_maxrss * _RSS_UNIT / MB
