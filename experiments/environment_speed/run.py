"""How much faster the batched schedule environment is than one network at a time, on one core.

    OMP_NUM_THREADS=1 python experiments/environment_speed/run.py [--repeats 5]

Three figures for each shape: decisions and optimiser steps a second of the batched environment; the same for the
single-network environment on one of the very same tasks, run right after it; and which share of the batched
environment's time the bare batched matrix products of its trainings would take (its share of the machine's `bmm` rate).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from metatuner.envs.batched_training import BatchedData, BatchedTraining
from metatuner.envs.builtin_tasks import mlp
from metatuner.envs.families import Architecture, SyntheticTasks, TaskGroup
from metatuner.envs.group_runner import TaskFamily
from metatuner.envs.schedule import ScheduleEnv
from metatuner.envs.schedule_vec_env import ScheduleVecEnv
from metatuner.envs.update_rules import BatchedOptimizer

HERE = Path(__file__).parent
GROUP_SIZE, INTERVAL, DECISIONS = 64, 20, 1000


@dataclass(frozen=True)
class OneShape:
    """Perceptrons of one shape: a task family for a benchmark."""

    features: int
    width: int
    depth: int
    classes: int
    batch_size: int
    rule: BatchedOptimizer

    @property
    def name(self) -> str:
        """What it is called in the results."""
        hidden = "-".join([str(self.width)] * self.depth)
        return f"{self.features}-{hidden}-{self.classes}, batch {self.batch_size}, {self.rule}"

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """Random inputs and labels: speed does not depend on them."""
        del index
        generator = torch.Generator().manual_seed(seed)
        data = BatchedData(
            torch.randn(size, 1280, self.features, generator=generator),
            torch.randint(0, self.classes, (size, 1280), generator=generator),
            [1024] * size,
            1024,
        )
        model = functools.partial(mlp, self.features, self.classes, self.width, self.depth)
        training = BatchedTraining(model, self.rule, data, batch_size=self.batch_size)
        values = {"lr": 1e-3, "weight_decay": 1e-4, "momentum": 0.9}
        start = {name: np.full(size, value) for name, value in values.items()}
        return TaskGroup(training, start, list(range(size)), INTERVAL * DECISIONS, self.name)

    def cost(self, seed: int, index: int) -> float:
        """All groups take as long."""
        del seed, index
        return 1.0

    def bmm_seconds(self) -> float:
        """Time of the matrix products alone, for one optimiser step of a whole group."""
        widths = [self.features, *[self.width] * self.depth, self.classes]
        products = []
        for first, (rows, columns) in enumerate(itertools.pairwise(widths)):
            x, w = torch.randn(GROUP_SIZE, self.batch_size, rows), torch.randn(GROUP_SIZE, rows, columns)
            y = torch.randn(GROUP_SIZE, self.batch_size, columns)
            products += [(x, w), (x.mT, y)] + ([(y, w.mT)] if first else [])
        return timed(lambda: [torch.bmm(a, b) for a, b in products], 50)


def timed(work: Callable[[], object], times: int) -> float:
    """Seconds of processor time a call, after a warm-up: with one thread, what a core of its own would take."""
    work()
    start = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - start) / times


def batched_seconds(family: TaskFamily, groups: int) -> float:
    """Seconds a decision of all groups together, tasks already made."""
    env = ScheduleVecEnv(family, groups=groups, group_size=GROUP_SIZE, decisions=DECISIONS)
    env.reset()
    action = np.zeros((env.num_envs, 3), dtype=np.float32)
    return timed(lambda: env.step(action), 5)


def single_seconds(group: TaskGroup) -> float:
    """Seconds a decision of the single-network environment on a group's first task."""
    config = {name: float(values[0]) for name, values in group.start.items()}
    env = ScheduleEnv(group.training.twin(0), decisions=DECISIONS, interval=INTERVAL)
    env.reset(seed=0, options={"config": config, "seed": group.seeds[0]})
    action = np.zeros(3, dtype=np.float32)
    return timed(lambda: env.step(action), 5)


def measure(family: TaskFamily, groups: int, repeats: int) -> dict[str, float]:
    """Medians over repeats; batched and single run in turn, so that both see the machine in the same mood."""
    drawn = [family.sample(GROUP_SIZE, 0, index) for index in range(groups)]
    steps = GROUP_SIZE * INTERVAL * groups
    rows = []
    for _ in range(repeats):
        batched = batched_seconds(family, groups)
        alone = GROUP_SIZE * sum(single_seconds(group) for group in drawn)
        decisions = groups * GROUP_SIZE
        row = [decisions / batched, steps / batched, decisions / alone, steps / alone, alone / batched]
        if isinstance(family, OneShape):
            row.append(INTERVAL * family.bmm_seconds() / batched)
        rows.append(row)
    names = ("decisions_a_second", "steps_a_second", "single_decisions_a_second", "single_steps_a_second", "ratio")
    medians = np.median(np.array(rows), axis=0).tolist()
    return dict(zip([*names, "bmm_share"], medians, strict=False))


def plot(results: dict[str, dict[str, float]], path: Path) -> None:
    """Steps a second of both, by shape."""
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axis = figure.subplots()
    at = np.arange(len(results))
    for offset, key, label, colour in (
        (-0.2, "steps_a_second", "batched", "#0072B2"),
        (0.2, "single_steps_a_second", "one network at a time", "#D55E00"),
    ):
        axis.barh(at + offset, [figures[key] for figures in results.values()], 0.38, label=label, color=colour)
    for y, figures in zip(at, results.values(), strict=True):
        axis.text(figures["steps_a_second"], y - 0.2, f"  {figures['ratio']:.0f} times", va="center", fontsize=9)
    axis.set_yticks(at, list(results))
    axis.invert_yaxis()
    axis.set_xlim(right=2 * max(figures["steps_a_second"] for figures in results.values()))
    axis.set(xscale="log", xlabel="optimiser steps a second, one core")
    axis.grid(axis="x", alpha=0.25)
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measures, writes results.json and the plot, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sgd, adamw = BatchedOptimizer.SGD, BatchedOptimizer.ADAMW
    shapes = [(16, 32, 1, 5, 32), (32, 32, 2, 10, 32), (64, 48, 2, 10, 32)]
    families: dict[str, tuple[TaskFamily, int]] = {
        family.name: (family, 1) for shape in shapes for family in (OneShape(*shape, sgd), OneShape(*shape, adamw))
    }
    for each in Architecture:
        steps = INTERVAL * DECISIONS, INTERVAL * DECISIONS
        families[f"meta-training: {each}s"] = (SyntheticTasks(steps=steps, mix={each: 1.0}), 4)
    results = {}
    for name, (family, groups) in families.items():
        results[name] = measure(family, groups, args.repeats)
        print(f"{name:<36}" + "  ".join(f"{key} {value:.4g}" for key, value in results[name].items()), flush=True)
    document = {
        "settings": {"group_size": GROUP_SIZE, "interval": INTERVAL, "repeats": args.repeats, "threads": 1},
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__},
        "results": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot(results, args.out / "results.png")


if __name__ == "__main__":
    main()
