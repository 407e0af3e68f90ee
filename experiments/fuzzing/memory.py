"""What reading a file that promises too much takes of memory.

    python experiments/fuzzing/memory.py

Small files that declare a hundred gigabytes, files of that size that take no room on the disk, and a device that never
ends. What counts is how far memory rises, at its peak, above what was in use before (Linux's VmHWM and VmRSS).
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HUGE = 100_000_000_000


def measured() -> dict[str, dict[str, Any]]:
    """By case: bytes of the file (on the disk), by how many megabytes the peak grew, and what was said."""
    answer = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=True, timeout=300)
    found: dict[str, dict[str, Any]] = json.loads(answer.stdout)
    return found


def _declaring(shape: list[int], length: int | None = None) -> bytes:
    """A kilobyte of safetensors."""
    header = json.dumps(
        {
            "__metadata__": {"state": "{}", "facts": "{}"},
            "x": {"dtype": "F32", "shape": shape, "data_offsets": [0, HUGE]},
        }
    )
    return (struct.pack("<Q", length or len(header)) + header.encode()).ljust(1000, b" ")


def _cases(folder: Path) -> dict[str, tuple[Callable[[], Path], Callable[[], object]]]:
    """By name: what makes the file, and what reads it."""
    from metatuner.agent.policy import Policy
    from metatuner.agent.policy_files import read_card
    from metatuner.agent.policy_prior import export_policy, prior_with
    from metatuner.agent.schedule_state import read_state
    from metatuner.envs.conditional_space import ConditionalSpace
    from metatuner.tracking.trial_table import read_table
    from optuna.distributions import FloatDistribution

    policy, card, weights = folder / "policy", folder / "policy" / "card.json", folder / "policy" / "policy.safetensors"

    def signed(data: bytes, **network: object) -> Path:
        export_policy("schedule-default", policy)
        told = json.loads(card.read_bytes())
        weights.write_bytes(data)
        told["network"] |= network
        card.write_text(json.dumps({**told, "sha256": hashlib.sha256(data).hexdigest()}))
        return weights

    def sparse(path: Path) -> Path:
        export_policy("schedule-default", policy)
        path.touch()
        os.truncate(path, HUGE)
        return path

    def linked(path: Path) -> Path:
        export_policy("search-default", policy)
        told = json.loads(card.read_bytes())
        card.write_text(json.dumps({**told, "prior": {"sha256": "0" * 64, "direction": "minimize"}}))
        path.symlink_to("/dev/zero")
        return path

    def written(data: bytes) -> Path:
        (folder / "file").write_bytes(data)
        return folder / "file"

    def load() -> object:
        return Policy.load(policy)

    def prior() -> object:
        return prior_with(policy, ConditionalSpace({"x": FloatDistribution(0, 1)}), own=None, units=1)

    return {
        "policy: weights that declare 100 GB": (lambda: signed(_declaring([HUGE // 4])), load),
        "policy: a header that declares 100 GB": (lambda: signed(_declaring([1], HUGE)), load),
        "policy: a card that declares 400 MB, no weights": (
            lambda: signed(_declaring([1]), width=4096, memory=4096),
            load,
        ),
        "policy: weights of 100 GB": (lambda: sparse(weights), load),
        "policy: a card of 100 GB": (lambda: sparse(card), lambda: read_card(policy)),
        "policy: a card of brackets": (lambda: (signed(b""), card.write_text("[" * 10_000_000), card)[-1], load),
        "policy: past trials that never end": (lambda: linked(policy / "prior.csv"), prior),
        "table: a line of 100 GB": (lambda: sparse(folder / "past.csv"), lambda: list(read_table(folder / "past.csv"))),
        "schedule: a state that declares 100 GB": (
            lambda: written(_declaring([HUGE // 4])),
            lambda: read_state(folder / "file"),
        ),
    }


def main() -> None:
    """Reads them all and prints what it took."""
    from metatuner.agent.policy import Policy
    from metatuner.envs.errors import MetatunerError

    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    Policy.load("schedule-default")  # what comes with the packages is not counted
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, read) in _cases(Path(folder)).items():
            path = make()
            before, said = _forget_peak(), "accepted"
            try:
                read()
            except MetatunerError as error:
                said = type(error).__name__
            on_disk = 0 if path.is_symlink() else path.stat().st_blocks * 512
            results[name] = {
                "kB on disk": on_disk // 1000,
                "MB": round(_status_mb("VmHWM") - before, 1),
                "outcome": said,
            }
            path.unlink()
    print(json.dumps(results))


def _forget_peak() -> float:
    """Begins to watch anew; returns the megabytes that are in use."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status_mb("VmRSS")


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


if __name__ == "__main__":
    main()
