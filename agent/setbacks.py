"""What follows where an interval is taken back: the weights return to those of the last decision, or are left."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.optim import Optimizer

from ..envs.errors import TrainingError
from ..envs.optimizers import parameters
from .rollback import Rollback

HOPELESS = 8
"""So many diverged intervals in a row are not the learning rate's doing: one more return does not help."""


class Setbacks:
    """Those of one training.

    Args:
        optimizer: Whose parameters and state return.
        model: Where given, its buffers return, too.
        rolls_back: Whether they return at all.

    Attributes:
        back: Whether the last interval was taken back.
        in_a_row: Diverged intervals, one after the other, up to now.
        rollback: What the weights return to; None where they do not.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None, *, rolls_back: bool) -> None:
        self._optimizer = optimizer
        self.rollback = Rollback(optimizer, model) if rolls_back else None
        self.back, self.in_a_row = False, 0

    def keep(self) -> None:
        """A decision was made: this is what the weights may return to."""
        if self.rollback is not None:
            self.rollback.keep()

    def after(self, *, back: bool, overfitted: bool, learning_rate: Callable[[], float]) -> str:
        """An interval has ended; returns a note for the record.

        Args:
            back: Whether it is taken back.
            overfitted: Whether that is because the training begins to overfit; because it diverged otherwise.
            learning_rate: Asked for what it was cut to: to read it may wait for a device.

        Raises:
            TrainingError: Nothing helps: too many diverged, or weights are not finite and there is no copy of them.
        """
        self.back = back
        self.in_a_row = self.in_a_row + 1 if back and not overfitted else 0
        if not back:
            return ""
        if self.in_a_row >= HOPELESS:
            raise TrainingError(
                f"the last {HOPELESS} intervals all diverged, although the learning rate was cut to "
                f"{learning_rate():.3g}: look for NaN or infinity in the data or the model"
            )
        if self.rollback is None:
            self._require_finite_weights()
            return "diverged: rate cut"
        self.rollback.restore()
        return "overfitted: rolled back" if overfitted else "diverged: rolled back"

    def _require_finite_weights(self) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in parameters(self._optimizer)):
            raise TrainingError(
                "the weights are not finite any more, and on_divergence='cut' keeps no copy of them: go on from your "
                "last checkpoint, or use on_divergence='rollback'"
            )
