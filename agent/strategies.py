"""Search strategies by name: each is an Optuna sampler, which proposes, and an Optuna pruner, which stops early.

Whatever runs in Optuna runs here, and the other way round.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import optuna
from optuna import pruners, samplers
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.study import Study

from ..envs.errors import ConfigurationError, MissingPackageError
from .cmaes_sampler import PlainCmaEsSampler
from .hyperopt_sampler import HyperoptSampler
from .policy_sampler import PolicySampler
from .portfolio_sampler import PortfolioSampler
from .pymoo_sampler import PymooSampler
from .search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy
from .tabu_sampler import TabuSampler

Space = Mapping[str, BaseDistribution]

_MOST_LISTED = 1_000_000


@dataclass(frozen=True)
class Setting:
    """What a strategy is made for.

    Attributes:
        space: The hyperparameters that every trial has; None where the objective asks for them one by one.
        budget: Full trainings that may be spent.
        seed: Proposals follow from it.
        done: Trials that the study has already: proposals go on, instead of beginning with the same ones again.
        workers: Trials at a time.
        units: Units of budget of a full training; None where trainings cannot be stopped early.
        past: Studies of past tasks with at least half of the search space.
        shared: Whether other processes may work on the study too.
        tracking_uri: The store of a policy's address.
    """

    space: Space | None
    budget: int
    seed: int
    done: int = 0
    workers: int = 1
    units: int | None = None
    past: Sequence[Study] = ()
    shared: bool = False
    tracking_uri: str | None = None

    @property
    def fresh_seed(self) -> int:
        """A seed for those who do not remember what they have drawn."""
        return int(np.random.SeedSequence([self.seed, self.done]).generate_state(1)[0])


@dataclass(frozen=True)
class Strategy:
    """A strategy.

    Attributes:
        sampler: Makes the sampler.
        pruner: Makes the pruner that goes with the sampler.
        package: The package that it needs beyond metatuner's own.
    """

    sampler: Callable[[Setting], BaseSampler]
    pruner: Callable[[Setting, BaseSampler], BasePruner] = lambda *_: pruners.NopPruner()
    package: str | None = None

    def make(self, name: str, setting: Setting) -> tuple[BaseSampler, BasePruner]:
        """The sampler and the pruner.

        Raises:
            ConfigurationError: The strategy cannot work in this setting.
            MissingPackageError: A package that it needs is not installed.
        """
        if self.package is not None and importlib.util.find_spec(self.package) is None:
            raise MissingPackageError(
                f"strategy {name!r} needs the package {self.package}: pip install metatuner[{self.package}]"
            )
        with warnings.catch_warnings():
            # What of these is new in Optuna and may change there is for us to follow.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self.sampler(setting)
            return sampler, self.pruner(setting, sampler)


def strategy_named(name: str) -> Strategy:
    """The strategy of this name; "policy:" and a policy's folder or address is that policy.

    Raises:
        ConfigurationError: There is none.
    """
    if (policy := policy_of(name)) is not None:
        return Strategy(functools.partial(_policy, policy=policy), _policy_pruner)
    if name not in STRATEGIES:
        raise ConfigurationError(
            f"expected one of the strategies {', '.join(STRATEGIES)}, or policy:FOLDER, got {name!r}"
        )
    return STRATEGIES[name]


def policy_of(name: str) -> str | None:
    """The policy that a strategy's name tells, as in "policy:FOLDER" or "policy:models:/NAME@champion"; else None."""
    kind, _, policy = name.partition(":")
    return policy if kind == "policy" and policy else None


def _grid(setting: Setting) -> BaseSampler:
    if setting.space is None:
        raise ConfigurationError("strategy 'grid' needs to know the space beforehand: give a dict of distributions")
    return _manual(setting)


def _manual(setting: Setting) -> BaseSampler:
    # All its trials are enqueued: it is asked for nothing.
    return samplers.RandomSampler(seed=setting.fresh_seed)


def _random(setting: Setting) -> BaseSampler:
    return samplers.RandomSampler(seed=setting.fresh_seed)


def _qmc(setting: Setting) -> BaseSampler:
    return samplers.QMCSampler(scramble=True, seed=setting.seed, warn_independent_sampling=False)


def _tpe(setting: Setting) -> BaseSampler:
    return samplers.TPESampler(
        seed=setting.fresh_seed,
        # Trials that still run count as bad, so that workers do not all try the same.
        constant_liar=setting.workers > 1 or setting.shared,
    )


def _gp(setting: Setting) -> BaseSampler:
    for name, each in (setting.space or {}).items():
        if isinstance(each, FloatDistribution | IntDistribution) and each.step is not None:
            values = (each.high - each.low) / each.step
            if values > _MOST_LISTED:
                raise ConfigurationError(
                    f"strategy 'gp' lists all values of a hyperparameter that has steps, and {name!r} has {values:.3g}"
                    ": give it fewer, take a FloatDistribution without steps, or strategy 'tpe'"
                )
    return samplers.GPSampler(seed=setting.fresh_seed)


def _cmaes(setting: Setting) -> BaseSampler:
    return PlainCmaEsSampler(seed=setting.fresh_seed, warn_independent_sampling=False)


def _ga(setting: Setting) -> BaseSampler:
    # At least five generations.
    population = min(max(setting.budget // 5, 4), 50)
    return samplers.NSGAIISampler(population_size=population, seed=setting.fresh_seed)


def _pso(setting: Setting) -> BaseSampler:
    return PymooSampler("pso", _population(setting), setting.seed)


def _de(setting: Setting) -> BaseSampler:
    return PymooSampler("de", _population(setting), setting.seed)


def _population(setting: Setting) -> int:
    # About eight generations; and most of one should be known when the next begins, so workers need a larger one.
    return max(5, 2 * setting.workers, min(setting.budget // 8, 25))


def _tabu(setting: Setting) -> BaseSampler:
    # At least five rounds.
    return TabuSampler(max(2, min(setting.budget // 5, 6)), setting.seed)


def _hyperopt_tpe(setting: Setting) -> BaseSampler:
    return HyperoptSampler(setting.seed)


def _policy(setting: Setting, policy: str = DEFAULT_SEARCH_POLICY) -> BaseSampler:
    return PolicySampler(
        SearchPolicy.load(policy, setting.tracking_uri),
        past=setting.past,
        units=setting.units,
        budget=setting.budget,
        space=setting.space,
        seed=setting.fresh_seed,
    )


def _policy_pruner(setting: Setting, sampler: BaseSampler) -> BasePruner:
    assert isinstance(sampler, PolicySampler)
    return pruners.NopPruner() if setting.units is None else sampler.pruner()


def _portfolio(setting: Setting) -> BaseSampler:
    if setting.space is None:
        raise ConfigurationError("strategy 'portfolio' needs to know the space: give a dict of distributions")
    return PortfolioSampler(setting.past, setting.space, setting.units or 1, setting.seed)


def _asha(setting: Setting, sampler: BaseSampler) -> BasePruner:
    del sampler
    _require_units("asha", setting)
    return pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def _hyperband(setting: Setting, sampler: BaseSampler) -> BasePruner:
    del sampler
    return pruners.HyperbandPruner(min_resource=1, max_resource=_require_units("hyperband", setting))


def _median(setting: Setting, sampler: BaseSampler) -> BasePruner:
    del sampler
    _require_units("median", setting)
    return pruners.MedianPruner()


def _require_units(name: str, setting: Setting) -> int:
    if setting.units is None:
        raise ConfigurationError(
            f"strategy {name!r} stops trainings early: give `units`, how many values a full training yields (or "
            "reports), so that it knows what a part of one costs"
        )
    return setting.units


STRATEGIES: Mapping[str, Strategy] = {
    "policy": Strategy(_policy, _policy_pruner),
    "random": Strategy(_random),
    "grid": Strategy(_grid),
    "qmc": Strategy(_qmc),
    "tpe": Strategy(_tpe),
    "gp": Strategy(_gp),
    "cmaes": Strategy(_cmaes, package="cmaes"),
    "ga": Strategy(_ga),
    "pso": Strategy(_pso, package="pymoo"),
    "de": Strategy(_de, package="pymoo"),
    "tabu": Strategy(_tabu),
    "hyperopt-tpe": Strategy(_hyperopt_tpe, package="hyperopt"),
    "asha": Strategy(_random, _asha),
    "hyperband": Strategy(_random, _hyperband),
    "median": Strategy(_tpe, _median),
    "portfolio": Strategy(_portfolio),
    "manual": Strategy(_manual),
}
"""random, grid and quasi-random search; tree-structured Parzen estimator (Bergstra et al. 2011); Gaussian process;
CMA-ES; a genetic algorithm; a particle swarm (Kennedy & Eberhart 1995); differential evolution (Storn & Price 1997);
tabu search (Glover 1989); hyperopt's TPE; asynchronous successive halving (Li et al. 2020) and Hyperband (Li et al.
2018) over random search; the median rule (Golovin et al. 2017) over TPE; and a given list."""
