"""What a trial cost, measured around it.

MLflow's own sampler ticks every ten seconds for the whole machine: a short trial gets no point from it. A meter reads
counters at the start and at the end instead, so that any trial has its totals; a long trial also gets points over time.
Whose figures they are depends on where the trial runs; the tag `metatuner.resource_scope` of its run tells:

- `process`: all of this process, without its children, such as data loaders. Trials that overlap in it share its
  figures.
- `thread`: one thread of this process. Only CPU time can be told for a thread, and what it has others do (OpenMP,
  PyTorch's own threads) is not in it. What belongs to the process is named so: `resource/process_*`.
- `subprocess`: a child process with its descendants (Linux; elsewhere only what its end tells).

What ends before its trial does is known up to the last look, and looks are some seconds apart: a thread or a child that
ends before the first one has no figures of its own, a later one slightly incomplete ones. Exact totals of a child are
those that `metatuner.envs.child_process.wait_with_costs` gives to `TrialFinished`: they replace the ones measured here.

Totals:

- `resource/wall_s`: time from the trial's start to its end.
- `resource/cpu_s`: CPU time in between, in user and in system mode.
- `resource/peak_rss_mb`: the highest memory that one process has ever held: this process, or whichever of the
  child's. The system never lowers it within a process, so a small trial after a large one shows the large one's peak.
- `resource/peak_rss_sampled_mb`: the highest memory that a look during this trial has seen, every few seconds; a child
  and its descendants together, pages that they share counted for each. Less than the true peak, but the trial's own.
  Only for trials that are long enough to have points.
- `resource/gpu_mem_mb`: PyTorch's peak of allocated memory, all devices, since the trial began; trials that overlap
  share it. Only where CUDA is in use. Starting a meter resets PyTorch's peak statistics.
- `resource/peak_gpu_used_mb`: for a child process, the most GPU memory that the driver has seen it hold, all devices,
  CUDA's own part included. Only with the extra `metatuner[gpu]`.
- `resource/gpu_util`: mean utilisation in percent of the current CUDA device, or of the devices that the child uses, by
  all processes. From the samples that the driver kept. Only with the extra `metatuner[gpu]`. The driver keeps some
  seconds: call `sample` more often than that.

Points over time:

- `resource/rss_mb`: memory now.
- `resource/cpu_percent`: CPU time since the last point; 100 is one core.
- `resource/gpu_allocated_mb` (PyTorch's), `resource/gpu_used_mb` (a child's): GPU memory now.
- `resource/gpu_percent`: mean utilisation since the last point.

What a platform does not tell is left out.
"""

from __future__ import annotations

import time

from .scopes import Reading, Scope


class ResourceMeter:
    """Measures from `start` to `stop`.

    Args:
        scope: Whom.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._began_s = self._pointed_s = 0.0
        self._first = Reading()
        self._cpu_s: float | None = None
        self._pointed_cpu_s = 0.0
        self._peak_mb: float | None = None
        self._highest_mb: float | None = None
        self._has_points = False

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._began_s

    def start(self) -> None:
        """Begin to measure."""
        self._began_s = time.perf_counter()
        self._first = self._scope.read()
        self._scope.gpu.start()

    def sample(self) -> Reading:
        """Read what is gone later. Cheap; call every few seconds while a trial runs."""
        now = self._scope.read()
        if now.cpu_s is not None and self._first.cpu_s is not None:
            # A descendant that nobody has waited for takes its time along.
            self._cpu_s = max(self._cpu_s or 0.0, now.cpu_s - self._first.cpu_s)
        self._peak_mb = _highest(self._peak_mb, now.peak_rss_mb)
        self._highest_mb = _highest(self._highest_mb, now.rss_mb)
        self._scope.gpu.sample()
        return now

    def point(self) -> dict[str, float]:
        """The figures of now, and since the last point, by metric name. None of what is gone."""
        now, elapsed = self.sample(), self.elapsed_s
        self._has_points = True
        figures = self._named("rss_mb", now.rss_mb)
        if now.cpu_s is not None and self._cpu_s is not None and elapsed > self._pointed_s:
            share = (self._cpu_s - self._pointed_cpu_s) / (elapsed - self._pointed_s)
            figures["resource/cpu_percent"] = 100 * share
            self._pointed_s, self._pointed_cpu_s = elapsed, self._cpu_s
        return figures | self._scope.gpu.point()

    def stop(self) -> dict[str, float]:
        """The figures since `start`, by metric name. May be asked more than once."""
        self.sample()
        cpu = {"resource/cpu_s": self._cpu_s} if self._cpu_s is not None else {}
        return {
            "resource/wall_s": self.elapsed_s,
            **cpu,
            **self._named("peak_rss_mb", self._peak_mb),
            **self._named("peak_rss_sampled_mb", self._highest_mb if self._has_points else None),
            **self._scope.gpu.totals(),
        }

    def _named(self, name: str, memory_mb: float | None) -> dict[str, float]:
        return {f"resource/{self._scope.whose}{name}": memory_mb} if memory_mb is not None else {}


def _highest(known: float | None, seen: float | None) -> float | None:
    return max((value for value in (known, seen) if value is not None), default=None)
