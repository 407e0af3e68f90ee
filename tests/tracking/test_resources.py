from __future__ import annotations

import sys
import time
from types import SimpleNamespace

import pytest
from metatuner.tracking.resources import ResourceMeter


def test_time_and_memory_are_measured() -> None:
    meter = ResourceMeter()
    meter.start()
    deadline = time.process_time() + 0.05
    while time.process_time() < deadline:
        pass
    figures = meter.stop()
    assert set(figures) >= {"resource/wall_s", "resource/cpu_s", "resource/peak_rss_mb"}
    assert figures["resource/cpu_s"] >= 0.04
    assert figures["resource/wall_s"] >= 0.05
    assert 10 < figures["resource/peak_rss_mb"] < 1_000_000


def test_without_a_gpu_in_use_there_are_no_gpu_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = ResourceMeter()
    meter.start()
    assert not [name for name in meter.stop() if "gpu" in name]


def test_with_a_gpu_in_use_its_peak_is_reset_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [5 * 2**20, 3 * 2**20]
    cuda = SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: 2,
        reset_peak_memory_stats=lambda device: peaks.__setitem__(device, 2**20),
        max_memory_allocated=lambda device: peaks[device],
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = ResourceMeter()
    meter.start()
    peaks[1] = 7 * 2**20
    assert meter.stop()["resource/gpu_mem_mb"] == 8.0
    assert "resource/gpu_util" not in meter.stop()
