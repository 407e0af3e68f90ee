"""What a child process cost, from whoever waits for it: exact also for one that is too short to be looked at."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from typing import Any

from .linux_process import process_memory, process_times, seconds_since
from .rusage import cpu_s, peak_rss_mb

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.001, 0.02


def wait_with_costs(process: subprocess.Popen[Any], timeout: float | None = None) -> dict[str, float]:
    """Waits for a child process and tells what it cost, for `TrialFinished(costs=...)`.

    - `resource/wall_s`: from its start until it was waited for: call this at once. Only on Linux.
    - `resource/cpu_s`: its own, and that of all descendants that were waited for, each by its parent. What outlives its
      parent, or is killed with it, is not in it.
    - `resource/peak_rss_mb`: the most that one process held, it or such a descendant; not their sum. The system counts
      the peak of this process as the child's wherever that is higher. Then the figure is the child's alone, as last
      seen up to 0.02 s before its end (Linux), or left out.

    `process.returncode` is set as by `process.wait()`, and a pipe that nobody reads blocks the child as it does there.
    Nobody else may wait for the process at the same time.

    Args:
        process: The child.
        timeout: Seconds to wait at most.

    Returns:
        The figures that can be told; none where the process was waited for before.

    Raises:
        subprocess.TimeoutExpired: It still runs. It may be waited for again.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    times, seen_mb = process_times(process.pid), None
    pause = _FIRST_PAUSE_S
    while process.returncode is None:
        if (memory := process_memory(process.pid)) is not None:
            seen_mb = memory.peak_rss_mb
        try:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        except ChildProcessError:
            process.wait()  # the system has forgotten it: what that means is for `subprocess` to say
            break
        if ended:
            process.returncode = os.waitstatus_to_exitcode(status)
            wall = {"resource/wall_s": seconds_since(times.started)} if times is not None else {}
            return {**wall, "resource/cpu_s": cpu_s(usage), **_peak(usage, seen_mb)}
        if timeout is not None and deadline is not None and time.monotonic() >= deadline:
            raise subprocess.TimeoutExpired(process.args, timeout)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return {}


def _peak(usage: resource.struct_rusage, seen_mb: float | None) -> dict[str, float]:
    told_mb = peak_rss_mb(usage)
    if told_mb > peak_rss_mb(resource.getrusage(resource.RUSAGE_SELF)):
        return {"resource/peak_rss_mb": told_mb}
    return {"resource/peak_rss_mb": seen_mb} if seen_mb is not None else {}
