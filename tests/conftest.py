from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

# Ray reads these when it is imported, by whichever test comes first: nobody else gets in, and nobody is told.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so that a node's address is the loopback interface
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

# Machines differ in speed, so examples have no deadline; continuous integration repeats the same examples each time.
hypothesis.settings.register_profile("metatuner", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("metatuner")

DISK_BYTES = 1_000_000


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, with next to no room."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk takes the superuser")
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    if (mounted := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture
def fill_disk() -> Callable[[Path], None]:
    """Leaves no room at all on a disk: all of it goes into its file `ballast`."""

    def fill(disk: Path) -> None:
        with (disk / "ballast").open("ab", buffering=0) as file:
            for size in (65_536, 1):
                try:
                    while file.write(b"x" * size):
                        pass
                except OSError:
                    continue

    return fill
