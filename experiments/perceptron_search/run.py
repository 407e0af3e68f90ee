"""One adaptive run against learning-rate searches, on real data that the policy never saw.

    python experiments/perceptron_search/run.py [--policy NAME_OR_FOLDER] [--interval 20] [--seeds 5] [--out FOLDER]
    python experiments/perceptron_search/run.py --data FOLDER --rows 600       # your own: NAME.npz with X and y

Every strategy trains the same perceptrons (two hidden layers of 48) from the same initial weights on the same
mini-batches, for 25 intervals of optimiser steps. Losses are validation losses; no test set is used.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from metatuner.agent.evaluation import final_losses, train_fixed
from metatuner.agent.policy import Policy
from metatuner.envs.batched_training import BatchedData, BatchedTraining
from metatuner.envs.builtin_tasks import DATA_SETS, load_examples, mlp, split_examples
from metatuner.envs.families import TaskGroup
from metatuner.envs.references import constant, cosine
from metatuner.envs.signals import LOSS_FLOOR
from metatuner.envs.update_rules import BatchedOptimizer
from numpy.typing import NDArray
from torch.optim.lr_scheduler import ReduceLROnPlateau

HERE = Path(__file__).parent
OPTIMIZERS = (BatchedOptimizer.ADAM, BatchedOptimizer.SGD)
STARTING_RATES = np.geomspace(1e-5, 10**-0.5, 24)
"""Four and a half decades; the best rate of every task lies well inside."""
MOST_CLASSES = 20
DECISIONS = 25


@dataclass(frozen=True)
class RealTask:
    """One data set and optimiser; each (seed, starting rate) is one training. A family of one group."""

    data_set: str
    examples: torch.Tensor
    targets: torch.Tensor
    optimizer: BatchedOptimizer
    seeds: int
    interval: int

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return f"{self.data_set} {self.optimizer}"

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """All seeds x rates at once; rates vary fastest."""
        del size, seed, index
        examples, targets = self.examples, self.targets
        per_seed = [_joined(*split_examples(examples, targets, seed)) for seed in range(self.seeds)]
        rates = len(STARTING_RATES)
        inputs = torch.stack([x for x, _ in per_seed]).repeat_interleave(rates, 0)
        labels = torch.stack([y for _, y in per_seed]).repeat_interleave(rates, 0)
        cut = int(0.7 * len(examples))
        model = functools.partial(mlp, examples.shape[1], int(targets.max()) + 1)
        training = BatchedTraining(model, self.optimizer, BatchedData(inputs, labels, [cut] * len(inputs), cut))
        n = len(inputs)
        start = {
            "lr": np.tile(STARTING_RATES, self.seeds),
            "weight_decay": np.full(n, 1e-4),
            "momentum": np.full(n, 0.9),
        }
        return TaskGroup(
            training, start, np.repeat(np.arange(self.seeds), rates).tolist(), self.interval * DECISIONS, self.name
        )

    def cost(self, seed: int, index: int) -> float:
        """All groups take as long."""
        del seed, index
        return 1.0


def data_sets(folder: Path | None, rows: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Inputs and class numbers by name: scikit-learn's own, or the classification sets of a folder, cut to `rows`."""
    if folder is None:
        return {name: load_examples(name) for name in DATA_SETS}
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["X"][:rows].astype(np.float32), arrays["y"][:rows]
        classes, numbers = np.unique(y, return_inverse=True)
        if np.issubdtype(y.dtype, np.integer) and len(classes) <= MOST_CLASSES:
            found[path.stem] = (torch.from_numpy(x), torch.from_numpy(numbers))
    return found


def _joined(train: torch.utils.data.TensorDataset, val: torch.utils.data.TensorDataset) -> tuple[torch.Tensor, ...]:
    return tuple(torch.cat([a, b]) for a, b in zip(train.tensors, val.tensors, strict=True))


def train_plateau(group: TaskGroup, decisions: int) -> NDArray[np.float64]:
    """Torch's ReduceLROnPlateau, told the validation loss after every interval: a third after two without progress."""
    first = group.training.start(group.start, group.seeds).val_loss
    optimizers = [torch.optim.SGD([torch.zeros(1)], lr=float(lr)) for lr in group.start["lr"]]
    schedulers = [ReduceLROnPlateau(optimizer, factor=0.3, patience=2) for optimizer in optimizers]
    for _ in range(decisions):
        rates = np.array([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        last = group.training.advance({"lr": rates}, group.steps // DECISIONS).val_loss
        for scheduler, loss in zip(schedulers, last, strict=True):
            scheduler.step(float(loss))
    return np.where(np.isfinite(last), np.minimum(last, first), first)


def run_task(task: RealTask, policy: Policy) -> dict[str, NDArray[np.float64]]:
    """Final validation losses by strategy, each of shape (seeds, rates)."""
    size = task.seeds * len(STARTING_RATES)
    strategies: dict[str, Callable[[], NDArray[np.float64]]] = {
        "policy": lambda: final_losses(policy, task, 0, 0, size, guarded=True),
        "unguarded": lambda: final_losses(policy, task, 0, 0, size),
        "constant": lambda: train_fixed(task.sample(size, 0, 0), constant, policy.decisions),
        "cosine": lambda: train_fixed(task.sample(size, 0, 0), cosine, policy.decisions),
        "plateau": lambda: train_plateau(task.sample(size, 0, 0), policy.decisions),
    }
    return {name: train().reshape(task.seeds, -1) for name, train in strategies.items()}


def tuned_elsewhere(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each seed's loss at the rate that is best in the median over the other seeds, shape (seeds, 1).

    What a search is worth that does not choose by the very validation rows that score it.
    """
    chosen = [np.median(np.delete(losses, seed, axis=0), axis=0).argmin() for seed in range(len(losses))]
    return losses[np.arange(len(losses)), chosen][:, None]


def summarise(losses: dict[str, NDArray[np.float64]]) -> dict[str, dict[str, float]]:
    """Ratios to the best of the 24 cosine runs of the same seed: median and quartiles over seeds and starts."""
    # A lucky run on a few rows may end at a loss of 0.
    losses = {name: np.maximum(values, LOSS_FLOOR) for name, values in losses.items()}
    best = losses["cosine"].min(axis=1, keepdims=True)
    summary = {}
    for name, values in {**losses, "tuned_cosine": tuned_elsewhere(losses["cosine"])}.items():
        low, median, high = np.percentile(values / best, [25, 50, 75])
        summary[name] = {
            "median_ratio": float(median),
            "quartile_1": float(low),
            "quartile_3": float(high),
            "worst_ratio": float((values / best).max()),
            "median_loss": float(np.median(values)),
        }
    summary["best_of_24_cosines"] = {"median_loss": float(np.median(best))}
    return summary


def plot(results: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """Final loss against starting rate, a panel for each task."""
    bands = -(-len(results) // 8)
    figure = Figure(figsize=(15, 7 * bands), layout="constrained")
    grid = figure.subplots(2 * bands, 4)
    # A band of panels holds four data sets, one optimiser above the other.
    axes = np.concatenate([grid[2 * band : 2 * band + 2].T.flatten() for band in range(bands)])
    for unused in axes[len(results) :]:
        unused.set_axis_off()
    colours = {"policy": "#0072B2", "constant": "#999999", "cosine": "#D55E00", "plateau": "#009E73"}
    for axis, (task, by_strategy) in zip(axes, results.items(), strict=False):
        for strategy, colour in colours.items():
            values = np.array(by_strategy[strategy])
            axis.fill_between(STARTING_RATES, values.min(0), values.max(0), color=colour, alpha=0.15, lw=0)
            axis.plot(STARTING_RATES, np.median(values, 0), color=colour, label=strategy)
        best = float(np.median(np.array(by_strategy["cosine"]).min(1)))
        axis.axhline(best, color="black", ls=":", label="best of 24 cosines")
        axis.set(xscale="log", yscale="log", title=task)
        axis.set(xlabel="starting learning rate", ylabel="final validation loss")
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110 if bands == 1 else 55)


def main() -> None:
    """Runs all tasks, writes results.json and the plot, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="schedule-default")
    parser.add_argument("--interval", type=int, default=20, help="optimiser steps between two decisions")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a folder of NAME.npz with X (rows, features) and y (class numbers)")
    parser.add_argument("--rows", type=int, default=1800, help="rows of each file that are used (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = replace(Policy.load(args.policy), decisions=DECISIONS)
    args.out.mkdir(parents=True, exist_ok=True)
    losses, summaries = {}, {}
    for data_set, (examples, targets) in data_sets(args.data, args.rows).items():
        for optimizer in OPTIMIZERS:
            task = RealTask(data_set, examples, targets, optimizer, args.seeds, args.interval)
            measured = run_task(task, policy)
            losses[task.name] = {name: np.round(values, 5).tolist() for name, values in measured.items()}
            summaries[task.name] = summarise(measured)
            figures = "  ".join(f"{name} {summaries[task.name][name]['median_ratio']:.3f}" for name in measured)
            best = summaries[task.name]["best_of_24_cosines"]["median_loss"]
            print(f"{task.name:<20} best of 24: {best:.4f}  median ratios: {figures}", flush=True)
    strategies = ("policy", "unguarded", "constant", "cosine", "plateau", "tuned_cosine")
    overall = {
        name: float(np.median([summary[name]["median_ratio"] for summary in summaries.values()])) for name in strategies
    }
    print("median over tasks: " + "  ".join(f"{name} {ratio:.3f}" for name, ratio in overall.items()))
    settings = {
        "policy": policy.name,
        "policy_sha256": policy.card.get("sha256"),
        "interval": args.interval,
        "decisions": policy.decisions,
        "seeds": args.seeds,
        "data": "scikit-learn" if args.data is None else f"{args.data.name}, {args.rows} rows of each set",
        "starting_rates": np.round(STARTING_RATES, 9).tolist(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    stem = f"results_{args.interval}" if args.data is None else f"results_{args.data.name}_{args.rows}_{args.interval}"
    document = {"settings": settings, "median_over_tasks": overall, "tasks": summaries, "final_val_losses": losses}
    (args.out / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    plot(losses, args.out / f"{stem}.png")


if __name__ == "__main__":
    main()
