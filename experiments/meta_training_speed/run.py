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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from metatuner.agent.meta_training import MetaTrainingSettings, environment
from metatuner.envs.families import Split, SyntheticTasks

HERE = Path(__file__).parent
EPISODES = 6
"""Episodes that the environment is timed over, after one that warms up."""


def main() -> None:
    """Measures, and writes `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, os.cpu_count() or 1])
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rates: dict[str, dict[int, list[float]]] = {what: {workers: [] for workers in args.workers} for what in MEASURED}
    for _ in range(args.rounds):
        for what, measure in MEASURED.items():
            for workers in args.workers:
                rates[what][workers].append(round(measure(workers), 1))
                print(f"{what}, {workers} processes: {rates[what][workers][-1]} decisions/s", flush=True)
        # After each round, so that whoever has to stop keeps what there is.
        args.out.write_text(json.dumps(_results(rates, args.workers[0]), indent=1) + "\n")


def _results(rates: dict[str, dict[int, list[float]]], one: int) -> dict[str, object]:
    return {
        "command": " ".join(["python", *sys.argv]),
        "decisions a second": rates,
        f"over {one}, same round, median": {
            what: {workers: _speed_up(mine, found[one]) for workers, mine in found.items()}
            for what, found in rates.items()
        },
    }


def _speed_up(rates: list[float], one: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(rates, one, strict=True)), 2)


def _environment(workers: int) -> float:
    """Decisions a second of the environment alone: networks are trained, nothing learns from it."""
    settings = MetaTrainingSettings()
    env = environment(settings, SyntheticTasks(Split.TRAIN, settings.horizon, settings.copies), workers)
    rng = np.random.default_rng(0)
    try:
        env.reset()
        began, decisions = 0.0, 0
        for episode in range(1 + EPISODES):
            if episode == 1:
                began, decisions = time.perf_counter(), 0
            # The last step of an episode begins the next one.
            for _ in range(env.decisions):
                env.step(rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32))
                decisions += env.num_envs
        return decisions / (time.perf_counter() - began)
    finally:
        env.close()


def _training(job: str, few: int, more: int) -> Callable[[int], float]:
    """Measures `metatuner train` by the time that more decisions take: what it takes to begin and end falls out."""

    def measure(workers: int) -> float:
        return (more - few) / (_seconds(job, more, workers) - _seconds(job, few, workers))

    return measure


def _seconds(job: str, steps: int, workers: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metatuner", "train", job, "--steps", str(steps), "--seed", "0"]
        command += ["--workers", str(workers), "--evaluation-groups", "0", "--out", "policy", "--json"]
        began = time.perf_counter()
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - began


MEASURED: dict[str, Callable[[int], float]] = {
    "environment of schedules": _environment,
    "train schedule": _training("schedule", 4_000, 24_000),
    "train search": _training("search", 2_048, 6_144),
}

if __name__ == "__main__":
    main()
