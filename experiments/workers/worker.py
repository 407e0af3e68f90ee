"""One worker of `throughput.py`: WHO STORAGE STUDY TRIALS, where WHO is optuna, or a strategy of metatuner."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import optuna
import torch
from metatuner.agent.storages import open_storage
from metatuner.agent.tune import tune
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

FLOATS = {"x": FloatDistribution(-5.0, 5.0), "y": FloatDistribution(-5.0, 5.0)}
GRID = {"x": IntDistribution(0, 39), "y": IntDistribution(0, 49)}


def objective(config: Mapping[str, Any]) -> float:
    """Trivial: what is measured is what is around it."""
    return float((config["x"] - 3) ** 2 + (config["y"] - 2) ** 2)


def work(who: str, storage: str, name: str, trials: int) -> None:
    """Works until the study has so many trials."""
    if who == "optuna":
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(
            storage=storage.replace("postgresql://", "postgresql+psycopg://"),
            study_name=name,
            load_if_exists=True,
            sampler=TPESampler(constant_liar=True),
        )
        states = (TrialState.COMPLETE,)
        study.optimize(
            lambda trial: objective({each: trial.suggest_float(each, -5.0, 5.0) for each in FLOATS}),
            n_trials=trials,
            callbacks=[MaxTrialsCallback(trials, states=states)],
        )
        return
    strategy, _, space = who.partition("-")
    tune(
        objective,
        GRID if space == "grid" else FLOATS,
        trials,
        strategy=strategy,
        storage=open_storage(storage),
        name=name,
        recorder=NullRecorder(),
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
