"""Measures a torch optimiser from outside, one call before and one after each of its steps.

The environment's own training and a user's loop are measured by this same code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from .meter import GRADIENT_MEASUREMENTS, IntervalMeter
from .optimizers import first_update, gradient_statistics, parameters, update_statistics
from .parameter_sample import ParameterSample
from .signals import Interval

LARGE_MODEL_MEASUREMENTS = 8
"""Gradients of models too large to be measured in full are measured at this many steps of an interval."""


class OptimizerProbe:
    """Fills an `IntervalMeter` from a torch optimiser."""

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        self._optimizer = optimizer
        self._sample = ParameterSample(parameters(optimizer))
        self._weights: Tensor | None = None
        self._measurements = GRADIENT_MEASUREMENTS if self._sample.full else LARGE_MODEL_MEASUREMENTS
        self.meter = IntervalMeter(steps, self._measurements)

    def begin(self, steps: int) -> None:
        """Begins an interval of `steps` optimiser steps."""
        self.meter = IntervalMeter(steps, self._measurements)
        self._weights = None

    @torch.no_grad()
    def first_update(self) -> float:
        """What `optimizers.first_update` tells, read from the device; for the time before the first step."""
        return float(first_update(self._optimizer, self._sample))

    @torch.no_grad()
    def before_step(self) -> None:
        """To be called when the gradients are ready and the optimiser has not yet used them."""
        if self.meter.wants_gradient:
            self.meter.gradient(*gradient_statistics(self._optimizer, self._sample))
        if self.meter.wants_update:
            self._weights = self._sample.row(parameters(self._optimizer))

    @torch.no_grad()
    def after_step(self, loss: Tensor) -> None:
        """To be called after the optimiser's step, with the mini-batch loss it followed from."""
        if self._weights is not None:
            self.meter.update(*update_statistics(self._optimizer, self._weights, self._sample))
            self._weights = None
        self.meter.loss(loss)

    def interval(self, val_loss: Tensor | float | None) -> Interval:
        """What was measured, with the validation loss at the end (None where nothing was validated)."""
        return self.meter.interval(val_loss)
