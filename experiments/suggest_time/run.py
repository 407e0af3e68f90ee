"""How long a proposal takes in studies of 30, 1,000 and 10,000 trials: the learned search beside Optuna's samplers.

OMP_NUM_THREADS=1 python experiments/suggest_time/run.py
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import optuna
import torch
from metatuner.agent.policy_sampler import PolicySampler
from metatuner.agent.quiet import quiet_optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import create_trial

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 0.99),
    "dropout": FloatDistribution(0.0, 0.9),
    "layers": IntDistribution(1, 8),
    "units": IntDistribution(16, 1024, log=True),
    "optimizer": CategoricalDistribution(["sgd", "adam", "rmsprop"]),
}
TRIALS = (30, 1_000, 10_000)
ASKED = 20  # proposals that are timed, each followed by its value
SLOW = {"gp": 1_000}  # trials beyond which one proposal takes minutes


def main() -> None:
    """Times the samplers and writes `results.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    for trials in TRIALS:
        for name, sampler in _samplers().items():
            if trials <= SLOW.get(name, trials):
                results.setdefault(name, {})[str(trials)] = round(_milliseconds(sampler, trials), 3)
                print(f"{name}, {trials} trials: {results[name][str(trials)]} ms", flush=True)
    args.out.write_text(json.dumps({"median milliseconds": results, "proposals": ASKED}, indent=2) + "\n")


def _samplers() -> dict[str, BaseSampler]:
    return {
        "policy": PolicySampler(space=SPACE, seed=0),
        "tpe": TPESampler(seed=0),
        "gp": GPSampler(seed=0),
        "nsga2": NSGAIISampler(seed=0),
        "random": RandomSampler(seed=0),
    }


def _milliseconds(sampler: BaseSampler, trials: int) -> float:
    """Median time of a proposal in a study of so many trials."""
    with quiet_optuna():
        study = optuna.create_study(sampler=sampler)
        _fill(study, trials)
        asked = 2 if trials > TRIALS[0] and isinstance(sampler, GPSampler) else ASKED
        study.tell(study.ask(SPACE), 1.0)  # the first one reads what is there
        times = []
        for _ in range(asked):
            began = time.perf_counter()
            trial = study.ask(SPACE)
            times.append(time.perf_counter() - began)
            study.tell(trial, _value(trial.params))
    return 1000 * float(np.median(times))


def _fill(study: Study, trials: int) -> None:
    random = np.random.default_rng(0)
    study.add_trials(
        [
            create_trial(params=params, distributions=SPACE, value=_value(params))
            for params in (
                {
                    "lr": float(10 ** random.uniform(-5, 0)),
                    "momentum": float(random.uniform(0, 0.99)),
                    "dropout": float(random.uniform(0, 0.9)),
                    "layers": int(random.integers(1, 9)),
                    "units": int(2 ** random.uniform(4, 10)),
                    "optimizer": str(random.choice(["sgd", "adam", "rmsprop"])),
                }
                for _ in range(trials)
            )
        ]
    )


def _value(params: dict[str, object]) -> float:
    return float((np.log10(params["lr"]) + 2.5) ** 2 + (params["dropout"] - 0.3) ** 2 + 0.1 * params["layers"])


if __name__ == "__main__":
    main()
