"""What a trial does to NVIDIA GPUs. `tracking.resources` says what each figure means."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakSet

from ..envs.rusage import MB


class GpuMeter(Protocol):
    """Measures from `start` on. Has no figures where there is no GPU in use."""

    def start(self) -> None:
        """Begin to measure."""

    def sample(self) -> None:
        """Read what the system keeps only for some seconds."""

    def point(self) -> dict[str, float]:
        """The figures of now, and of the time since the last point."""

    def totals(self) -> dict[str, float]:
        """The figures since the start, as of the last sample."""


class TorchGpu:
    """The GPUs that this process uses through PyTorch: memory from PyTorch, utilisation from the driver.

    Args:
        whose: What the names of figures begin with that are not the trial's own.
    """

    def __init__(self, whose: str = "") -> None:
        self._whose = whose
        self._peak_mb = 0.0
        self._load: _Utilisation | None = None

    def start(self) -> None:
        """Begin to measure. Resets PyTorch's peaks."""
        if (cuda := _cuda_in_use()) is not None:
            for other in list(_measuring):
                other.note_peak(cuda)
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)
            self._load = _utilisation_in_use(cuda)
        _measuring.add(self)

    def note_peak(self, cuda: Any) -> None:
        """Read PyTorch's peak, which the start of another trial resets."""
        self._peak_mb = max(self._peak_mb, _megabytes(cuda, cuda.max_memory_allocated))

    def sample(self) -> None:
        """Read what the driver keeps only for some seconds."""
        if (cuda := _cuda_in_use()) is None:
            return
        if self._load is None:
            self._load = _utilisation_in_use(cuda)  # the training has moved to a GPU since the start
        self._load.sample()
        self.note_peak(cuda)

    def point(self) -> dict[str, float]:
        """Memory allocated now, utilisation since the last point."""
        cuda = _cuda_in_use()
        if cuda is None or self._load is None:
            return {}
        allocated = {f"resource/{self._whose}gpu_allocated_mb": _megabytes(cuda, cuda.memory_allocated)}
        return allocated | _percent(self._load.since_last())

    def totals(self) -> dict[str, float]:
        """Peak of memory, mean utilisation."""
        if self._load is None:
            return {}
        return {f"resource/{self._whose}gpu_mem_mb": self._peak_mb} | _util([self._load])


# There is one peak for all of a process's trials.
_measuring: WeakSet[TorchGpu] = WeakSet()


class TreeGpu:
    """The GPUs that other processes use: all of it from the driver, which knows who holds memory where.

    Args:
        contains: Tells whether a process is one of them.
    """

    def __init__(self, contains: Callable[[int], bool]) -> None:
        self._contains = contains
        self._loads: dict[int, _Utilisation] = {}
        self._began_us = _now_us()
        self._used_mb: float | None = None
        self._peak_mb: float | None = None

    def start(self) -> None:
        """Notes the time. The driver is only asked once a trial has run for a while, and remembers some seconds."""
        self._began_us = _now_us()

    def sample(self) -> None:
        """Read the memory that they hold, and the utilisation of the devices that they have used."""
        if (nvml := self._nvml) is None:
            return
        held = {device: mb for device in range(_count(nvml)) if (mb := self._held_mb(nvml, device)) is not None}
        for device in held.keys() - self._loads.keys():
            self._loads[device] = _Utilisation(nvml, nvml.nvmlDeviceGetHandleByIndex(device), self._began_us)
        for load in self._loads.values():
            load.sample()
        self._used_mb = sum(held.values()) if held else None
        if self._used_mb is not None:
            self._peak_mb = max(self._peak_mb or 0.0, self._used_mb)

    def point(self) -> dict[str, float]:
        """Memory held at the last sample, utilisation since the last point."""
        used = {"resource/gpu_used_mb": self._used_mb} if self._used_mb is not None else {}
        means = [mean for load in self._loads.values() if (mean := load.since_last()) is not None]
        return used | _percent(sum(means) / len(means) if means else None)

    def totals(self) -> dict[str, float]:
        """The most memory that a sample has seen, mean utilisation."""
        peak = {"resource/peak_gpu_used_mb": self._peak_mb} if self._peak_mb is not None else {}
        return peak | _util(self._loads.values())

    @cached_property
    def _nvml(self) -> Any:
        return _driver()

    def _held_mb(self, nvml: Any, device: int) -> float | None:
        try:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(nvml.nvmlDeviceGetHandleByIndex(device))
        except nvml.NVMLError:
            return None
        held = [each.usedGpuMemory for each in running if self._contains(each.pid)]
        known = [used for used in held if used is not None]  # the driver does not tell it everywhere
        return sum(known) / MB if known else None


class _Utilisation:
    """Utilisation of one device in percent, by all processes, from the samples that the driver kept since a time."""

    def __init__(self, nvml: Any, device: Any, since_us: int) -> None:
        self._nvml, self._device, self._last_seen_us = nvml, device, since_us
        self._sum, self._count = 0.0, 0
        self._told_sum, self._told_count = 0.0, 0

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None

    def since_last(self) -> float | None:
        """The mean since this was asked the last time."""
        total, count = self._sum - self._told_sum, self._count - self._told_count
        self._told_sum, self._told_count = self._sum, self._count
        return total / count if count else None

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


def _util(loads: Iterable[_Utilisation]) -> dict[str, float]:
    means = [load.mean for load in loads if load.mean is not None]
    return {"resource/gpu_util": sum(means) / len(means)} if means else {}


def _percent(mean: float | None) -> dict[str, float]:
    return {"resource/gpu_percent": mean} if mean is not None else {}


def _cuda_in_use() -> Any:
    """PyTorch's CUDA, if it is imported and in use already. Neither is ever caused by measuring."""
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


def _megabytes(cuda: Any, amount: Callable[[int], int]) -> float:
    return sum(amount(device) for device in range(cuda.device_count())) / MB


def _utilisation_in_use(cuda: Any) -> _Utilisation:
    """Of PyTorch's current device; of none where the driver's name for it cannot be told for sure."""
    nvml = _driver()
    try:
        # By its id, not its number: CUDA_VISIBLE_DEVICES renumbers for PyTorch, but not for the driver.
        uuid = cuda.get_device_properties(cuda.current_device()).uuid
        return _Utilisation(nvml, nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"), _now_us())
    except Exception:  # a measurement that is not there must never break a training
        return _Utilisation(None, None, 0)


def _now_us() -> int:
    return time.time_ns() // 1000


def _count(nvml: Any) -> int:
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 0


def _driver() -> Any:
    """The driver's library, ready to be asked; None without the extra `gpu` or without a driver."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # likewise
        return None
    return nvml
