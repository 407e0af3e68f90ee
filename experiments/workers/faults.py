"""Clocks that are wrong, disks that are full and trials that take all memory: what becomes of studies with workers.

OMP_NUM_THREADS=1 python experiments/workers/faults.py --trials 60 --seed 1

Wants the superuser, who may mount a small disk and name a machine; `faketime` and `postgresql` of Debian.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import clocks
import disks
import memory

HERE = Path(__file__).parent


def main() -> None:
    """Runs all of them, looks what became of all trials, and writes `faults.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of what happens to whom")
    parser.add_argument("--trials", type=int, default=60, help="of the clocks' study; the others have fewer")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds after which it is given up")
    parser.add_argument("--out", type=Path, default=HERE / "faults.json")
    args = parser.parse_args()
    began = time.monotonic()

    def left_s() -> float:
        return args.limit - (time.monotonic() - began)

    # Whoever has a full disk, or takes nobody for dead yet, waits most of the time: all at once.
    with tempfile.TemporaryDirectory(prefix="workers-faults-") as place, ThreadPoolExecutor(3) as threads:
        root = Path(place)
        full = [threads.submit(disks.run, name, args.trials // 3, _folder(root), left_s()) for name in disks.STORAGES]
        turned = threads.submit(clocks.run, args.seed, args.trials, _folder(root), left_s())
        greedy = [memory.run(case, args.seed, args.trials // 6, _folder(root), left_s()) for case in memory.CASES]
        results = {
            "command": " ".join(["python", *sys.argv]),
            "clocks": turned.result(),
            "full disks": [each.result() for each in full],
            "memory": greedy,
            "seconds": round(time.monotonic() - began),
        }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _folder(root: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=root))


if __name__ == "__main__":
    main()
