"""Hyperparameters that can be adjusted while a model trains, and the natural scale each one moves on.

A search space is a dict from name to Optuna distribution. An adjustment is a number in [-1, 1]: -1 is the largest
move down, 1 the largest move up, 0 leaves the value exactly as it is. Moves are added on the natural scale, where equal
steps matter about equally: log for rates, -log(1 - beta) for momenta (the log of the averaging horizon), logit for
fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike, NDArray
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from .errors import SearchSpaceError

Array = NDArray[np.float64]


class Kind(StrEnum):
    """What a hyperparameter does: a policy sees the kind, never the name."""

    LEARNING_RATE = "learning_rate"
    WEIGHT_DECAY = "weight_decay"
    MOMENTUM = "momentum"
    DROPOUT = "dropout"
    BATCH_SIZE = "batch_size"
    LABEL_SMOOTHING = "label_smoothing"
    GRADIENT_CLIP = "gradient_clip"
    AUGMENTATION = "augmentation"
    OTHER = "other"


@dataclass(frozen=True)
class Scale:
    """A monotone map from a hyperparameter's values to the scale on which it moves, and its inverse."""

    name: str
    to_natural: Callable[[Array], Array]
    from_natural: Callable[[Array], Array]
    lowest: float
    highest: float
    """The open interval of values that the scale can express (`horizon` and `linear` include their lower end)."""


def _logit(p: Array) -> Array:
    return np.log(p) - np.log1p(-p)


def _logistic(z: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-z))


def _itself(x: Array) -> Array:
    return x


def _horizon(x: Array) -> Array:
    return -np.log1p(-x)


def _of_horizon(z: Array) -> Array:
    return -np.expm1(-z)


# Functions with names, so that an environment can be pickled.
LINEAR = Scale("linear", _itself, _itself, -math.inf, math.inf)
LOG = Scale("log", np.log, np.exp, 0.0, math.inf)
HORIZON = Scale("horizon", _horizon, _of_horizon, -1.0, 1.0)
LOGIT = Scale("logit", _logit, _logistic, 0.0, 1.0)


@dataclass(frozen=True)
class _Habit:
    """How a kind of hyperparameter is adjusted unless the user says otherwise."""

    scale: Scale
    largest_move: float
    distribution: BaseDistribution


_HABITS: Mapping[Kind, _Habit] = {
    Kind.LEARNING_RATE: _Habit(LOG, math.log(3), FloatDistribution(1e-8, 1e2, log=True)),
    Kind.WEIGHT_DECAY: _Habit(LOG, math.log(3), FloatDistribution(1e-7, 1.0, log=True)),
    Kind.MOMENTUM: _Habit(HORIZON, math.log(2), FloatDistribution(0.0, 0.999)),
    Kind.DROPOUT: _Habit(LOGIT, 0.5, FloatDistribution(0.001, 0.9)),
    Kind.BATCH_SIZE: _Habit(LOG, math.log(2), IntDistribution(1, 65536, log=True)),
    Kind.LABEL_SMOOTHING: _Habit(LOGIT, 0.5, FloatDistribution(0.001, 0.5)),
    Kind.GRADIENT_CLIP: _Habit(LOG, math.log(2), FloatDistribution(1e-4, 1e4, log=True)),
    Kind.AUGMENTATION: _Habit(LOGIT, 0.5, FloatDistribution(0.001, 0.999)),
}

_KIND_OF_NAME: Mapping[str, Kind] = {
    "lr": Kind.LEARNING_RATE,
    "learning_rate": Kind.LEARNING_RATE,
    "momentum": Kind.MOMENTUM,
    "beta1": Kind.MOMENTUM,
    "weight_decay": Kind.WEIGHT_DECAY,
    "wd": Kind.WEIGHT_DECAY,
    "dropout": Kind.DROPOUT,
    "batch_size": Kind.BATCH_SIZE,
    "label_smoothing": Kind.LABEL_SMOOTHING,
    "clip_norm": Kind.GRADIENT_CLIP,
    "gradient_clip": Kind.GRADIENT_CLIP,
    "augmentation": Kind.AUGMENTATION,
}


@dataclass(frozen=True)
class Adjustable:
    """One hyperparameter that a policy may adjust.

    Attributes:
        name: Its name in the search space.
        kind: What it does.
        distribution: The values it may take once it is adjusted. A reference value outside stays untouched as long as
            the adjustment is zero.
        scale: The scale on which it moves.
        largest_move: How far an adjustment of 1 moves it on that scale.
    """

    name: str
    kind: Kind
    distribution: FloatDistribution | IntDistribution
    scale: Scale
    largest_move: float

    @property
    def low(self) -> float:
        """The lowest value on the natural scale."""
        return float(self.scale.to_natural(np.float64(self.distribution.low)))  # type: ignore[arg-type]

    @property
    def high(self) -> float:
        """The highest value on the natural scale."""
        return float(self.scale.to_natural(np.float64(self.distribution.high)))  # type: ignore[arg-type]

    @property
    def seen(self) -> tuple[float, float]:
        """The lowest and the highest value, on the natural scale, that a policy is told of.

        The usual range of the kind, in which policies learn, where that is wider: there the bounds of a learning rate
        are out of sight, and a policy that sees some for the first time does not keep clear of them, it loses its way.
        """
        habit = _HABITS.get(self.kind)
        if habit is None:
            return self.low, self.high
        usual = Adjustable(self.name, self.kind, habit.distribution, habit.scale, habit.largest_move)  # type: ignore[arg-type]
        return min(self.low, usual.low), max(self.high, usual.high)

    def to_natural(self, value: ArrayLike) -> Array:
        """Values, clipped into the distribution, on the natural scale (same shape)."""
        clipped = np.clip(np.asarray(value, dtype=np.float64), self.distribution.low, self.distribution.high)
        return self.scale.to_natural(clipped)

    def from_natural(self, natural: ArrayLike) -> Array:
        """Values of the distribution nearest to points of the natural scale (same shape)."""
        low, high, step = self.distribution.low, self.distribution.high, self.distribution.step
        value = np.clip(self.scale.from_natural(np.asarray(natural, dtype=np.float64)), low, high)
        return value if step is None else np.clip(low + np.round((value - low) / step) * step, low, high)

    def moved(self, reference: ArrayLike, offset: ArrayLike) -> Array:
        """The reference moved by `offset` on the natural scale; where the offset is 0, the reference bit for bit."""
        reference, offset = np.asarray(reference, dtype=np.float64), np.asarray(offset, dtype=np.float64)
        return np.where(offset == 0.0, reference, self.from_natural(self.to_natural(reference) + offset))


def adjustable(name: str, distribution: BaseDistribution | None = None, kind: Kind | None = None) -> Adjustable:
    """Describes how a hyperparameter is adjusted.

    Args:
        name: Its name; well-known names (`lr`, `weight_decay`, `momentum`, ...) tell the kind.
        distribution: Its values; None takes the usual range of its kind.
        kind: What it does, where the name does not tell.

    Raises:
        SearchSpaceError: A categorical distribution, an unknown name without a distribution, or a range that the
            kind's scale cannot express.
    """
    kind = kind or _KIND_OF_NAME.get(name, Kind.OTHER)
    habit = _HABITS.get(kind)
    if distribution is None:
        if habit is None:
            raise SearchSpaceError(
                f"no usual range is known for hyperparameter {name!r}: give an Optuna distribution, "
                f"or use one of the well-known names {', '.join(_KIND_OF_NAME)}"
            )
        distribution = habit.distribution
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise SearchSpaceError(
            f"{name!r} has {distribution}: only a FloatDistribution or IntDistribution can be adjusted "
            "while a model trains; choose a categorical one before it starts"
        )
    if habit is None:
        scale = LOG if distribution.log else LINEAR
        width = float(np.diff(scale.to_natural(np.array([distribution.low, distribution.high], dtype=np.float64)))[0])
        habit = _Habit(scale, width / 10 or 1.0, distribution)
    lowest, highest = habit.scale.lowest, habit.scale.highest
    if not (lowest < distribution.low and distribution.high < highest):
        raise SearchSpaceError(
            f"{name!r} moves on a {habit.scale.name} scale, so its range must lie inside ({lowest}, {highest}); "
            f"got [{distribution.low}, {distribution.high}]"
        )
    return Adjustable(name, kind, distribution, habit.scale, habit.largest_move)


def require_start(each: Adjustable, value: object) -> None:
    """Checks a starting value: 0, where the hyperparameter is not in use, or one that its scale can express.

    Raises:
        SearchSpaceError: It is none.
    """
    lowest, highest = each.scale.lowest, each.scale.highest
    if not isinstance(value, Real) or not (value == 0.0 or lowest < float(value) < highest):
        raise SearchSpaceError(
            f"expected the start of {each.name!r} to be a number inside ({lowest}, {highest}), or 0, got {value!r}"
        )


def adjustables(names: Sequence[str], space: Mapping[str, BaseDistribution] | None = None) -> tuple[Adjustable, ...]:
    """One `Adjustable` per name, in the given order.

    Args:
        names: Which hyperparameters to adjust; at least one, each once.
        space: Distributions by name; a name that is not in it takes the usual range of its kind.

    Raises:
        SearchSpaceError: No name, a name twice, a distribution of what is not adjusted, or what `adjustable` refuses.
    """
    if isinstance(names, str) or not names:
        raise SearchSpaceError(f"expected a sequence of at least one hyperparameter name, got {names!r}")
    if len(set(names)) != len(names):
        raise SearchSpaceError(f"each hyperparameter may be named once, got {list(names)}")
    if space is not None and not isinstance(space, Mapping):
        raise SearchSpaceError(f"expected the space to be a dict from names to Optuna distributions, got {space!r}")
    if unused := sorted(set(space or ()) - set(names)):
        raise SearchSpaceError(f"the space has {unused}, which are not among the adjusted {list(names)}")
    return tuple(adjustable(name, (space or {}).get(name)) for name in names)
