"""Population based training in Ray Tune: a learned policy that explores beside Ray's own PBT and PB2.

OMP_NUM_THREADS=1 python experiments/ray_population/run.py [--seeds 5]
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import random
import secrets
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Read by Ray when it is imported: all of it listens on the loopback interface, behind a token, and tells nobody.
os.environ.update(
    RAY_AUTH_MODE="token",
    RAY_AUTH_TOKEN=secrets.token_hex(32),
    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_enable_worker_prestart="0",  # starting a process takes longer than training here
    RAY_worker_niceness="0",
    TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1",
)

import metatuner as mt
import ray
from matplotlib.figure import Figure
from ray import tune
from ray.tune.schedulers import FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.schedulers.pb2 import PB2
from ray.tune.search import BasicVariantGenerator

FOLDER = Path(__file__).parent
POPULATION, EPOCHS, INTERVAL = 8, 20, 2
RANGES = {"lr": (1e-4, 1.0), "weight_decay": (1e-6, 1e-1), "momentum": (0.0, 0.99)}
SPACE = {
    "lr": tune.loguniform(*RANGES["lr"]),
    "weight_decay": tune.loguniform(*RANGES["weight_decay"]),
    "momentum": tune.uniform(*RANGES["momentum"]),
}
STRATEGIES = {
    "policy": "PolicyScheduler (learned)",
    "blind": "PolicyScheduler, losses alone",
    "pbt": "Ray's PBT",
    "pb2": "Ray's PB2",
    "none": "random search, constant",
}


def train(config: dict[str, Any], sets: list[tuple[Any, Any]]) -> None:
    """A perceptron on scikit-learn's digits: a report and a checkpoint each epoch, the test set at the end."""
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy

    torch.set_num_threads(1)
    torch.manual_seed(config["seed"])
    (x, y), (x_val, y_val), (x_test, y_test) = sets
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    begin = 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder, "state.pt"))
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        begin = state["epoch"]
    optimizer.param_groups[0].update({name: value for name, value in natural(config).items() if name in RANGES})
    probe = mt.TrialProbe(optimizer, steps=math.ceil(len(x) / 32))
    for epoch in range(begin + 1, EPOCHS + 1):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1_000 * config["seed"] + epoch))
        for rows in order.split(32):
            loss = cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            probe.step(loss)
        with torch.no_grad():
            result = {"epoch": epoch, "val_loss": float(cross_entropy(model(x_val), y_val))}
            if epoch == EPOCHS:
                result["test_accuracy"] = float((model(x_test).argmax(1) == y_test).float().mean())
        with tempfile.TemporaryDirectory() as folder:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
            torch.save(state, Path(folder, "state.pt"))
            measured = {} if config["blind"] else probe.report()
            tune.report({**result, **measured}, checkpoint=tune.Checkpoint.from_directory(folder))


def data(seed: int) -> list[tuple[Any, Any]]:
    """Train, validation and test set: 60, 20 and 20 % of 1,797 rows."""
    import torch
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(np.arange(1797), test_size=0.2, random_state=seed)
    training, validation = train_test_split(rest, test_size=0.25, random_state=seed)
    x, y = load_digits(return_X_y=True)
    return [
        (torch.tensor(x[rows] / 16.0, dtype=torch.float32), torch.tensor(y[rows]))
        for rows in (training, validation, test)
    ]


def natural(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as the optimiser takes it: PB2 searches the exponents of rates, since it knows no scales."""
    return {name.removeprefix("log_"): 10.0**v if name.startswith("log_") else v for name, v in config.items()}


def start_of(seed: int) -> list[dict[str, float]]:
    """The configurations that a population starts from: the same for all strategies."""
    rng = np.random.default_rng(seed)
    lows, highs = np.array(list(RANGES.values())).T
    rates = np.exp(rng.uniform(np.log(lows[:2]), np.log(highs[:2]), (POPULATION, 2)))
    momenta = rng.uniform(lows[2], highs[2], POPULATION)
    return [
        {"lr": float(lr), "weight_decay": float(wd), "momentum": float(m)}
        for (lr, wd), m in zip(rates, momenta, strict=True)
    ]


def scheduler_of(strategy: str) -> TrialScheduler:
    """The scheduler of a strategy; all have the same intervals and quantiles."""
    same = {"time_attr": "training_iteration", "perturbation_interval": INTERVAL, "synch": True, "log_config": False}
    match strategy:
        case "policy" | "blind":
            return mt.PolicyScheduler(SPACE, total_time=EPOCHS, adaptive=False, **same)
        case "pbt":
            return PopulationBasedTraining(hyperparam_mutations=SPACE, **same)
        case "pb2":
            logs = {f"log_{name}": [float(np.log10(end)) for end in RANGES[name]] for name in ("lr", "weight_decay")}
            return PB2(hyperparam_bounds={**logs, "momentum": list(RANGES["momentum"])}, **same)
    return FIFOScheduler()


class Curves(tune.Callback):  # type: ignore[misc]
    """Keeps the validation losses of a population: epoch, then trial."""

    def __init__(self) -> None:
        self.losses: dict[int, dict[str, float]] = {}
        self.rates: set[tuple[str, float]] = set()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial reports."""
        self.losses.setdefault(result["epoch"], {})[trial.trial_id] = result["val_loss"]
        self.rates.add((trial.trial_id, float(natural(result["config"])["lr"])))


def population(strategy: str, seed: int, folder: str) -> dict[str, Any]:
    """Trains a population; returns what became of it."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (Ray's schedulers draw from it)
    starts, space = start_of(seed), dict(SPACE)
    if strategy == "pb2":
        starts = [logarithmic(start) for start in starts]
        space = {name: tune.uniform(-9.0, 1.0) for name in starts[0]}  # drawn from nowhere: all starts are given
    curves, began = Curves(), time.perf_counter()
    results = tune.Tuner(
        tune.with_parameters(train, sets=data(seed)),
        param_space={**space, "seed": seed, "blind": strategy != "policy"},
        tune_config=tune.TuneConfig(
            metric="val_loss",
            mode="min",
            scheduler=scheduler_of(strategy),
            search_alg=BasicVariantGenerator(points_to_evaluate=starts),
            num_samples=POPULATION,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=[curves]),
    ).fit()
    assert not results.errors, results.errors
    best = results.get_best_result("val_loss", "min", scope="last")
    by_epoch = [curves.losses[epoch] for epoch in range(1, EPOCHS + 1)]
    assert all(len(losses) == POPULATION for losses in by_epoch), "a trial has not trained every epoch"
    return {
        "strategy": strategy,
        "seed": seed,
        "val_loss": best.metrics["val_loss"],
        "test_accuracy": best.metrics["test_accuracy"],
        "median_val_loss": float(np.median([each.metrics["val_loss"] for each in results])),
        "best_by_epoch": [min(losses.values()) for losses in by_epoch],
        "learning_rates": len(curves.rates),
        "wall_s": round(time.perf_counter() - began, 1),
    }


def logarithmic(config: Mapping[str, float]) -> dict[str, float]:
    """The configuration as PB2 takes it."""
    return {
        ("momentum" if k == "momentum" else f"log_{k}"): v if k == "momentum" else math.log10(v)
        for k, v in config.items()
    }


def main() -> None:
    """Trains all populations, writes results.json and results.png, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--out", type=Path, default=FOLDER)
    args = parser.parse_args()
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        ray.init(num_cpus=2, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for strategy in args.strategies:
                runs.append(population(strategy, seed, folder))
                told = {name: value for name, value in runs[-1].items() if name != "best_by_epoch"}
                print(json.dumps(told), flush=True)
                found = {"versions": versions(), "runs": runs}
                (args.out / "results.json").write_text(json.dumps(found, indent=1) + "\n")
        ray.shutdown()
    plot(runs, args.out / "results.png")


def versions() -> dict[str, str]:
    """What it was measured with."""
    import optuna
    import torch

    return {"ray": ray.__version__, "torch": torch.__version__, "optuna": optuna.__version__}


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """The best validation loss of a population by epoch: the median over seeds."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for strategy, label in STRATEGIES.items():
        curves = [run["best_by_epoch"] for run in runs if run["strategy"] == strategy]
        if curves:
            axes.plot(range(1, EPOCHS + 1), np.median(curves, axis=0), label=label)
    axes.set(yscale="log", xlabel="epoch", ylabel="best validation loss of the population")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
