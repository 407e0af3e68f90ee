"""The adjusted hyperparameters where they live: in an optimiser's parameter groups, or behind knobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from ..envs import optimizers
from ..envs.errors import ConfigurationError
from .knobs import Knob

Array = NDArray[np.float64]


class Dials:
    """h hyperparameters as arrays of shape (groups, h); a knob's value is the same in every group.

    Args:
        optimizer: Where those live that are no knobs.
        names: Their names, in order.
        knobs: Those that live elsewhere, by name.

    Raises:
        ConfigurationError: A knob is not adjusted, or is none; or two names are of one hyperparameter.
    """

    def __init__(self, optimizer: Optimizer, names: Sequence[str], knobs: Mapping[str, Knob]) -> None:
        self._optimizer, self._names, self._knobs = optimizer, tuple(names), dict(knobs)
        if unused := sorted(set(knobs) - set(names)):
            raise ConfigurationError(f"the knobs {unused} are not in adjust={list(names)}: add their names to it")
        if {"momentum", "beta1"} <= set(names) - set(knobs):
            raise ConfigurationError(f"momentum and beta1 are one and the same, but adjust={list(names)} has both")
        for name, knob in knobs.items():
            if isinstance(knob, type) or not isinstance(knob, Knob):
                raise ConfigurationError(f"expected a knob {name!r} with `get` and `set`, got {knob!r}")

    def read(self) -> Array:
        """The present values."""
        groups = len(self._optimizer.param_groups)
        columns = [
            [self._knobs[name].get()] * groups if name in self._knobs else optimizers.read(self._optimizer, name)
            for name in self._names
        ]
        return np.array(columns, dtype=np.float64).T

    def read_optimizer(self, values: Array) -> Array:
        """`values` with the optimiser's present ones in their places."""
        columns = [
            values[:, i].tolist() if name in self._knobs else optimizers.read(self._optimizer, name)
            for i, name in enumerate(self._names)
        ]
        return np.array(columns, dtype=np.float64).T

    def write_knobs(self, values: Array) -> None:
        """Sets those behind knobs."""
        for i, name in enumerate(self._names):
            if name in self._knobs:
                self._knobs[name].set(float(values[0, i]))

    def write_optimizer(self, values: Array) -> None:
        """Sets those that live in the optimiser."""
        for i, name in enumerate(self._names):
            if name not in self._knobs:
                optimizers.write(self._optimizer, name, values[:, i].tolist())
