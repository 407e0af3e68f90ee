"""A random forest tuned by hyperopt: the program that many tutorials begin with, but for `algo=` and its last line.

python experiments/article_programs/hyperopt_forest.py [--algo metatuner|tpe|random] [--seed 0]

The trials are recorded in MLflow when all have run: `metatuner ui` shows them.
"""

from __future__ import annotations

import argparse

import metatuner as mt
import numpy as np
from hyperopt import STATUS_OK, Trials, fmin, hp, rand, space_eval, tpe
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

ALGORITHMS = {"metatuner": mt.hyperopt_suggest, "tpe": tpe.suggest, "random": rand.suggest}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--algo", default="metatuner", choices=ALGORITHMS)
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()

X, y = make_classification(n_samples=1000, n_features=20, n_informative=2, n_redundant=10, random_state=42)

space = {
    "n_estimators": hp.choice("n_estimators", range(10, 200)),
    "max_depth": hp.choice("max_depth", range(1, 10)),
    "min_samples_split": hp.choice("min_samples_split", range(2, 10)),
}


def objective(params: dict[str, int]) -> dict[str, object]:
    """The mean accuracy of a threefold cross-validation, as a loss."""
    forest = RandomForestClassifier(**params, random_state=42)
    accuracy = cross_val_score(forest, X, y, cv=3, scoring="accuracy").mean()
    return {"loss": -accuracy, "status": STATUS_OK}


trials = Trials()
best = fmin(
    objective,
    space,
    algo=ALGORITHMS[args.algo],
    max_evals=100,
    trials=trials,
    rstate=np.random.default_rng(args.seed),
    show_progressbar=False,
)
print(f"accuracy {-min(trials.losses()):.4f} with {space_eval(space, best)}")
mt.record_study(trials)
