"""Boosted trees tuned on four regression tasks in turn: what one teaches makes the next one cheaper.

    python experiments/task_sequences/boosting.py [--seed 0] [--out FOLDER]

scikit-learn's GradientBoostingRegressor, ten trees a unit, five hyperparameters. One data set is real: diabetes. Three
are generated: Friedman's functions 1, 2 and 3, with noise. Each is split 40 : 40 : 20 into training, validation and
test examples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import sequence
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution, IntDistribution
from sklearn import datasets
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import train_test_split

SPACE = {
    "learning_rate": FloatDistribution(0.003, 1.0, log=True),
    "max_depth": IntDistribution(1, 8),
    "min_samples_leaf": IntDistribution(1, 64, log=True),
    "subsample": FloatDistribution(0.2, 1.0),
    "max_features": FloatDistribution(0.1, 1.0),
}
ROWS = 500
TREES_A_UNIT = 10

Part = tuple[NDArray[np.float64], NDArray[np.float64]]
Loader = Callable[[int], Part]

LOADERS: dict[str, Loader] = {
    "diabetes": lambda seed: datasets.load_diabetes(return_X_y=True),
    "friedman 1": lambda seed: with_noise(*datasets.make_friedman1(ROWS, random_state=seed), seed),
    "friedman 2": lambda seed: with_noise(*datasets.make_friedman2(ROWS, random_state=seed), seed),
    "friedman 3": lambda seed: with_noise(*datasets.make_friedman3(ROWS, random_state=seed), seed),
}


def with_noise(inputs: NDArray[np.float64], targets: NDArray[np.float64], seed: int) -> Part:
    """Noise of a third of the targets' standard deviation is added to them."""
    return inputs, targets + np.random.default_rng(seed).normal(0, targets.std() / 3, len(targets))


def train(config: sequence.Config, data: dict[str, Part], seed: int, judged_on: str = "val") -> Iterator[float]:
    """Adds trees; yields the mean squared error on validation examples after each unit, 1 for who tells the mean."""
    model = GradientBoostingRegressor(**config, warm_start=True, n_estimators=0, random_state=seed)
    inputs, targets = data[judged_on]
    for _ in range(sequence.UNITS):
        model.n_estimators += TREES_A_UNIT
        model.fit(*data["train"])
        yield float(((model.predict(inputs) - targets) ** 2).mean() / data["train"][1].var())


def test(config: sequence.Config, data: dict[str, Part], seed: int) -> float:
    """The same of a full training on test examples."""
    *_, last = train(config, data, seed, judged_on="test")
    return last


def tasks(seed: int) -> list[sequence.Task]:
    """One a data set."""
    found = []
    for number, (name, load) in enumerate(LOADERS.items()):
        data = split(*load(seed), seed)
        of_data: Any = functools.partial(train, data=data, seed=seed), functools.partial(test, data=data, seed=seed)
        found.append(sequence.Task(name, *of_data, seed * len(LOADERS) + number))
    return found


def split(inputs: NDArray[np.float64], targets: NDArray[np.float64], seed: int) -> dict[str, Part]:
    """Inputs and targets of three parts."""
    rest, test_inputs, rest_targets, test_targets = train_test_split(inputs, targets, test_size=0.2, random_state=seed)
    train_inputs, val_inputs, train_targets, val_targets = train_test_split(
        rest, rest_targets, test_size=0.5, random_state=seed
    )
    return {
        "train": (train_inputs, train_targets),
        "val": (val_inputs, val_targets),
        "test": (test_inputs, test_targets),
    }


EXAMPLE = sequence.Example("boosting", SPACE, tasks, "mean squared errors over the variance of the training targets")

if __name__ == "__main__":
    sequence.main(EXAMPLE, __doc__)
