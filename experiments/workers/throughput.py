"""Trials a second of eight workers with a trivial objective, beside Optuna's own; and a small space, exhausted.

OMP_NUM_THREADS=1 python experiments/workers/throughput.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

import optuna
from metatuner.agent.storages import open_storage
from optuna.trial import FrozenTrial, TrialState
from postgres import Postgres

HERE = Path(__file__).parent
ARMS = ("optuna", "tpe", "policy")


def main() -> None:
    """Measures, and writes `throughput.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=600, help="of each study that is timed")
    parser.add_argument("--rounds", type=int, default=3, help="of all arms in turn")
    parser.add_argument("--grid", type=int, default=2000, help="trials in a space of 2,000 configurations")
    parser.add_argument("--out", type=Path, default=HERE / "throughput.json")
    args = parser.parse_args()
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    with Postgres() as server:
        storage = server.database()
        open_storage(storage)  # Optuna's own workers must not make its tables at the same moment
        for turn in range(args.rounds):
            for arm in ARMS:
                done = _finished(storage, arm, f"{arm}-{turn}", args.trials, args.workers)
                rates[arm].append(_rate(done))
                print(f"{arm}: {rates[arm][-1]:.1f} trials/s ({len(done)} trials)", flush=True)
        done = _finished(storage, "policy-grid", "grid", args.grid, args.workers)
        grid = {
            "configurations": 2000,
            "trials": len(done),
            "different": len({tuple(sorted(trial.params.items())) for trial in done}),
            "given up before they began": _all(storage, "grid") - len(done),
            "trials/s": round(_rate(done), 1),
        }
    ratios = {
        arm: [round(mine / its, 2) for mine, its in zip(rates[arm], rates["optuna"], strict=True)] for arm in ARMS
    }
    results = {
        "command": " ".join(["python", *sys.argv]),
        "trials/s": {arm: [round(rate, 1) for rate in found] for arm, found in rates.items()},
        "of Optuna's, same round": ratios,
        "median of Optuna's": {arm: statistics.median(found) for arm, found in ratios.items()},
        "grid": grid,
    }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _finished(storage: str, who: str, name: str, trials: int, workers: int) -> list[FrozenTrial]:
    command = [sys.executable, str(HERE / "worker.py"), who, storage, name, str(trials)]
    processes = [subprocess.Popen(command) for _ in range(workers)]
    if any(process.wait() for process in processes):
        raise SystemExit(f"a worker of {who} failed")
    study = optuna.load_study(study_name=name, storage=open_storage(storage))
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def _all(storage: str, name: str) -> int:
    return len(optuna.load_study(study_name=name, storage=open_storage(storage)).trials)


def _rate(done: list[FrozenTrial]) -> float:
    """Trials a second in the second half: then all workers have begun."""
    ends = sorted(trial.datetime_complete.timestamp() for trial in done if trial.datetime_complete is not None)
    half = len(ends) // 2
    return (len(ends) - 1 - half) / (ends[-1] - ends[half])


if __name__ == "__main__":
    main()
