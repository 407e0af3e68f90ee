"""A static portfolio: configurations that did well on past tasks, in the order in which they complement each other.

Greedy, as Xu et al. 2010 (Hydra) and Feurer et al. 2015 (auto-sklearn 2.0's portfolios) build theirs: the next one
is that which lowers the mean over past tasks of the best regret so far the most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial

from ..envs.errors import ConfigurationError
from ..envs.past_tasks import PastTasks
from ..envs.search_state import rung_units
from ..envs.unit_cube import UnitCube
from .followed_study import histories

LONGEST = 50
"""Configurations in a portfolio, at most; after them come random ones."""


class PortfolioSampler(BaseSampler):
    """Proposes a portfolio, one configuration after the other.

    Args:
        past: Studies of past tasks, see `followed_study.past_tasks`. What one of them does not know is in the middle of
            its range, and a choice is drawn.
        space: The search space.
        units: Values that a full training reports.
        seed: What is random follows from it.

    Raises:
        ConfigurationError: No past task says enough.
    """

    def __init__(
        self, past: Sequence[Study], space: Mapping[str, BaseDistribution], units: int = 1, seed: int = 0
    ) -> None:
        cube = UnitCube(space)
        told = histories(past, cube, rung_units(units))
        if not told:
            raise ConfigurationError(
                "a portfolio needs past tasks: give studies with at least half of this space as `past`"
            )
        points = cube.filled(np.random.default_rng(seed), np.concatenate([history.points for history in told]))
        regrets = PastTasks(told, seed).expected(points)[..., -1]
        self._space = {name: each for name, each in space.items() if not each.single()}
        self._configs = [cube.decode(points[i]) for i in greedy_portfolio(regrets, LONGEST)]
        self._random = RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space, as long as the portfolio lasts."""
        return self._space if trial.number < len(self._configs) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The trial's configuration."""
        return dict(self._configs[trial.number]) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value at random."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def reseed_rng(self) -> None:
        """Other random values from now on."""
        self._random.reseed_rng()


def greedy_portfolio(regrets: np.ndarray[Any, np.dtype[np.float64]], longest: int) -> list[int]:
    """Indices of a portfolio out of n configurations whose regrets on T tasks have shape (T, n)."""
    chosen: list[int] = []
    best = np.full(len(regrets), np.inf)
    for _ in range(min(longest, regrets.shape[1])):
        gains = np.minimum(best[:, None], regrets).mean(0)
        # Where nothing is left to gain, what is good on average.
        order = np.lexsort((regrets.mean(0), gains.round(9)))
        chosen.append(next(int(i) for i in order if i not in chosen))
        best = np.minimum(best, regrets[:, chosen[-1]])
    return chosen
