"""A weight decay that nobody asked for, as torch's Adam, RMSprop and SGD have none by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch.optim import Optimizer

from ..envs import optimizers
from ..envs.adjustments import Adjustable, Kind
from .ranks import Ranks

Array = NDArray[np.float64]

SHARE = 0.1
"""Of the gradient, how much such a weight decay may be."""


class UnaskedDecay:
    """Keeps a weight decay that is 0 without the policy from outweighing the gradient.

    How strong a decay is that is added to the gradient depends on the loss's scale, of which policies see nothing: at
    a loss of a millionth the usual 1e-4 is all that the optimiser follows. The first interval, before which no gradient
    is known, is not looked after; and decay that has a step of its own, as AdamW's, is none of the gradient's.

    Args:
        optimizer: The optimiser.
        hyperparameters: Those that are adjusted, h of them.
        ranks: All of them are to keep to the same limit.

    Attributes:
        most: The largest weight decay, as of the last look.
    """

    def __init__(self, optimizer: Optimizer, hyperparameters: Sequence[Adjustable], ranks: Ranks) -> None:
        self.most = math.inf
        self._optimizer, self._ranks = optimizer, ranks
        added = not optimizers.decays_apart(optimizer)
        self._decays = np.array([added and each.kind is Kind.WEIGHT_DECAY for each in hyperparameters])

    def look(self, log_grad_norm: float, reference: Array) -> None:
        """To be called once a decision: weights and gradients have changed.

        Args:
            log_grad_norm: Mean logarithm of the gradient's norm in the last interval; NaN where it is unknown.
            reference: Values without the policy, shape (groups, h).
        """
        if not math.isfinite(log_grad_norm) or not self._unasked(reference).any():
            return
        norm = optimizers.weight_norm(self._optimizer)
        most = SHARE * math.exp(log_grad_norm) / norm if norm > 0 else math.inf
        self.most = float(self._ranks.of_first(np.array([most]))[0])

    def limited(self, values: Array, reference: Array) -> Array:
        """Values (groups, h) within the limit, where it holds."""
        found: Array = np.where(self._unasked(reference), np.minimum(values, self.most), values)
        return found

    def _unasked(self, reference: Array) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self._decays & (reference == 0.0).all(axis=0)
        return found
