from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from metatuner.envs import linux_process
from metatuner.tracking import scopes
from metatuner.tracking.resources import ResourceMeter
from metatuner.tracking.scopes import OneThread, ProcessTree, Scope, WholeProcess

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows other processes")
with_thread_clocks = pytest.mark.skipif(
    not hasattr(time, "pthread_getcpuclockid"), reason="threads have no clocks of their own"
)


def started(scope: Scope) -> ResourceMeter:
    meter = ResourceMeter(scope)
    meter.start()
    return meter


def burn(seconds: float, clock: Callable[[], float] = time.thread_time) -> None:
    end = clock() + seconds
    while clock() < end:
        pass


@contextmanager
def thread(work: Callable[[], None]) -> Iterator[tuple[int, threading.Event, threading.Event]]:
    """A thread that works when the first event is set, then sets the second one, and ends with the block."""
    begin, done, leave = threading.Event(), threading.Event(), threading.Event()

    def run() -> None:
        begin.wait()
        work()
        done.set()
        leave.wait()

    worker = threading.Thread(target=run)
    worker.start()
    assert worker.ident is not None
    try:
        yield worker.ident, begin, done
    finally:
        begin.set()
        leave.set()
        worker.join()


@contextmanager
def child(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that has done what it says until it prints, and then reads."""
    command = [sys.executable, "-I", "-S", "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def hear(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline()


def tell(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


BURN = "import time; end = time.process_time() + 0.15\nwhile time.process_time() < end: pass\n"
HELD = "held = b'x' * (60 << 20)\n"
READY = "print('ready', flush=True); input()\n"


def test_time_and_memory_are_measured() -> None:
    meter = started(WholeProcess())
    burn(0.05, time.process_time)
    figures = meter.stop()
    assert set(figures) == {"resource/wall_s", "resource/cpu_s", "resource/peak_rss_mb"}
    assert figures["resource/cpu_s"] >= 0.04
    assert figures["resource/wall_s"] >= 0.05
    assert 10 < figures["resource/peak_rss_mb"] < 1_000_000


def test_without_proc_what_the_system_accounts_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(linux_process, "PROC", tmp_path / "none")
    meter = started(WholeProcess())
    assert set(meter.point()) == {"resource/cpu_percent"}
    assert set(meter.stop()) == {"resource/wall_s", "resource/cpu_s", "resource/peak_rss_mb"}
    assert set(started(ProcessTree(1)).stop()) == {"resource/wall_s"}


@on_linux
def test_points_are_of_now() -> None:
    meter = started(WholeProcess())
    burn(0.1, time.process_time)
    busy = meter.point()
    held = bytearray(b"x") * (60 * 2**20)
    grown = meter.point()
    time.sleep(0.1)
    idle = meter.point()
    assert set(idle) == {"resource/rss_mb", "resource/cpu_percent"}
    assert len(held) == pytest.approx((grown["resource/rss_mb"] - busy["resource/rss_mb"]) * 2**20, rel=0.2)
    assert idle["resource/cpu_percent"] < busy["resource/cpu_percent"]
    assert busy["resource/cpu_percent"] > 10
    assert meter.stop()["resource/cpu_s"] >= 0.1


@on_linux
def test_a_small_trial_after_a_large_one_has_a_peak_of_its_own() -> None:
    large = bytearray(b"x") * (100 * 2**20)
    peak = started(WholeProcess()).stop()["resource/peak_rss_mb"]
    del large
    meter = started(WholeProcess())
    meter.point()
    figures = meter.stop()
    assert figures["resource/peak_rss_mb"] == pytest.approx(peak, abs=2)  # the kernel counts in batches
    assert figures["resource/peak_rss_sampled_mb"] < peak - 50


@with_thread_clocks
def test_a_thread_has_its_own_time_and_the_process_s_memory() -> None:
    with thread(lambda: burn(0.1)) as (ident, begin, done):
        meter, idle = started(OneThread(ident)), started(OneThread(threading.get_ident()))
        begin.set()
        done.wait()
        point, figures = meter.point(), meter.stop()
        assert 0.1 <= figures["resource/cpu_s"] < 0.2
        assert idle.stop()["resource/cpu_s"] < 0.1
    assert point["resource/cpu_percent"] > 10
    assert "resource/peak_rss_mb" not in figures
    assert figures["resource/process_peak_rss_mb"] > 10
    if sys.platform == "linux":
        assert point["resource/process_rss_mb"] > 10


@with_thread_clocks
def test_a_thread_that_ended_keeps_what_was_seen() -> None:
    with thread(lambda: burn(0.05)) as (ident, begin, done):
        seen, unseen = started(OneThread(ident)), started(OneThread(ident))
        begin.set()
        done.wait()
        seen.sample()
    with thread(lambda: burn(0.05)) as (_, begin, done):  # it often gets the number of the one before
        begin.set()
        done.wait()
        assert 0.05 <= seen.stop()["resource/cpu_s"] < 0.1
        assert "resource/cpu_s" not in unseen.stop()
        assert "resource/cpu_percent" not in unseen.point()


def test_a_thread_that_is_unknown_has_no_time() -> None:
    figures = started(OneThread(12345)).stop()
    assert "resource/cpu_s" not in figures
    assert figures["resource/wall_s"] >= 0


@on_linux
def test_a_child_process() -> None:
    with child(READY + HELD + BURN + READY) as process:
        hear(process)
        meter = started(ProcessTree(process.pid))
        before = meter.point()
        tell(process)
        hear(process)
        point, figures = meter.point(), meter.stop()
    assert before["resource/rss_mb"] < 60 <= point["resource/rss_mb"] < 120
    assert point["resource/cpu_percent"] > 10
    assert 0.14 <= figures["resource/cpu_s"] < 1
    assert 60 <= figures["resource/peak_rss_mb"] < 120
    assert figures["resource/peak_rss_sampled_mb"] == point["resource/rss_mb"]


@on_linux
def test_a_child_process_with_a_child_of_its_own() -> None:
    inner = HELD + BURN + READY
    outer = f"import subprocess, sys\n{HELD}\nsubprocess.run([sys.executable, '-I', '-S', '-c', {inner!r}])\n{READY}"
    with child("input()\n" + outer) as process:
        meter = started(ProcessTree(process.pid))
        tell(process)
        hear(process)
        both = meter.point()
        tell(process)
        hear(process)
        one = meter.point()
        figures = meter.stop()
    assert one["resource/rss_mb"] < 120 <= both["resource/rss_mb"]
    assert figures["resource/peak_rss_sampled_mb"] == both["resource/rss_mb"]
    assert 60 <= figures["resource/peak_rss_mb"] < 120
    assert 0.14 <= figures["resource/cpu_s"] < 1


@on_linux
def test_a_child_process_that_was_killed_keeps_what_was_seen() -> None:
    with child("input()\n" + BURN + READY) as process:
        seen, unseen = started(ProcessTree(process.pid)), started(ProcessTree(process.pid))
        tell(process)
        hear(process)
        seen.sample()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert seen.point() == {}
        assert seen.stop()["resource/cpu_s"] >= 0.14
        assert set(unseen.stop()) == {"resource/wall_s"}


@on_linux
def test_a_process_that_is_gone_or_another_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    with child(READY) as process:
        hear(process)
        meter = started(ProcessTree(process.pid))
        others = linux_process.processes()
        others[process.pid] = others[process.pid]._replace(started=others[process.pid].started + 1)
        monkeypatch.setattr(scopes, "processes", lambda: others)
        assert meter.point() == {}
        assert set(meter.stop()) == {"resource/wall_s"}
    monkeypatch.undo()
    assert set(started(ProcessTree(process.pid)).stop()) == {"resource/wall_s"}


def fake_cuda(peaks: list[int]) -> Any:
    return SimpleNamespace(
        is_initialized=lambda: True,
        device_count=lambda: len(peaks),
        reset_peak_memory_stats=lambda device: peaks.__setitem__(device, 2**20),
        max_memory_allocated=lambda device: peaks[device],
        memory_allocated=lambda device: 2**20,
        current_device=lambda: 0,
        get_device_properties=lambda device: SimpleNamespace(uuid="abc"),
    )


class FakeDriver(SimpleNamespace):
    """Two devices; samples of utilisation and processes with memory are put in."""

    NVML_GPU_UTILIZATION_SAMPLES = 1

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.percent: dict[int, list[int]] = {0: [], 1: []}
        self.held: dict[int, list[tuple[int, int | None]]] = {0: [], 1: []}
        self.asked_since_us: list[int] = []

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, device: int) -> int:  # noqa: N802
        return device

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        assert uuid == "GPU-abc"
        return 1

    def nvmlDeviceGetComputeRunningProcesses(self, device: int) -> list[Any]:  # noqa: N802
        return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in self.held[device]]

    def nvmlDeviceGetSamples(self, device: int, kind: int, since_us: int) -> tuple[int, list[Any]]:  # noqa: N802
        self.asked_since_us.append(since_us)
        new, self.percent[device] = self.percent[device], []
        if not new:
            raise self.NVMLError
        return 0, [
            SimpleNamespace(timeStamp=since_us + 1 + i, sampleValue=SimpleNamespace(uiVal=percent))
            for i, percent in enumerate(new)
        ]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    return driver


def test_without_a_gpu_in_use_there_are_no_gpu_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = started(WholeProcess())
    assert not [name for name in meter.point() | meter.stop() if "gpu" in name]


def test_with_a_gpu_in_use_its_peak_is_reset_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [5 * 2**20, 3 * 2**20]
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake_cuda(peaks)))
    monkeypatch.setitem(sys.modules, "pynvml", None)
    meter = started(WholeProcess())
    peaks[1] = 7 * 2**20
    assert meter.stop()["resource/gpu_mem_mb"] == 8.0
    assert "resource/gpu_util" not in meter.stop()


def test_a_trial_keeps_its_gpu_peak_when_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = [0]
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake_cuda(peaks)))
    first = started(WholeProcess())
    peaks[0] = 9 * 2**20
    second = started(OneThread(threading.get_ident()))
    assert first.stop()["resource/gpu_mem_mb"] == 9.0
    assert second.point()["resource/process_gpu_allocated_mb"] == 1.0
    assert second.stop()["resource/process_gpu_mem_mb"] == 1.0


def test_utilisation_is_a_mean_over_all_and_since_the_last_point(
    monkeypatch: pytest.MonkeyPatch, driver: FakeDriver
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=fake_cuda([0])))
    meter = started(WholeProcess())
    driver.percent[1] = [10, 30]
    assert meter.point()["resource/gpu_percent"] == 20
    driver.percent[1] = [80]
    assert meter.point()["resource/gpu_percent"] == 80
    assert "resource/gpu_percent" not in meter.point()
    assert meter.stop()["resource/gpu_util"] == 40


@on_linux
def test_the_gpus_of_a_child_process_are_the_driver_s_to_tell(driver: FakeDriver) -> None:
    with child(READY) as process:
        hear(process)
        meter = started(ProcessTree(process.pid))
        began_us = time.time_ns() // 1000
        driver.held = {0: [(1, 100 * 2**20)], 1: [(process.pid, 50 * 2**20), (1, 100 * 2**20)]}
        driver.percent = {0: [90], 1: [20]}
        point = meter.point()
        driver.held[1] = [(process.pid, None)]  # it does not tell everywhere
        assert "resource/gpu_used_mb" not in meter.point()
        figures = meter.stop()
    assert driver.asked_since_us[0] <= began_us  # also what it did before anybody looked
    assert (point["resource/gpu_used_mb"], point["resource/gpu_percent"]) == (50, 20)
    assert (figures["resource/peak_gpu_used_mb"], figures["resource/gpu_util"]) == (50, 20)
