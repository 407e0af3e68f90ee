"""Accumulates the measurements of one interval without ever waiting for a device.

The same code serves one training (scalars of shape ()) and a batch of n trainings (shape (n,)): everything is
elementwise, and nothing leaves the device before `interval` is called. What a step brings is set aside, and counted up
for many steps at once: on a GPU each operation costs about the same, however little it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .signals import Interval

GRADIENT_MEASUREMENTS = 20
"""Gradients are measured at this many evenly spread steps of an interval at most, so that long intervals stay cheap."""

SET_ASIDE = 64
"""Losses that are set aside before they are counted up."""


def measures_gradient(step: int, steps: int, measurements: int = GRADIENT_MEASUREMENTS) -> bool:
    """Whether the gradient is measured at a step of an interval, counted from 0."""
    wanted = min(measurements, steps)
    return (step + 1) * wanted // steps > step * wanted // steps


class IntervalMeter:
    """Measurements of one interval of `steps` optimiser steps.

    The mean and the variance of the loss are accumulated part by part (Chan, Golub and LeVeque 1979, Updating formulae
    and a pairwise algorithm for computing sample variances), so that a long interval of a nearly constant loss loses no
    digits and the state stays small.

    Args:
        steps: Length of the interval.
        measurements: At how many of its steps the gradient is measured, at most.
    """

    def __init__(self, steps: int, measurements: int = GRADIENT_MEASUREMENTS) -> None:
        self.steps, self._measurements = steps, measurements
        self._counts = {"losses": 0, "gradients": 0}
        self._sums: dict[str, Tensor] = {}
        self._losses: list[Tensor] = []
        self._gradients: list[Tensor] = []

    @property
    def full(self) -> bool:
        """Whether all steps of the interval were taken."""
        return self._counts["losses"] >= self.steps

    @property
    def left(self) -> int:
        """Steps of the interval that are still to come."""
        return self.steps - self._counts["losses"]

    @property
    def wants_gradient(self) -> bool:
        """Whether the gradient of the coming step is to be measured."""
        return measures_gradient(self._counts["losses"], self.steps, self._measurements)

    @property
    def wants_update(self) -> bool:
        """Whether the update of the coming step is to be measured: that of the last one is."""
        return self._counts["losses"] == self.steps - 1

    def gradient(self, squared_norm: Tensor, dot: Tensor, momentum_squared_norm: Tensor) -> None:
        """Takes |g|^2, g.m and |m|^2 of a gradient g and the momentum buffer m before it takes g in."""
        self._counts["gradients"] += 1
        self._gradients.append(torch.stack([squared_norm, dot, momentum_squared_norm]))

    def gradients(self, squared_norms: Tensor, dots: Tensor, momentum_squared_norms: Tensor) -> None:
        """Takes what `gradient` takes, of all steps that it is wanted of at once: shape (steps, n)."""
        self._counts["gradients"] = len(squared_norms)
        self._sums["log_grad_norm"] = _log_norm(squared_norms).sum(0)
        self._sums["alignment"] = _cosine(squared_norms, dots, momentum_squared_norms).sum(0)

    def update(self, squared_norm: Tensor, weight_squared_norm: Tensor) -> None:
        """Takes |w' - w|^2 and |w|^2 of a step from weights w to w'."""
        self._sums["relative_update"] = torch.sqrt(squared_norm / (weight_squared_norm + 1e-30))
        self._sums["weights"] = squared_norm + weight_squared_norm

    def loss(self, loss: Tensor) -> None:
        """Takes the mini-batch loss of the step just done."""
        # A copy: the caller may use the memory again, as CUDA graphs do.
        self._losses.append(loss.detach().to(torch.float64 if loss.device.type == "cpu" else torch.float32, copy=True))
        self._counts["losses"] += 1
        if self.full:
            self._finish()
        elif len(self._losses) == SET_ASIDE:
            self._count_up()

    def losses(self, losses: Tensor) -> None:
        """Takes the mini-batch losses of all steps of the interval at once, shape (steps, n)."""
        self._counts["losses"] = len(losses)
        self._add(losses.detach().double())

    def interval(self, val_loss: Tensor | float | None) -> Interval:
        """The measurements as arrays of shape (n,), or (1,) for a single training.

        Args:
            val_loss: Validation loss at the end, shape () or (n,); None where nothing was validated. One that is not
                finite means that the training diverged.
        """
        self._finish()
        count, half, sums = self._counts["losses"], self.steps // 2, self._sums
        measured = {
            "first_loss": sums["first_loss"],
            "train_loss": sums["mean"],
            "train_loss_std": torch.sqrt(sums["squares"] / max(count - 1, 1)),
        }
        if 0 < half < count:
            measured |= {"early_loss": sums["early"] / half, "late_loss": sums["late"] / (count - half)}
        if gradients := self._counts["gradients"]:
            measured |= {name: sums[name] / gradients for name in ("log_grad_norm", "alignment")}
        if "relative_update" in sums:
            measured |= {name: sums[name] for name in ("relative_update", "weights")}
        numbers = dict(zip(measured, _read(list(measured.values())), strict=True))
        finite = np.isfinite(numbers["train_loss"]) & np.isfinite(numbers.pop("weights", 0.0))
        if val_loss is not None:
            numbers["val_loss"] = torch.as_tensor(val_loss).detach().cpu().numpy()
            finite = finite & np.isfinite(numbers["val_loss"])
        return Interval.of(**numbers, diverged=~finite)

    def state_dict(self) -> dict[str, object]:
        """A copy of the state: a few hundred numbers at most."""
        return {
            "steps": self.steps,
            "counts": dict(self._counts),
            "sums": {name: value.detach().clone() for name, value in self._sums.items()},
            "losses": _together(self._losses) if self._losses else torch.zeros(0),
            "gradients": _together(self._gradients) if self._gradients else torch.zeros(0, 3),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a state, bit for bit."""
        self.steps, self._counts = state["steps"], dict(state["counts"])
        self._sums = {name: value.clone() for name, value in state["sums"].items()}
        self._losses, self._gradients = (list(state[name].clone()) for name in ("losses", "gradients"))

    def _finish(self) -> None:
        """Takes in all that was set aside: here, since on another device, after a checkpoint, sums differ by a bit."""
        self._count_up()
        if self._gradients:
            self.gradients(*_together(self._gradients).unbind(1))
            self._gradients = []

    def _count_up(self) -> None:
        """Takes in the losses that were set aside."""
        if self._losses:
            self._add(_together(self._losses))
            self._losses = []

    def _add(self, losses: Tensor) -> None:
        """Takes in the latest losses, shape (steps,) or (steps, n)."""
        before = self._counts["losses"] - len(losses)
        mean, half = losses.mean(0), max(self.steps // 2 - before, 0)
        part = {"mean": mean, "squares": (losses - mean).square().sum(0)}
        part |= {"early": losses[:half].sum(0), "late": losses[half:].sum(0)}
        if before == 0:
            self._sums |= {"first_loss": losses[0], **part}
            return
        # A checkpoint may have been read to elsewhere.
        self._sums = {name: value.to(losses.device) for name, value in self._sums.items()}
        difference, share = mean - self._sums["mean"], len(losses) / self._counts["losses"]
        part["squares"] = part["squares"] + difference.square() * (before * share)
        self._sums |= {name: self._sums[name] + part[name] for name in ("squares", "early", "late")}
        self._sums["mean"] = self._sums["mean"] + difference * share


def _together(parts: Sequence[Tensor]) -> Tensor:
    """In one tensor, where the latest is: a checkpoint may have been read to elsewhere."""
    return torch.stack([part.to(parts[-1].device) for part in parts])


def _read(values: Sequence[Tensor]) -> NDArray[np.float64]:
    """Numbers from the device, all in one go: each reading waits for it."""
    numbers: NDArray[np.float64] = torch.stack([value.detach().to(values[0]) for value in values]).cpu().numpy()
    return numbers


def _log_norm(squared_norm: Tensor) -> Tensor:
    return 0.5 * torch.log(squared_norm + 1e-30)


def _cosine(squared_norm: Tensor, dot: Tensor, other_squared_norm: Tensor) -> Tensor:
    scale = torch.sqrt(squared_norm * other_squared_norm)
    return torch.where(scale > 0, dot / scale, torch.zeros_like(scale))
