"""Drawing configurations from a search space: a dict from name to Optuna distribution, or to a fixed value."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from .errors import SearchSpaceError

SearchSpace = Mapping[str, BaseDistribution | float]


def sample(space: SearchSpace, rng: np.random.Generator) -> dict[str, float]:
    """One configuration, drawn uniformly (log-uniformly where the distribution says `log`).

    Raises:
        SearchSpaceError: A value that is neither a numeric distribution nor a number.
    """
    return {name: _draw(name, values, rng) for name, values in space.items()}


def _draw(name: str, values: BaseDistribution | float, rng: np.random.Generator) -> float:
    if isinstance(values, FloatDistribution | IntDistribution):
        low, high, step = values.low, values.high, values.step
        if values.log:
            value = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        elif step is not None:
            return float(low + step * rng.integers(0, round((high - low) / step), endpoint=True))
        else:
            value = float(rng.uniform(low, high))
        value = float(round(value)) if isinstance(values, IntDistribution) else value
        return min(max(value, low), high)
    if isinstance(values, CategoricalDistribution) or not isinstance(values, Real):
        raise SearchSpaceError(
            f"{name!r} must start from a FloatDistribution, an IntDistribution or a number, got {values!r}"
        )
    return float(values)
