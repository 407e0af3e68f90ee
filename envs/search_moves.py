"""What may be done next in a search, and what is told of it.

A move starts a new trial, or trains a paused one up to its next rung. What is told depends neither on the search space
nor on the metric's unit, so that one policy serves any search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from .surrogate import Foretold

Array = NDArray[np.float64]

STARTS, CONTINUATIONS = 20, 12
MOVES = STARTS + CONTINUATIONS
"""Moves to choose from, at most."""

FEATURES = (
    "possible",
    "continues",
    "log_worth",
    "log_improvement",
    "log_final_improvement",
    "mean_gain",
    "std",
    "told_share",
    "cost",
    "cost_of_budget_left",
    "cost_to_finish",
    "rung",
    "rank",
    "slope",
    "age",
    "distance",
    "adjusts",
    "prior_mean",
    "prior_std",
    "prior_gain",
)
"""What is told of each move, in this order."""

CONTEXT = (
    "budget_left",
    "budget_spent",
    "budget",
    "since_improvement",
    "trials",
    "paused",
    "dimensions",
    "rungs",
    "tasks",
)
"""What is told of the search as a whole, in this order."""

_FLOOR = 1e-6


@dataclass(frozen=True)
class Moves:
    """What may be done next, `MOVES` of them, of which those count whose feature "possible" is 1.

    Attributes:
        features: Shape (MOVES, len(FEATURES)), each within [-5, 5].
        context: Shape (len(CONTEXT),), each within [-5, 5].
        points: Configurations of the n moves that count, shape (n, d).
        trials: Trial that each of them continues, shape (n,); -1 for a new one.
        expected: What past tasks say of them, shape (T, n, R); None without any.
        foretold: By how much each would be better than the best one after a full training, and the standard deviation
            of that, in units of the distance from the best to the median configuration: shape (n, 2), NaN where nothing
            is foretold.
    """

    features: NDArray[np.float32]
    context: NDArray[np.float32]
    points: Array
    trials: NDArray[np.int64]
    expected: Array | None
    foretold: Array

    @property
    def possible(self) -> NDArray[np.bool_]:
        """Which ones count, shape (MOVES,)."""
        return self.features[:, FEATURES.index("possible")] > 0.5


def log_expected_improvement(gain: Array, std: Array) -> Array:
    """Logarithm of E[max(0, gain + std z)], z standard normal, without underflow (Ament et al. 2023)."""
    std = np.maximum(std, _FLOOR)
    z = gain / std
    near = np.log(np.maximum(z * ndtr(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi), 1e-300))
    # Far below, z Phi(z) + phi(z) is phi(z) / z^2 to within 3 / z^2.
    far = -0.5 * z * z - 0.5 * math.log(2 * math.pi) - 2 * np.log(np.maximum(np.abs(z), 1.0))
    found: Array = np.log(std) + np.where(z < -10, far, near)
    return found


def log_worth(gain: Array, foretold: Foretold, costs: Array) -> Array:
    """What a move promises for each unit of its cost, shape (n,): the geometric mean of two rules.

    Trained to the rung where that pays most, a trial tells so much of its full training (a knowledge gradient, Frazier
    et al. 2009, over all rungs to come: the next one alone may tell nothing). And a full training improves on the best
    one by so much.

    Args:
        gain: By how much the mean that is foretold is better than the best one, shape (n,).
        foretold: What is foretold of n moves.
        costs: What each rung costs from here, shape (n, R); none above 0 for rungs that were passed.
    """
    told = log_expected_improvement(gain[:, None], foretold.told) - np.log(np.maximum(costs, _FLOOR))
    promised = log_expected_improvement(gain, foretold.std) - np.log(costs[:, -1])
    found: Array = (np.where(costs > 0, told, -np.inf).max(1) + promised) / 2
    return found


def shortlist(features: Array) -> NDArray[np.int64]:
    """The most promising moves, by more than one measure: whoever chooses among them may then differ."""
    continues = features[:, FEATURES.index("continues")] > 0.5

    def top(mask: NDArray[np.bool_], name: str, count: int, taken: list[int]) -> None:
        left = mask.copy()
        left[taken] = False
        where = np.flatnonzero(left)
        taken.extend(where[np.argsort(-features[where, FEATURES.index(name)], kind="stable")[:count]].tolist())

    starts: list[int] = []
    top(~continues, "log_worth", 10, starts)
    top(~continues, "log_final_improvement", 4, starts)
    top(~continues, "prior_gain", 3, starts)
    top(~continues, "mean_gain", STARTS - len(starts), starts)
    going: list[int] = []
    top(continues, "log_worth", 4, going)
    top(continues, "log_final_improvement", CONTINUATIONS - len(going), going)
    return np.array(starts + going, dtype=np.int64)
