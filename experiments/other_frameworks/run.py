"""A policy that learnt on PyTorch tasks, on scikit-learn's `partial_fit` models and XGBoost's rounds.

OMP_NUM_THREADS=1 python experiments/other_frameworks/run.py

See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import sklearn
import xgboost
from metatuner.envs.estimator_losses import usual_loss
from metatuner.envs.signals import LOSS_FLOOR
from metatuner.envs.training import Training
from numpy.typing import NDArray
from sklearn.datasets import (
    load_wine,
    make_classification,
    make_gaussian_quantiles,
    make_hastie_10_2,
    make_moons,
)
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from xgboost import XGBClassifier

Array = NDArray[np.float64]

HERE = Path(__file__).parent
STARTS = 5
DECISIONS = 20
RIVALS: Mapping[str, Callable[[Array], Array]] = {
    "constant": np.ones_like,
    "cosine": lambda done: 0.5 * (1 + np.cos(np.pi * done / len(done))),
    "invscaling": lambda done: 1 / np.sqrt(done + 1),
}
"""By which factor the starting rate is multiplied after so many steps."""
RESAMPLES = 2000


@dataclass(frozen=True)
class Model:
    """Something to train.

    Attributes:
        estimator: Makes it.
        training: What makes a training of it.
        lowest: The lowest starting rate.
        highest: The highest one.
        interval: Steps between decisions.
    """

    estimator: Callable[[], Any]
    training: Callable[..., Any]
    lowest: float
    highest: float
    interval: int

    @property
    def starts(self) -> Array:
        """The starting rates."""
        return np.geomspace(self.lowest, self.highest, STARTS)

    @property
    def steps(self) -> int:
        """Steps a training."""
        return DECISIONS * self.interval


MODELS = {
    "MLPClassifier, Adam": Model(lambda: MLPClassifier((32,)), mt.PartialFitTraining, 1e-5, 1e-1, 10),
    "MLPClassifier, SGD": Model(lambda: MLPClassifier((32,), solver="sgd"), mt.PartialFitTraining, 1e-4, 1.0, 10),
    "SGDClassifier": Model(lambda: SGDClassifier(loss="log_loss"), mt.PartialFitTraining, 1e-5, 1e-1, 10),
    "XGBClassifier": Model(
        lambda: XGBClassifier(max_depth=3, subsample=0.8, n_jobs=1), mt.BoostingTraining, 1e-3, 1.0, 5
    ),
}

DATA: Mapping[str, Callable[[int], tuple[Any, Any]]] = {
    "wine": lambda seed: load_wine(return_X_y=True),
    "hastie": lambda seed: _binary(*make_hastie_10_2(1500, random_state=seed)),
    "four classes": lambda seed: make_classification(
        1500, 20, n_informative=8, n_classes=4, flip_y=0.05, random_state=seed
    ),
    "quantiles": lambda seed: make_gaussian_quantiles(n_samples=1500, n_features=5, n_classes=3, random_state=seed),
    "moons": lambda seed: make_moons(1000, noise=0.3, random_state=seed),
}
"""Data sets by the seed of a run; none of them was looked at before the trainings were as they are."""


def _binary(x: Any, y: Any) -> tuple[Any, Any]:
    return x, (y > 0).astype(int)


def split(name: str, seed: int) -> tuple[tuple[Any, Any, Any, Any], tuple[Any, Any]]:
    """Training and validation rows, and test rows: 60 : 20 : 20, standardised by the training rows."""
    x, y = DATA[name](seed)
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=seed)
    x, x_val, y, y_val = train_test_split(x, y, test_size=0.25, stratify=y, random_state=seed)
    mean, std = x.mean(0), x.std(0)
    x, x_val, x_test = ((each - mean) / std for each in (x, x_val, x_test))
    return (x, y, x_val, y_val), (x_test, y_test)


def outcomes(model: Model, name: str, seed: int, policy: mt.Policy) -> dict[str, list[list[float]]]:
    """Of each strategy the final [validation loss, test loss] from each start."""
    rows, test = split(name, seed)
    training = model.training(model.estimator(), *rows)
    measure = usual_loss(model.estimator())
    found: dict[str, list[list[float]]] = {}

    def end(strategy: str, first: float, untrained: float, last: float) -> None:
        # What diverged, or is worse than nothing, counts as nothing.
        ended = [last, measure(training.model, *test)] if last < first else [first, untrained]
        found.setdefault(strategy, []).append([float(f"{loss:.5g}") for loss in ended])

    for lr in model.starts.tolist():
        first = float(training.start({"lr": lr}, seed).val_loss[0])
        untrained = measure(training.model, *test)
        fresh = training.snapshot()
        for strategy, factor in RIVALS.items():
            training.restore(fresh)
            end(strategy, first, untrained, _follow(training, lr * factor(np.arange(model.steps, dtype=np.float64))))
        env = mt.ScheduleEnv(
            training, adjust=("lr",), start={"lr": lr}, decisions=DECISIONS, interval=model.interval
        )  # fmt: skip
        end("policy", first, untrained, mt.run_schedule(env, policy, seed=seed).val_loss)
    return found


def _follow(training: Training, rates: Array) -> float:
    interval = training.advance({"lr": rates.tolist()}, len(rates))
    return float("inf") if interval.diverged[0] else float(interval.val_loss[0])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of each model and part (validation, test): geometric means with intervals of what is told in README.md."""
    return {
        model: {
            part: _figures([run for run in runs if run["model"] == model], place)
            for place, part in enumerate(("validation", "test"))
        }
        for model in dict.fromkeys(run["model"] for run in runs)
    }


def _figures(runs: list[dict[str, Any]], place: int) -> dict[str, Any]:
    sets = list(dict.fromkeys(run["data"] for run in runs))
    logs: dict[str, Array] = {}
    for strategy in ("policy", *RIVALS):
        by_set = [[_log_ratios(run, strategy, place) for run in runs if run["data"] == name] for name in sets]
        logs[strategy] = np.array(by_set)  # (sets, seeds, starts)
    figures: dict[str, Any] = {}
    for strategy, values in logs.items():
        figures[strategy] = _mean(values.mean((1, 2)))
        figures[f"{strategy}, by start"] = np.exp(values.mean((0, 1))).round(3).tolist()
        if strategy == "policy":
            figures["policy, by data"] = dict(zip(sets, np.exp(values.mean((1, 2))).round(3).tolist(), strict=True))
        else:
            figures[f"policy over {strategy} from the same start"] = _mean((logs["policy"] - values).mean((1, 2)))
            figures[f"best of {STARTS}, {strategy}"] = _mean(_best(runs, sets, strategy, place).mean(1))
    return figures


def _log_ratios(run: dict[str, Any], strategy: str, place: int) -> Array:
    """Log losses of all starts over that of the best constant, which validation losses choose."""
    losses = run["losses"]
    best = min(losses["constant"], key=lambda each: each[0])[place]
    found: Array = np.log(np.maximum(np.array(losses[strategy])[:, place], LOSS_FLOOR) / max(best, LOSS_FLOOR))
    return found


def _best(runs: list[dict[str, Any]], sets: list[str], strategy: str, place: int) -> Array:
    def of(run: dict[str, Any]) -> float:
        return float(_log_ratios(run, strategy, place)[np.argmin(np.array(run["losses"][strategy])[:, 0])])

    return np.array([[of(run) for run in runs if run["data"] == name] for name in sets])


def _mean(logs: Array) -> list[float]:
    """Geometric mean over data sets, and a 95 % bootstrap interval in which data sets are resampled."""
    rng = np.random.default_rng(0)
    resampled = logs[rng.integers(len(logs), size=(RESAMPLES, len(logs)))].mean(1)
    return [round(float(v), 3) for v in np.exp([logs.mean(), *np.quantile(resampled, [0.025, 0.975])])]


def main() -> None:
    """Runs what is asked for, and writes results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policy", default="schedule-default", help="its name or folder (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: %(default)s)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    parser.add_argument("--out", type=Path, default=HERE / "results.json", help="default: results.json beside this")
    args = parser.parse_args()
    policy, began, runs = mt.Policy.load(args.policy), time.perf_counter(), []
    for model in args.models:
        for name in DATA:
            for seed in range(args.seeds):
                losses = outcomes(MODELS[model], name, seed, policy)
                runs.append({"model": model, "data": name, "seed": seed, "losses": losses})
            print(f"{time.perf_counter() - began:5.0f} s  {model}, {name}", flush=True)
    result = {
        "settings": {
            "policy": policy.name,
            "policy_sha256": policy.card.get("sha256"),
            "starts": {name: MODELS[name].starts.tolist() for name in args.models},
            "steps": {name: MODELS[name].steps for name in args.models},
            "decisions": DECISIONS,
            "seeds": args.seeds,
            "versions": {
                "python": platform.python_version(),
                "scikit-learn": sklearn.__version__,
                "xgboost": xgboost.__version__,
            },
            "seconds": round(time.perf_counter() - began),
        },
        "summary": summary(runs),
        "runs": runs,
    }
    args.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    for model, figures in result["summary"].items():
        print(model, json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
