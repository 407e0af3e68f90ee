"""Reading, setting and measuring a torch optimiser, whatever it calls its hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import SearchSpaceError


def adaptive(optimizer: Optimizer) -> float:
    """1.0 where the optimiser divides its steps by a running gradient size (Adam, RMSprop, ...), else 0.0.

    Such optimisers, in torch and outside, have an `eps` for the division, or `betas` where they take the sign.
    """
    return float(any("eps" in group or "betas" in group for group in optimizer.param_groups))


def read(optimizer: Optimizer, name: str) -> list[float]:
    """The value of a hyperparameter in each parameter group.

    Raises:
        SearchSpaceError: The optimiser has no such hyperparameter.
    """
    return [_read(group, name, optimizer) for group in optimizer.param_groups]


def write(optimizer: Optimizer, name: str, values: Sequence[float]) -> None:
    """Sets a hyperparameter: one value a parameter group.

    Raises:
        SearchSpaceError: The optimiser has no such hyperparameter.
    """
    for group, value in zip(optimizer.param_groups, values, strict=True):
        if name in ("momentum", "beta1") and "betas" in group:
            group["betas"] = (value, *group["betas"][1:])
        elif name in group:
            # A rate that lives on the device (capturable optimisers) is set in place.
            group[name] = group[name].fill_(value) if isinstance(group[name], Tensor) else value
            if name == "momentum" and isinstance(optimizer, torch.optim.RMSprop):
                _allow_momentum(optimizer, group)
        else:
            raise _no_such(optimizer, name)


def _read(group: dict[str, Any], name: str, optimizer: Optimizer) -> float:
    if name in ("momentum", "beta1") and "betas" in group:
        return float(group["betas"][0])
    if not isinstance(group.get(name), int | float | Tensor):
        raise _no_such(optimizer, name)
    return float(group[name])


def _allow_momentum(optimizer: torch.optim.RMSprop, group: dict[str, Any]) -> None:
    """RMSprop makes the buffer at the first step, and only where momentum is in use by then."""
    for state in (optimizer.state[p] for p in group["params"] if p in optimizer.state):
        if group["momentum"] > 0 and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(state["square_avg"])


def _no_such(optimizer: Optimizer, name: str) -> SearchSpaceError:
    names = sorted(key for key, value in optimizer.param_groups[0].items() if isinstance(value, float))
    return SearchSpaceError(
        f"{type(optimizer).__name__} has no hyperparameter {name!r} to adjust; it has {', '.join(names)}"
        + (" and momentum (beta1)" if "betas" in optimizer.param_groups[0] else "")
    )


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradient_statistics(optimizer: Optimizer) -> tuple[Tensor, Tensor, Tensor]:
    """|g|^2, g.m and |m|^2 over all parameters, for gradients g and momentum buffers m; scalars on the device."""
    squared, dots, momenta = [], [], []
    for parameter in parameters(optimizer):
        if parameter.grad is None:
            continue
        gradient = parameter.grad.detach().flatten()
        squared.append(torch.dot(gradient, gradient))
        buffer = _momentum_buffer(optimizer, parameter)
        if buffer is not None:
            dots.append(torch.dot(gradient, buffer.flatten()))
            momenta.append(torch.dot(buffer.flatten(), buffer.flatten()))
    return _total(squared), _total(dots), _total(momenta)


def update_statistics(optimizer: Optimizer, before: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """|w' - w|^2 and |w|^2 for weights w before a step and w' now; scalars on the device."""
    updates, weights = [], []
    for parameter, old in zip(parameters(optimizer), before, strict=True):
        old = old.flatten()
        change = parameter.detach().flatten() - old
        updates.append(torch.dot(change, change))
        weights.append(torch.dot(old, old))
    return _total(updates), _total(weights)


def _momentum_buffer(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    state: dict[str, Tensor | None] = optimizer.state.get(parameter, {})
    buffer = state.get("momentum_buffer")
    return state.get("exp_avg") if buffer is None else buffer


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack([part.to(parts[0].device) for part in parts]).sum() if parts else torch.zeros(())
