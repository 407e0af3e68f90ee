"""References: the schedules that zero adjustment reproduces.

A reference says by which factor a learning rate is multiplied as a function of the fraction of the training that is
done. Other hyperparameters stay at their starting values. (In a user's own loop any torch LRScheduler can be the
reference, see `agent.adaptive_schedule`.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from .adjustments import Adjustable, Kind
from .errors import ConfigurationError
from .signals import Array

Reference = Callable[[Array], Array]

DECAY = 0.4
"""Share of a training in which `stable_decay` falls."""


def constant(fraction: ArrayLike) -> Array:
    """1 throughout."""
    return np.ones_like(np.asarray(fraction, dtype=np.float64))


def cosine(fraction: ArrayLike) -> Array:
    """(1 + cos(pi x)) / 2 at fraction x of the training (Loshchilov and Hutter 2017, SGDR, equation 5, no restarts)."""
    return 0.5 * (1.0 + np.cos(np.pi * np.asarray(fraction, dtype=np.float64)))


def stable_decay(fraction: ArrayLike) -> Array:
    """1, and over the last `DECAY` of the training linearly to 0 (Haegele et al. 2024, trapezoidal schedules).

    Unlike a cosine it can be followed for as long as nobody knows where the training ends.
    """
    left = 1.0 - np.asarray(fraction, dtype=np.float64)
    return np.minimum(1.0, left / DECAY)


REFERENCES = {"constant": constant, "cosine": cosine, "stable_decay": stable_decay}


def reference_named(name: str) -> Reference:
    """The reference of this name.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in REFERENCES:
        raise ConfigurationError(f"expected one of the references {', '.join(REFERENCES)}, got {name!r}")
    return REFERENCES[name]


def reference_values(
    reference: Reference, start: Array, hyperparameters: Sequence[Adjustable], first: int, steps: int, total: int
) -> Array:
    """Reference values of optimiser steps first .. first + steps - 1 out of `total`.

    Args:
        reference: The factor of the learning rates.
        start: Starting values, shape (n, h).
        hyperparameters: What the h columns are.
        first: Steps done before.
        steps: How many steps.
        total: Steps of the whole training.

    Returns:
        Shape (steps, n, h); shape (1, n, h) where the reference does not change.
    """
    factor = reference(np.arange(first, first + steps) / total)[:, None]
    if np.all(factor == 1.0):
        return start[None]
    is_rate = np.array([each.kind is Kind.LEARNING_RATE for each in hyperparameters])
    return start[None] * np.where(is_rate, factor, 1.0)[:, None, :]
