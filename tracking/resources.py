"""What a trial cost, measured around it.

MLflow's own sampler ticks every ten seconds for the whole machine: a short trial gets no point from it. A meter reads
counters at the start and at the end instead, so that any trial has its figures. Their scope is **this process**:

- `resource/wall_s`, `resource/cpu_s`: time between start and stop. Trials that overlap in one process share `cpu_s`.
- `resource/peak_rss_mb`: the process's highest memory so far. The system never lowers it within a process, so a small
  trial after a large one shows the large one's peak.
- `resource/gpu_mem_mb`: PyTorch's peak of allocated memory, all devices, since the trial began. Only where CUDA is in
  use. Starting a meter resets PyTorch's peak statistics.
- `resource/gpu_util`: mean utilisation in percent of the current CUDA device, all processes, from the samples that the
  driver kept. Only with the extra `metatuner[gpu]`. The driver keeps some seconds: call `sample` more often than that.
"""

from __future__ import annotations

import importlib
import resource
import sys
import time
from typing import Any

_MB = 2**20
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class ResourceMeter:
    """Measures from `start` to `stop`."""

    def __init__(self) -> None:
        self._wall = 0.0
        self._cpu = 0.0
        self._gpu: _GpuMeter | None = None

    def start(self) -> None:
        """Begin to measure."""
        self._wall = time.perf_counter()
        self._cpu = _cpu_seconds()
        if (torch := _torch_with_cuda()) is not None:
            self._gpu = _GpuMeter(torch)
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def sample(self) -> None:
        """Read what the system keeps only for some seconds. Cheap; call every few seconds while a trial runs."""
        if self._gpu is None and (torch := _torch_with_cuda()) is not None:
            self._gpu = _GpuMeter(torch)  # the training has moved to a GPU since the start
        if self._gpu is not None:
            self._gpu.sample()

    def stop(self) -> dict[str, float]:
        """The figures since `start`, by metric name. May be asked more than once."""
        self.sample()
        figures = {
            "resource/wall_s": time.perf_counter() - self._wall,
            "resource/cpu_s": _cpu_seconds() - self._cpu,
            "resource/peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT / _MB,
        }
        return figures | (self._gpu.figures() if self._gpu is not None else {})


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _torch_with_cuda() -> Any:
    """PyTorch, if it is imported and already uses CUDA. Neither is ever caused by measuring."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return torch if cuda is not None and cuda.is_initialized() else None


class _GpuMeter:
    """Memory from PyTorch, utilisation from the driver."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self._nvml, self._device = _nvml_device(torch)
        self._last_seen_us = time.time_ns() // 1000
        self._sum = 0.0
        self._count = 0

    def sample(self) -> None:
        if self._nvml is None:
            return
        try:
            _, samples = self._nvml.nvmlDeviceGetSamples(
                self._device, self._nvml.NVML_GPU_UTILIZATION_SAMPLES, self._last_seen_us
            )
        except self._nvml.NVMLError:
            return  # no new sample since the last look, or a device that keeps none
        for sample in samples:
            if sample.timeStamp > self._last_seen_us:
                self._last_seen_us = sample.timeStamp
                self._sum += sample.sampleValue.uiVal
                self._count += 1

    def figures(self) -> dict[str, float]:
        cuda = self._torch.cuda
        peak = sum(cuda.max_memory_allocated(device) for device in range(cuda.device_count()))
        figures = {"resource/gpu_mem_mb": peak / _MB}
        if self._count:
            figures["resource/gpu_util"] = self._sum / self._count
        return figures


def _nvml_device(torch: Any) -> tuple[Any, Any]:
    """The driver's library and its handle of the current device; (None, None) where it cannot be told for sure."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
        # By its id, not its number: CUDA_VISIBLE_DEVICES renumbers for PyTorch, but not for the driver.
        uuid = torch.cuda.get_device_properties(torch.cuda.current_device()).uuid
        return nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
    except Exception:  # a measurement that is not there must never break a training
        return None, None
