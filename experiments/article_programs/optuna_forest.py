"""A random forest on iris tuned by Optuna, as Optuna's own tutorials do, but for `sampler=` and the last line.

python experiments/article_programs/optuna_forest.py [--sampler metatuner|tpe|random] [--seed 0]

The trials are recorded in MLflow when all have run: `metatuner ui` shows them.
"""

from __future__ import annotations

import argparse

import metatuner as mt
import optuna
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

SAMPLERS = {
    "metatuner": lambda seed: mt.PolicySampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--sampler", default="metatuner", choices=SAMPLERS)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

X, y = load_iris(return_X_y=True)


def objective(trial: optuna.Trial) -> float:
    """The mean accuracy of a threefold cross-validation."""
    forest = RandomForestClassifier(
        n_estimators=trial.suggest_int("n_estimators", 10, 199),
        max_depth=trial.suggest_int("max_depth", 1, 9),
        min_samples_split=trial.suggest_int("min_samples_split", 2, 9),
        random_state=42,
    )
    return float(cross_val_score(forest, X, y, cv=3, scoring="accuracy").mean())


study = optuna.create_study(direction="maximize", sampler=SAMPLERS[args.sampler](args.seed))
study.optimize(objective, n_trials=100)
print(f"accuracy {study.best_value:.4f} with {study.best_params}")
mt.record_study(study)
