"""What a policy may see of a training: ratios, logarithms, angles and fractions.

A training measures an `Interval`; the pure functions below turn measurements into signals. None of them changes if the
loss, or the weights together with their updates, are rescaled. All work elementwise on arrays of shape (n,), one entry
a training.

Sources: relative loss changes and gradient alignment as state of a learned schedule follow Xu et al. 2019 (Learning an
adaptive learning rate schedule) and Daniel et al. 2016 (Learning step size controllers for robust neural network
training); the ratio of update to weight norm is the trust ratio's inverse of You et al. 2017 (LARS).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LIMIT = 5.0
"""Signals are clipped to [-LIMIT, LIMIT]."""

LOSS_FLOOR = 1e-4
"""Losses below this fraction of the starting loss count as this fraction: a log ratio must end somewhere."""

DIVERGED_AT = 20.0
"""A validation loss this many times the starting one counts as diverged."""

OVERFITTING = 1.05
"""A validation loss so many times its best one, while the training loss gets on, tells of overfitting."""

GIVEN_BACK = 0.05
"""And it must have lost more than this share of what the best one had gained since the start."""

GLOBAL_SIGNALS = (
    "progress",
    "horizon_known",
    "decisions_left",
    "train_since_start",
    "train_since_last",
    "train_since_best",
    "val_since_start",
    "val_since_last",
    "val_since_best",
    "val_age",
    "decisions_since_best",
    "train_outlook",
    "val_outlook",
    "val_significance",
    "generalisation_gap",
    "loss_noise",
    "loss_slope",
    "gradient_trend",
    "gradient_alignment",
    "relative_update",
    "first_update",
    "adaptive",
    "diverged",
)
"""Signals of a training as a whole, in their order in an observation."""


@dataclass(frozen=True)
class Interval:
    """What was measured between two decisions: arrays of shape (n,); NaN where something was not measured.

    Attributes:
        first_loss: Training loss of the first mini-batch.
        train_loss: Mean training loss.
        train_loss_std: Standard deviation of the training loss between mini-batches.
        early_loss: Mean training loss of the first half of the interval.
        late_loss: Mean training loss of the second half.
        val_loss: Validation loss at the end.
        log_grad_norm: Mean natural log of the gradient norm.
        alignment: Mean cosine between the gradient and the momentum buffer before it takes the gradient in.
        relative_update: Norm of the last optimiser step's update over the norm of the weights before it.
        first_update: The same of the training's first step, told beforehand (see `first_update`); it is measured where
            a training starts, and only there.
        diverged: Whether a loss or a weight stopped being finite.
    """

    first_loss: Array
    train_loss: Array
    train_loss_std: Array
    early_loss: Array
    late_loss: Array
    val_loss: Array
    log_grad_norm: Array
    alignment: Array
    relative_update: Array
    first_update: Array
    diverged: NDArray[np.bool_]

    @classmethod
    def of(cls, **measured: ArrayLike) -> Interval:
        """An interval from what was measured; everything else counts as not measured (and not diverged).

        Scalars become arrays of shape (1,).

        Raises:
            TypeError: A name that is none of an interval's.
        """
        if unknown := measured.keys() - {field.name for field in fields(cls)}:
            raise TypeError(
                f"an interval has no {', '.join(sorted(unknown))}: {', '.join(f.name for f in fields(cls))}"
            )
        arrays = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in measured.items()}
        size = max((len(array) for array in arrays.values()), default=1)
        missing = np.full(size, np.nan)
        values = {field.name: arrays.get(field.name, missing) for field in fields(cls)}
        values["diverged"] = np.nan_to_num(values["diverged"]).astype(bool)
        return cls(**values)

    @classmethod
    def concatenate(cls, intervals: list[Interval]) -> Interval:
        """Several groups of trainings as one."""
        return cls(**{field.name: np.concatenate([getattr(i, field.name) for i in intervals]) for field in fields(cls)})


def log_ratio(now: Array, then: Array, start: Array) -> Array:
    """log(now / then), with both floored at LOSS_FLOOR of the start; 0 where either is unknown."""
    floor = LOSS_FLOOR * start
    ratio: Array = np.log(np.maximum(now, floor)) - np.log(np.maximum(then, floor))
    return np.nan_to_num(ratio, nan=0.0)


def loss_noise(std: Array, mean: Array) -> Array:
    """Coefficient of variation of the mini-batch losses, std / mean; 0 where unknown."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(std / mean, nan=0.0, posinf=LIMIT, neginf=0.0)


def gradient_trend(log_norm: Array, last_log_norm: Array) -> Array:
    """Change of the mean log gradient norm since the last interval; 0 where unknown."""
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(log_norm - last_log_norm, nan=0.0, posinf=LIMIT, neginf=-LIMIT)


def relative_update_signal(ratio: Array) -> Array:
    """log(ratio / 0.001) / 2: 0 for the textbook size of an update, -2.3 a hundred times below; 0 where unknown."""
    with np.errstate(divide="ignore"):
        return np.nan_to_num(0.5 * np.log(ratio / 1e-3), nan=0.0, posinf=LIMIT, neginf=-LIMIT)


def relative_update(signal: Array) -> Array:
    """The ratio that `relative_update_signal` tells of; 0.001, the textbook size, where it is unknown."""
    ratio: Array = 1e-3 * np.exp(2.0 * signal)
    return ratio


def first_update(lr: Array, adaptive: Array, size: int, grad_norm: Array, weight_norm: Array) -> Array:
    """Norm of an optimiser's first step over that of the weights, before it is taken.

    A first step of an optimiser that normalises moves every weight by about the learning rate; that of another one is
    the gradient times the learning rate. Either way it tells whether the rate is far too low or far too high for these
    weights, when nothing else does yet.

    Args:
        lr: Learning rates, shape (n,) like all arrays.
        adaptive: Whether the optimiser normalises its steps.
        size: Weights of a network.
        grad_norm: Norm of the first gradient; it matters only where the optimiser does not normalise.
        weight_norm: Norm of the weights.
    """
    length = np.where(np.asarray(adaptive) > 0, np.sqrt(size), grad_norm)
    ratio: Array = lr * length / (weight_norm + 1e-30)
    return ratio


def counted(decisions: ArrayLike) -> Array:
    """log(1 + a number of decisions) / 4: 0 for none, about 1 for sixty."""
    counts: Array = np.log1p(np.asarray(decisions, dtype=np.float64)) / 4.0
    return counts


def outlook(trend: Array, decisions: Array) -> Array:
    """How far the log loss would move if it moved on for `decisions` as it has lately."""
    return trend * decisions


def significance(trend: Array, noise: Array) -> Array:
    """A trend over the noise around it."""
    return trend / (noise + 1e-4)


def has_diverged(interval: Interval, val_start: Array) -> NDArray[np.bool_]:
    """Whether a training must be rolled back: not finite, or DIVERGED_AT times its starting validation loss."""
    return interval.diverged | (interval.val_loss >= DIVERGED_AT * val_start)


def overfits(
    val: Array, last: Array, best: Array, start: Array, train: Array, train_at_best: Array
) -> NDArray[np.bool_]:
    """Whether a training has begun to overfit: its validation loss rises, while its training loss gets on.

    The generalisation loss of Prechelt 1998 (Early stopping - but when?), 5 % above the best validation loss; and its
    share of what the training has gained, since a small loss varies by more than that.

    Args:
        val: Validation losses, shape (n,) like all arrays. Where one is not a number, nothing can be told.
        last: Those before.
        best: The lowest so far, `val` not counted.
        start: Those at the start.
        train: Training losses.
        train_at_best: Those of when the validation loss was at its best.
    """
    lost = (best < start) & (val - best > GIVEN_BACK * (start - best)) & (val > OVERFITTING * best)
    rising: NDArray[np.bool_] = lost & (val > last) & (train < train_at_best)
    return rising
