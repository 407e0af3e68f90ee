"""Grids: the points of a search space that strategy "grid" tries."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ..envs.conditional_space import ConditionalSpace, NestedSpace
from ..envs.errors import ConfigurationError

_MOST_POINTS = 20_000
"""All of them are listed when the study begins."""

Values = Mapping[str, list[Any]]
"""The values of each hyperparameter."""


def grid_configs(space: ConditionalSpace, budget: int, seed: int) -> list[dict[str, Any]]:
    """The configurations of a grid, in random order.

    Only hyperparameters that are active together are combined. A grid that is larger than the budget even with two
    values each is not finished: any part of it that is tried is a random one.

    Args:
        space: The search space.
        budget: How many there may be.
        seed: The order follows from it; a larger budget has the same ones first where the grid is the same.

    Raises:
        ConfigurationError: The budget is too large to list all points.
    """
    if budget > _MOST_POINTS:
        raise ConfigurationError(
            f"a grid has a budget of at most {_MOST_POINTS} trainings, got {budget}: give less, or take strategy 'qmc'"
        )
    values = grid_values(space, budget)
    size = _size(space.nested, values)
    random = np.random.default_rng(seed)
    if size <= 2 * _MOST_POINTS:
        order = random.permutation(size).tolist()
    else:
        # So large that few are drawn twice.
        bits = size.bit_length() + 64
        order = list(dict.fromkeys(int.from_bytes(random.bytes(bits // 8 + 1)) % size for _ in range(2 * budget)))
    return [_point(space.nested, values, index) for index in order[:budget]]


def grid_values(space: ConditionalSpace, budget: int) -> dict[str, list[Any]]:
    """The values of the finest grid of at most `budget` points that has equally many of each, at least two.

    They are evenly spaced on the scale of their distribution, ends included; a hyperparameter that has fewer values has
    all of them, and one of categories too.
    """
    coarse, fine = 2, max(budget, 2) + 1  # the finest is in [coarse, fine)
    while fine - coarse > 1:
        middle = (coarse + fine) // 2
        fits = _size(space.nested, _values(space, middle)) <= budget
        coarse, fine = (middle, fine) if fits else (coarse, middle)
    return _values(space, coarse)


def _values(space: ConditionalSpace, n: int) -> dict[str, list[Any]]:
    return {name: _spread(each, n) for name, each in space.distributions.items()}


def _size(space: NestedSpace, values: Values) -> int:
    return math.prod(_count(name, each, values) for name, each in space.items())


def _count(name: str, each: BaseDistribution | Mapping[Any, NestedSpace], values: Values) -> int:
    if isinstance(each, Mapping):
        return sum(_size(branch, values) for branch in each.values())
    return len(values[name])


def _point(space: NestedSpace, values: Values, index: int) -> dict[str, Any]:
    """The configuration of a number below the grid's size: its digits, one for each hyperparameter."""
    config: dict[str, Any] = {}
    for name, each in space.items():
        index, own = divmod(index, _count(name, each, values))
        if not isinstance(each, Mapping):
            config[name] = values[name][own]
            continue
        for choice, branch in each.items():
            if own < (size := _size(branch, values)):
                config |= {name: choice, **_point(branch, values, own)}
                break
            own -= size
    return config


def _spread(distribution: BaseDistribution, n: int) -> list[Any]:
    match distribution:
        case CategoricalDistribution():
            return list(distribution.choices)
        case FloatDistribution() if distribution.single():
            return [distribution.low]
        case FloatDistribution() | IntDistribution():
            low, high, step = distribution.low, distribution.high, distribution.step
            ends = (math.log(low), math.log(high)) if distribution.log else (low, high)
            values = np.linspace(*ends, n)
            values = np.exp(values) if distribution.log else values
            if step is not None:
                values = low + np.round((values - low) / step) * step
            # Neither logarithms nor steps may carry a value over its ends.
            kind = int if isinstance(distribution, IntDistribution) else float
            return sorted({kind(value) for value in np.clip(values, low, high).tolist()})
    raise ConfigurationError(f"a grid over {type(distribution).__name__} is not defined")
