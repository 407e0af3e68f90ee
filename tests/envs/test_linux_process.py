from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from metatuner.envs import linux_process
from metatuner.envs.linux_process import process_memory, process_times, processes, seconds_since

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc elsewhere")
NAMED = "open('/proc/self/comm', 'w').write(') R 1 (x'); print(flush=True); input()"


def test_of_this_process() -> None:
    times, memory = process_times(os.getpid()), process_memory(os.getpid())
    assert times is not None
    assert memory is not None
    assert times == processes()[os.getpid()]._replace(cpu_s=times.cpu_s)
    assert times.parent == os.getppid()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = usage.ru_utime + usage.ru_stime + children.ru_utime + children.ru_stime
    assert used == pytest.approx(times.cpu_s, abs=0.3)
    assert 5 < memory.rss_mb <= memory.peak_rss_mb


def test_a_name_may_hold_anything() -> None:
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", NAMED], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        times = process_times(process.pid)
        assert times is not None
        assert times.parent == os.getpid()
        assert 0 <= seconds_since(times.started) < 60
        process.communicate(b"\n")


def test_a_process_that_has_ended_keeps_its_times_until_it_is_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert process_times(process.pid) is not None
    assert process_memory(process.pid) is None
    process.wait()
    assert process_times(process.pid) is None


def test_without_proc_nothing_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(linux_process, "PROC", tmp_path / "none")
    assert process_times(os.getpid()) is None
    assert process_memory(os.getpid()) is None
    assert processes() == {}
