"""Hyperparameters that live outside of the optimiser: whatever can be read and set as a number.

AdaptiveSchedule(optimizer, 1000, adjust=("lr", "dropout"), knobs={"dropout": DropoutRate(model)})
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from ..envs.errors import ConfigurationError


@runtime_checkable
class Knob(Protocol):
    """One hyperparameter, wherever it lives. Between `set` and the next `get` nobody else should turn it."""

    def get(self) -> float:
        """The present value."""

    def set(self, value: float, /) -> None:
        """Makes it the present value. The value may lie between two that are possible: take the nearer one."""


class Attribute:
    """An attribute of any object: `Attribute(criterion, "label_smoothing")`, `Attribute(batches, "batch_size")`.

    An attribute that is a whole number stays one. A `DataLoader` lets nobody set its batch size: it has batches of the
    present size where it is `DataLoader(data, batch_sampler=batches)` with a `torch.utils.data.BatchSampler`, without
    `drop_last`.

    Example:
        >>> import metatuner as mt
        >>> import torch
        >>> model, criterion = torch.nn.Linear(4, 3), torch.nn.CrossEntropyLoss(label_smoothing=0.1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> knobs = {"label_smoothing": mt.Attribute(criterion, "label_smoothing")}
        >>> tuner = mt.AdaptiveSchedule(optimizer, total_steps=100, adjust=("lr", *knobs), knobs=knobs)
        >>> tuner.values
        {'lr': 0.1, 'label_smoothing': 0.1}

    Args:
        owner: The object.
        name: Its attribute, a number.

    Raises:
        ConfigurationError: There is no such attribute, it is not a number, or it cannot be set.
    """

    def __init__(self, owner: object, name: str) -> None:
        value = getattr(owner, name, None)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigurationError(
                f"expected {type(owner).__name__}.{name} to be a number, got {value!r}: name an attribute that is one, "
                "or write a knob of your own with `get` and `set`"
            )
        try:
            setattr(owner, name, value)
        except (AttributeError, TypeError, ValueError) as error:
            raise ConfigurationError(f"{type(owner).__name__}.{name} cannot be set: {error}") from error
        self._owner, self._name, self._whole = owner, name, isinstance(value, int)

    def get(self) -> float:
        """The attribute's value."""
        return float(getattr(self._owner, self._name))

    def set(self, value: float, /) -> None:
        """Sets the attribute."""
        setattr(self._owner, self._name, round(value) if self._whole else float(value))


class DropoutRate:
    """The dropout rate of a model: of all its dropout layers, attention layers and recurrent layers.

    Rates that differ keep their ratios, so a layer without dropout goes on without. The knob's value is the largest.
    Functional dropout inside a module's own code is out of reach: use `Attribute` on what that code reads. A compiled
    model is compiled anew for each new rate.

    Example:
        >>> import metatuner as mt
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Dropout(0.1), nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 3))
        >>> rate = mt.DropoutRate(model)  # AdaptiveSchedule(..., adjust=("lr", "dropout"), knobs={"dropout": rate})
        >>> rate.get()
        0.2
        >>> rate.set(0.4)
        >>> [layer.p for layer in model if isinstance(layer, nn.Dropout)]
        [0.2, 0.4]

    Args:
        model: The model.

    Raises:
        ConfigurationError: It has no such layers.
    """

    def __init__(self, model: nn.Module) -> None:
        self._places = [(module, name) for module in model.modules() if (name := _name_of_rate(module))]
        if not self._places:
            raise ConfigurationError(
                f"{type(model).__name__} has no dropout layers to adjust: add some, or use Attribute on what it reads"
            )
        self._start = [float(getattr(module, name)) for module, name in self._places]
        self._highest = max(self._start)

    def get(self) -> float:
        """The largest rate."""
        return max(float(getattr(module, name)) for module, name in self._places)

    def set(self, value: float, /) -> None:
        """Sets the largest rate to `value` in [0, 1), and the others in proportion."""
        for (module, name), start in zip(self._places, self._start, strict=True):
            # The quotient may lose digits: the rates at the start come back as they were.
            ratio = start / self._highest if self._highest else 1.0
            setattr(module, name, start if value == self._highest else value * ratio)


def _name_of_rate(module: nn.Module) -> str | None:
    if isinstance(module, _DropoutNd):
        return "p"
    return "dropout" if isinstance(module, nn.MultiheadAttention | nn.RNNBase) else None
