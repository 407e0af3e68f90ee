"""Whose time and memory a trial's figures are: those of this process, of one thread, or of a child process."""

from __future__ import annotations

import os
import resource
import threading
import time
from typing import NamedTuple, Protocol

from ..envs import rusage
from ..envs.linux_process import process_memory, process_times, processes
from .gpu import GpuMeter, TorchGpu, TreeGpu


class Reading(NamedTuple):
    """Counters as of now; None where the system does not tell."""

    cpu_s: float | None = None
    rss_mb: float | None = None
    peak_rss_mb: float | None = None


class Scope(Protocol):
    """Somebody whose counters can be read.

    Attributes:
        name: The value of the tag `metatuner.resource_scope`.
        whose: What the names of figures begin with that are not its own, but those of the process around it.
        gpu: Its GPUs.
    """

    name: str
    whose: str
    gpu: GpuMeter

    def read(self) -> Reading:
        """Its counters."""


class WholeProcess:
    """This process, with all of its threads and without its children."""

    name = "process"
    whose = ""

    def __init__(self) -> None:
        self.gpu: GpuMeter = TorchGpu()

    def read(self) -> Reading:
        """Its counters."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        if (memory := process_memory(os.getpid())) is not None:
            return Reading(rusage.cpu_s(usage), memory.rss_mb, memory.peak_rss_mb)
        return Reading(rusage.cpu_s(usage), None, rusage.peak_rss_mb(usage))


class OneThread:
    """One thread of this process. Only its CPU time is its own; memory belongs to the process.

    Args:
        ident: Its `threading.get_ident()`.
    """

    name = "thread"
    whose = "process_"

    def __init__(self, ident: int) -> None:
        self.gpu: GpuMeter = TorchGpu(self.whose)
        self._process = WholeProcess()
        self._thread = next((thread for thread in threading.enumerate() if thread.ident == ident), None)
        clock_of = getattr(time, "pthread_getcpuclockid", None)  # macOS has none
        # To ask for the clock of a thread that has ended is undefined; to read it afterwards is an error like others.
        self._clock: int | None = clock_of(ident) if clock_of is not None and self._lives else None

    def read(self) -> Reading:
        """Its counters."""
        return self._process.read()._replace(cpu_s=self._cpu_s())

    @property
    def _lives(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _cpu_s(self) -> float | None:
        if self._clock is None or not self._lives:  # a thread that came later may have its number
            return None
        try:
            return time.clock_gettime(self._clock)
        except OSError:
            return None


class ProcessTree:
    """A process and its descendants, as far as Linux shows them now.

    A process that has lost its parent is nobody's descendant any more.

    Args:
        process: Its id. Whatever gets this id after it has ended is not it.
    """

    name = "subprocess"
    whose = ""

    def __init__(self, process: int) -> None:
        self.gpu: GpuMeter = TreeGpu(lambda other: other in self._members)
        self._root = process
        self._members: frozenset[int] = frozenset()
        times = process_times(process)
        self._started = times.started if times is not None else None

    def read(self) -> Reading:
        """Its counters: CPU time and memory of all together, the peak of whichever had the highest."""
        seen = processes()
        if self._root not in seen or seen[self._root].started != self._started:
            self._members = frozenset()
            return Reading()
        parents = {process: times.parent for process, times in seen.items()}
        self._members = _descendants(self._root, parents)
        memories = [memory for member in self._members if (memory := process_memory(member)) is not None]
        return Reading(
            cpu_s=sum(seen[member].cpu_s for member in self._members),
            rss_mb=sum(memory.rss_mb for memory in memories) if memories else None,
            peak_rss_mb=max((memory.peak_rss_mb for memory in memories), default=None),
        )


def _descendants(root: int, parents: dict[int, int]) -> frozenset[int]:
    children: dict[int, list[int]] = {}
    for process, parent in parents.items():
        children.setdefault(parent, []).append(process)
    found, waiting = {root}, [root]
    while waiting:
        new = [child for child in children.get(waiting.pop(), ()) if child not in found]
        found.update(new)
        waiting.extend(new)
    return frozenset(found)
