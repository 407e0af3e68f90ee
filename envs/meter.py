"""Accumulates the measurements of one interval without ever waiting for a device.

The same code serves one training (scalars of shape ()) and a batch of n trainings (shape (n,)): everything is
elementwise, and nothing leaves the device before `interval` is called.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .signals import Interval

GRADIENT_MEASUREMENTS = 20
"""Gradients are measured at this many evenly spread steps of an interval at most, so that long intervals stay cheap."""


def measures_gradient(step: int, steps: int, measurements: int = GRADIENT_MEASUREMENTS) -> bool:
    """Whether the gradient is measured at a step of an interval, counted from 0."""
    wanted = min(measurements, steps)
    return (step + 1) * wanted // steps > step * wanted // steps


class IntervalMeter:
    """Measurements of one interval of `steps` optimiser steps.

    The mean and the variance of the loss are accumulated by Welford's method (1962), so that a long interval of a
    nearly constant loss loses no digits and the state stays a handful of numbers.

    Args:
        steps: Length of the interval.
        measurements: At how many of its steps the gradient is measured, at most.
    """

    def __init__(self, steps: int, measurements: int = GRADIENT_MEASUREMENTS) -> None:
        self.steps, self._measurements = steps, measurements
        self._counts = {"losses": 0, "gradients": 0}
        self._sums: dict[str, Tensor] = {}

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
        self._add("log_grad_norm", _log_norm(squared_norm))
        self._add("alignment", _cosine(squared_norm, dot, momentum_squared_norm))

    def gradients(self, squared_norms: Tensor, dots: Tensor, momentum_squared_norms: Tensor) -> None:
        """Takes what `gradient` takes, of all steps that it is wanted of at once: shape (steps, n)."""
        self._counts["gradients"] += len(squared_norms)
        self._add("log_grad_norm", _log_norm(squared_norms).sum(0))
        self._add("alignment", _cosine(squared_norms, dots, momentum_squared_norms).sum(0))

    def update(self, squared_norm: Tensor, weight_squared_norm: Tensor) -> None:
        """Takes |w' - w|^2 and |w|^2 of a step from weights w to w'."""
        self._sums["relative_update"] = torch.sqrt(squared_norm / (weight_squared_norm + 1e-30))
        self._sums["weights"] = squared_norm + weight_squared_norm

    def loss(self, loss: Tensor) -> None:
        """Takes the mini-batch loss of the step just done."""
        loss = loss.detach().to(torch.float64 if loss.device.type == "cpu" else torch.float32)
        if self._counts["losses"] == 0:
            zero = torch.zeros_like(loss)
            self._sums |= {"first_loss": loss.clone(), "mean": zero, "squares": zero, "early": zero, "late": zero}
        early = self._counts["losses"] < self.steps // 2
        self._counts["losses"] += 1
        delta = loss - self._sums["mean"]
        self._add("mean", delta / self._counts["losses"])
        self._add("squares", delta * (loss - self._sums["mean"]))
        self._add("early" if early else "late", loss)

    def losses(self, losses: Tensor) -> None:
        """Takes the mini-batch losses of all steps of the interval at once, shape (steps, n)."""
        losses, half = losses.detach().double(), self.steps // 2
        mean = losses.mean(0)
        self._counts["losses"] = len(losses)
        self._sums |= {"first_loss": losses[0], "mean": mean, "squares": (losses - mean).square().sum(0)}
        self._sums |= {"early": losses[:half].sum(0), "late": losses[half:].sum(0)}

    def interval(self, val_loss: Tensor | float | None) -> Interval:
        """The measurements as arrays of shape (n,), or (1,) for a single training.

        Args:
            val_loss: Validation loss at the end, shape () or (n,); None where nothing was validated. One that is not
                finite means that the training diverged.
        """
        count, half = self._counts["losses"], self.steps // 2
        mean = self._sums["mean"]
        measured = {
            "first_loss": self._sums["first_loss"],
            "train_loss": mean,
            "train_loss_std": torch.sqrt(self._sums["squares"] / max(count - 1, 1)),
        }
        if 0 < half < count:
            measured |= {"early_loss": self._sums["early"] / half, "late_loss": self._sums["late"] / (count - half)}
        if gradients := self._counts["gradients"]:
            measured |= {name: self._sums[name] / gradients for name in ("log_grad_norm", "alignment")}
        finite = torch.isfinite(mean)
        if "relative_update" in self._sums:
            measured["relative_update"] = self._sums["relative_update"]
            finite = finite & torch.isfinite(self._sums["weights"])
        if val_loss is not None:
            measured["val_loss"] = torch.as_tensor(val_loss)
            finite = finite & torch.isfinite(measured["val_loss"]).to(finite.device)
        return Interval.of(
            **{name: value.detach().cpu().numpy() for name, value in measured.items()}, diverged=(~finite).cpu()
        )

    def state_dict(self) -> dict[str, object]:
        """A copy of the state: a handful of numbers."""
        sums = {name: value.detach().clone() for name, value in self._sums.items()}
        return {"steps": self.steps, "counts": dict(self._counts), "sums": sums}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Back to a state, bit for bit."""
        self.steps = state["steps"]  # type: ignore[assignment]
        self._counts = dict(state["counts"])  # type: ignore[call-overload]
        self._sums = {name: value.clone() for name, value in state["sums"].items()}  # type: ignore[attr-defined]

    def _add(self, name: str, value: Tensor) -> None:
        self._sums[name] = self._sums[name] + value if name in self._sums else value


def _log_norm(squared_norm: Tensor) -> Tensor:
    return 0.5 * torch.log(squared_norm + 1e-30)


def _cosine(squared_norm: Tensor, dot: Tensor, other_squared_norm: Tensor) -> Tensor:
    scale = torch.sqrt(squared_norm * other_squared_norm)
    return torch.where(scale > 0, dot / scale, torch.zeros_like(scale))
