"""SMAC3 and HEBO as samplers of Optuna, so that they search the same objectives by the same loop.

They need `pip install smac HEBO`, SMAC's random forest a C++ compiler and swig besides; nothing else here does.
"""

from __future__ import annotations

import tempfile
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

Space = dict[str, BaseDistribution]


class AskedSampler(BaseSampler):
    """Asks somebody else for whole configurations, and tells what came of them."""

    def __init__(self, space: Space) -> None:
        self._space = space
        self._asked: dict[int, Any] = {}

    @abstractmethod
    def ask(self) -> tuple[Any, dict[str, Any]]:
        """A proposal, as `tell` wants it, and its configuration."""

    @abstractmethod
    def tell(self, proposal: Any, value: float) -> None:
        """What came of a proposal, to be minimised."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Space:
        """The search space, which is known."""
        del study, trial
        return self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: Space) -> dict[str, Any]:
        """The configuration of the next proposal."""
        del study, search_space
        self._asked[trial.number], config = self.ask()
        return config

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        """Never needed.

        Raises:
            KeyError: A hyperparameter is not in the search space.
        """
        raise KeyError(name)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tells what came of a trial."""
        if values is not None:
            self.tell(self._asked.pop(trial.number), float(values[0]))


class SmacSampler(AskedSampler):
    """SMAC3's facade for hyperparameters: random forest, log expected improvement, and a Sobol design, as it comes."""

    def __init__(self, space: Space, budget: int, seed: int) -> None:
        from ConfigSpace import Categorical, ConfigurationSpace, Float, Integer
        from smac import HyperparameterOptimizationFacade, Scenario

        super().__init__(space)
        configs = ConfigurationSpace(seed=seed)
        for name, each in space.items():
            if isinstance(each, FloatDistribution):
                configs.add(Float(name, (each.low, each.high), log=each.log))
            elif isinstance(each, IntDistribution):
                configs.add(Integer(name, (each.low, each.high), log=each.log))
            elif isinstance(each, CategoricalDistribution):
                configs.add(Categorical(name, list(each.choices)))
        self._folder = tempfile.TemporaryDirectory()
        scenario = Scenario(configs, deterministic=True, n_trials=budget, seed=seed, output_directory=self._folder.name)
        self._smac = HyperparameterOptimizationFacade(scenario, lambda config, seed: 0.0, logging_level=False)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """See `AskedSampler`."""
        info = self._smac.ask()
        return info, {name: _plain(value) for name, value in dict(info.config).items()}

    def tell(self, proposal: Any, value: float) -> None:
        """See `AskedSampler`."""
        from smac.runhistory import TrialValue

        self._smac.tell(proposal, TrialValue(cost=value))


class HeboSampler(AskedSampler):
    """HEBO (Cowen-Rivers et al. 2022), as it comes."""

    def __init__(self, space: Space, budget: int, seed: int) -> None:
        from hebo.design_space.design_space import DesignSpace
        from hebo.optimizers.hebo import HEBO

        del budget
        super().__init__(space)
        np.random.seed(seed)  # noqa: NPY002 - HEBO draws from it
        self._hebo = HEBO(DesignSpace().parse([_column(*each) for each in space.items()]), scramble_seed=seed)

    def ask(self) -> tuple[Any, dict[str, Any]]:
        """See `AskedSampler`."""
        proposed: pd.DataFrame = self._hebo.suggest(n_suggestions=1)
        return proposed, {name: self._within(name, proposed[name].iloc[0]) for name in self._space}

    def tell(self, proposal: Any, value: float) -> None:
        """See `AskedSampler`."""
        self._hebo.observe(proposal, np.array([[value]]))

    def _within(self, name: str, value: Any) -> Any:
        each = self._space[name]
        if isinstance(each, FloatDistribution):
            return float(np.clip(value, each.low, each.high))
        return int(np.clip(value, each.low, each.high)) if isinstance(each, IntDistribution) else _plain(value)


def _column(name: str, each: BaseDistribution) -> dict[str, Any]:
    if isinstance(each, CategoricalDistribution):
        return {"name": name, "type": "cat", "categories": list(each.choices)}
    assert isinstance(each, FloatDistribution | IntDistribution)
    whole = isinstance(each, IntDistribution)
    kind = ("pow_int" if each.log else "int") if whole else ("pow" if each.log else "num")
    return {"name": name, "type": kind, "lb": each.low, "ub": each.high}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
