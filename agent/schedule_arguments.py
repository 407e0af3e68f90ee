"""What a schedule is given: its arguments, and losses that may be numbers or tensors."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from ..envs import optimizers
from ..envs.adjustments import Adjustable, require_start
from ..envs.errors import ConfigurationError
from ..envs.records import Recorder
from .arguments import require_kind
from .policy import Policy


def require_arguments(optimizer: object, on_divergence: str, policy: object, recorder: object, model: object) -> None:
    """Checks those arguments of `AdaptiveSchedule` that nobody else does.

    Raises:
        ConfigurationError: One is of another kind, or the optimiser has nothing to train.
    """
    require_kind("optimizer", optimizer, Optimizer, "a torch optimiser")
    require_kind("policy", policy, (str, Path, Policy), "a policy, its name or its folder")
    require_kind("recorder", recorder, (Recorder, type(None)), "a recorder, with a method `record`, or None")
    require_kind("model", model, (nn.Module, type(None)), "a torch module or None")
    assert isinstance(optimizer, Optimizer)
    if on_divergence not in ("rollback", "cut"):
        raise ConfigurationError(f"on_divergence must be 'rollback' or 'cut', got {on_divergence!r}")
    if not any(parameter.requires_grad for parameter in optimizers.parameters(optimizer)):
        raise ConfigurationError("the optimiser has no parameters to train: give it those of a model that has some")


def require_starts(hyperparameters: Sequence[Adjustable], start: NDArray[np.float64], apart: Collection[str]) -> None:
    """Checks the starting values, shape (groups, h); those of `apart` are of no parameter group, or stay there.

    Raises:
        SearchSpaceError: The scale of one of them cannot express it.
    """
    for each, column in zip(hyperparameters, start.T, strict=True):
        for value in column.tolist():
            require_start(each, value)
        low, high = each.distribution.low, each.distribution.high
        outside = column[(column != 0.0) & ((column < low) | (column > high))]
        if len(column) > 1 and len(outside) and each.name not in apart:
            warnings.warn(
                f"{each.name} is {', '.join(f'{value:g}' for value in outside)} in some of the {len(column)} parameter "
                f"groups, outside of its space [{low:g}, {high:g}]: the first adjustment takes it there, and groups do "
                "not keep their ratios; widen the space",
                stacklevel=4,
            )


def single(loss: Tensor | float, what: str) -> Tensor:
    """A loss as a tensor of no dimensions, without its gradient's history, on the device where it is.

    Raises:
        ConfigurationError: It is not a single number.
    """
    if isinstance(loss, Tensor):
        found = loss.detach()
    else:
        try:
            found = torch.as_tensor(loss, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ConfigurationError(f"expected one {what}, got {loss!r}: give a number") from error
    if found.numel() != 1:
        raise ConfigurationError(f"expected one {what}, got a tensor of shape {tuple(found.shape)}")
    return found.reshape(())
