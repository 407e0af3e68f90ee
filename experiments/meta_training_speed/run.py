"""How much faster does meta-training get with more processes? One against as many as there are cores, in turn.

OMP_NUM_THREADS=1 python experiments/meta_training_speed/run.py
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Measures, and writes `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs=2, default=[4_000, 24_000], help="decisions: few, and more")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    rates: dict[int, list[float]] = {workers: [] for workers in args.workers}
    for _ in range(args.rounds):
        for workers in args.workers:
            few, more = (_seconds(steps, workers) for steps in args.steps)
            rates[workers].append(round((args.steps[1] - args.steps[0]) / (more - few), 1))
            print(f"{workers} processes: {rates[workers][-1]} decisions/s", flush=True)
    one = args.workers[0]
    results = {
        "command": " ".join(["python", *sys.argv]),
        "decisions a second": rates,
        f"over {one}, same round, median": {
            workers: round(statistics.median(a / b for a, b in zip(found, rates[one], strict=True)), 2)
            for workers, found in rates.items()
        },
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _seconds(steps: int, workers: int) -> float:
    """Of a whole run: what it takes to begin and to end falls out of the difference of two."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metatuner", "train", "schedule", "--steps", str(steps), "--seed", "0"]
        command += ["--workers", str(workers), "--evaluation-groups", "0", "--out", "policy", "--json"]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began


if __name__ == "__main__":
    main()
