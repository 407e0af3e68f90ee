"""Measures in a trial of Ray Tune what a schedule policy sees of a training, for `PolicyScheduler`.

probe = TrialProbe(optimizer, steps=len(batches))
for inputs, targets in batches:
    ...
    optimizer.step(); probe.step(loss)
tune.report({"val_loss": val_loss, **probe.report()}, checkpoint=...)
"""

from __future__ import annotations

import math
from dataclasses import fields

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..envs.probe import OptimizerProbe
from .arguments import require_count
from .optimizer_hooks import OptimizerHooks

MEASURED = "measured"
"""Where a result has the measurements."""


class TrialProbe:
    """What `AdaptiveSchedule` measures: losses of mini-batches, gradients and updates of an optimiser.

    Example:
        >>> import metatuner as mt
        >>> import torch
        >>> model, x = torch.nn.Linear(4, 1), torch.randn(64, 4)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> probe = mt.TrialProbe(optimizer, steps=8)
        >>> for batch in x.split(8):
        ...     loss = (model(batch) - batch[:, :1]).square().mean()
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     probe.step(loss)
        >>> result = {"val_loss": 0.5, **probe.report()}  # for tune.report(result, checkpoint=...)
        >>> "train_loss" in result["measured"] and "log_grad_norm" in result["measured"]
        True

    Args:
        optimizer: The optimiser, with the weights and the state that the trial goes on from.
        steps: Optimiser steps between two reports.

    Raises:
        ConfigurationError: `steps` is below 1.
    """

    def __init__(self, optimizer: Optimizer, steps: int) -> None:
        require_count("steps", steps)
        self._probe, self._steps = OptimizerProbe(optimizer, steps), steps
        self._first_update: float | None = None
        self._stepped = False
        self._hooks = OptimizerHooks(optimizer, self._before_step, self._gradients_ready, None)

    def step(self, loss: Tensor | float) -> None:
        """Tells the mini-batch loss of a step; to be called after each `optimizer.step()`."""
        if self._stepped:  # a gradient scaler skips steps
            loss = loss.detach() if isinstance(loss, Tensor) else torch.tensor(float(loss), dtype=torch.float64)
            self._probe.after_step(loss.reshape(()))
        self._stepped = False

    def report(self) -> dict[str, dict[str, float]]:
        """What was measured since the last report, as a part of a result; the next measurements begin here."""
        if self._probe.meter.left == self._steps:
            return {}
        interval = self._probe.interval(None)
        self._probe.begin(self._steps)
        values = {field.name: float(getattr(interval, field.name)[0]) for field in fields(interval)}
        # What is not finite was not measured, or is told by `diverged`.
        measured = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._first_update is not None:
            measured["first_update"] = self._first_update
        return {MEASURED: measured}

    def _before_step(self) -> bool:
        return False

    def _gradients_ready(self) -> None:
        if self._first_update is None:
            self._first_update = self._probe.first_update()
        self._probe.before_step()
        self._stepped = True
