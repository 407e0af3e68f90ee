from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from metatuner.envs.child_process import wait_with_costs

LINUX = sys.platform == "linux"
BURN = "import time\nwhile time.process_time() < 0.2: pass\n"


def child(program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", program])


def test_time_and_exit_code() -> None:
    began = time.monotonic()
    process = child(BURN + "raise SystemExit(3)")
    costs = wait_with_costs(process)
    assert process.returncode == process.wait() == 3
    assert 0.2 <= costs["resource/cpu_s"] < 2
    if LINUX:
        assert 0.19 <= costs["resource/wall_s"] <= time.monotonic() - began + 0.02


@pytest.mark.skipif(not LINUX, reason="only Linux shows the memory of a child")
def test_the_peak_is_the_childs_own() -> None:
    """Not this process's, which the system takes for the child's."""
    held = bytearray(b"x") * (150 * 2**20)
    small, large = child("import time; time.sleep(0.1)"), child("b'x' * (80 << 20); import time; time.sleep(0.1)")
    small_mb, large_mb = (wait_with_costs(process)["resource/peak_rss_mb"] for process in (small, large))
    assert len(held) > small_mb * 2**20
    assert 1 < small_mb < 60 < 80 <= large_mb < 140


def test_a_killed_child_has_costs() -> None:
    process = child("import time\nprint(flush=True)\nwhile True: time.sleep(0.01)")
    process.send_signal(signal.SIGKILL)
    costs = wait_with_costs(process)
    assert process.returncode == -signal.SIGKILL
    assert costs["resource/cpu_s"] >= 0


def test_descendants_count_that_their_parent_waited_for() -> None:
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-I', '-S', '-c', {BURN!r}])"
    assert wait_with_costs(child(nested))["resource/cpu_s"] >= 0.2


def test_descendants_that_outlive_their_parent_do_not_count(tmp_path: Path) -> None:
    orphan = BURN + f"open({str(tmp_path / 'done')!r}, 'w').close()"
    left = f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-I', '-S', '-c', {orphan!r}]); os._exit(0)"
    assert wait_with_costs(child(left))["resource/cpu_s"] < 0.2
    while not (tmp_path / "done").exists():
        time.sleep(0.01)


def test_a_child_that_still_runs_can_be_waited_for_again() -> None:
    process = child("import time; time.sleep(60)")
    with pytest.raises(subprocess.TimeoutExpired):
        wait_with_costs(process, timeout=0.05)
    assert process.returncode is None
    process.terminate()
    assert "resource/cpu_s" in wait_with_costs(process, timeout=60)
    assert process.returncode == -signal.SIGTERM


def test_of_a_child_that_was_waited_for_nothing_is_known() -> None:
    process = child("raise SystemExit(2)")
    process.wait()
    assert wait_with_costs(process) == {}
    assert process.returncode == 2
