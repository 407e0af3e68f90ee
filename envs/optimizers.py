"""Reading, setting and measuring a torch optimiser, whatever it calls its hyperparameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .errors import SearchSpaceError
from .parameter_sample import ParameterSample

_USUAL = ("lr", "weight_decay", "momentum")

_STEPS_OF_THEIR_OWN = frozenset({"rho", "ns_steps", "d", "beta2_decay", "clip_threshold"})
"""What the groups of Adadelta, Muon, Prodigy and Adafactor have: their steps are not as long as their rate."""


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
    if name == "lr" and isinstance(optimizer, torch.optim.Rprop):
        raise SearchSpaceError(
            "Rprop looks at its learning rate before its first step alone, and finds its own step sizes from there: "
            "there is no schedule to adjust; take another optimiser"
        )
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
    group = optimizer.param_groups[0]
    names = [each for each in _USUAL if isinstance(group.get(each), int | float | Tensor)]
    names += ["momentum"] if "betas" in group else []
    kind = type(optimizer).__name__
    return SearchSpaceError(
        f"{kind} has no hyperparameter {name!r} to adjust"
        + (f": with it, give adjust={names} or some of these" if names else ", nor any other that is known here")
    )


def parameters(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, in order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def decays_apart(optimizer: Optimizer) -> bool:
    """Whether weights decay in a step of their own (Loshchilov and Hutter 2019), and not as a part of the gradient."""
    own = (torch.optim.AdamW, torch.optim.Adafactor) if hasattr(torch.optim, "Adafactor") else (torch.optim.AdamW,)
    told = any(group.get("decoupled_weight_decay") for group in optimizer.param_groups)
    return told or isinstance(optimizer, own)


@torch.no_grad()
def weight_norm(optimizer: Optimizer) -> float:
    """The norm of all weights together that are trained, read from the device."""
    trained = [parameter for parameter in parameters(optimizer) if parameter.requires_grad]
    return float(torch.linalg.vector_norm(_norms(trained))) if trained else 0.0


def gradient_statistics(optimizer: Optimizer, sample: ParameterSample) -> tuple[Tensor, Tensor, Tensor]:
    """|g|^2, g.m and |m|^2 over all parameters, for gradients g and momentum buffers m; scalars on the device."""
    trained = [
        # Momentum is that of the gradient that is descended.
        (parameter, -gradient if group.get("maximize") else gradient)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if (gradient := _dense(parameter)) is not None
    ]
    buffers = [(gradient, buffer) for p, gradient in trained if (buffer := _momentum_buffer(optimizer, p)) is not None]
    gradient = sample.row([gradient for _, gradient in trained])
    squared = torch.dot(gradient, gradient)
    if not buffers:
        return _unscaled(optimizer, squared, torch.zeros_like(squared), torch.zeros_like(squared))
    beside = gradient if len(buffers) == len(trained) else sample.row([gradient for gradient, _ in buffers])
    momentum = sample.row([buffer for _, buffer in buffers]).to(beside)
    return _unscaled(optimizer, squared, torch.dot(beside, momentum), torch.dot(momentum, momentum))


def first_update(optimizer: Optimizer, sample: ParameterSample) -> Tensor:
    """`signals.first_update` of the step that is about to come: a scalar on the device.

    NaN without gradients, and for optimisers whose steps are neither as long as the rate in each direction nor the rate
    times the gradient.
    """
    if any(_STEPS_OF_THEIR_OWN & group.keys() for group in optimizer.param_groups):
        return torch.tensor(torch.nan)
    # Before it has seen enough gradients, RAdam divides by none.
    by_rate = bool(adaptive(optimizer)) and not isinstance(optimizer, torch.optim.RAdam)
    of_groups, trained = [], list[Tensor]()
    for group in optimizer.param_groups:
        of_group = [parameter for parameter in group["params"] if _dense(parameter) is not None]
        if by_rate:
            # Its steps are about as long as its rate in each direction; a complex number has two.
            length: Tensor | int = sum(parameter.numel() * (1 + parameter.is_complex()) for parameter in of_group)
        else:
            gradient = sample.row([parameter.grad for parameter in of_group])
            length = torch.dot(gradient, gradient)
        of_groups.append(torch.as_tensor(length * group.get("lr", torch.nan) ** 2))
        trained += of_group
    weights = sample.row(trained)
    squared = torch.stack([each.to(weights) for each in of_groups]).sum()
    if not by_rate:
        squared, _, _ = _unscaled(optimizer, squared, squared, squared)
    return torch.sqrt(squared) / torch.sqrt(torch.dot(weights, weights))


def update_statistics(optimizer: Optimizer, before: Tensor, sample: ParameterSample) -> tuple[Tensor, Tensor]:
    """|w' - w|^2 and |w|^2 for weights w' now and the sample `before` of those before a step; scalars on the device.

    The second is not finite where any weight is not, sampled or not.
    """
    change = sample.row(parameters(optimizer)) - before
    update, weight = torch.dot(change, change), torch.dot(before, before)
    return update, weight if sample.full else weight + _nan_unless_finite(optimizer).to(weight.device)


def _nan_unless_finite(optimizer: Optimizer) -> Tensor:
    """0 where all weights are finite, else NaN: a scalar on the device, for one look at each weight."""
    return 0.0 * _norms(parameters(optimizer)).sum()


def _norms(tensors: Sequence[Tensor]) -> Tensor:
    """Of each tensor, on the device of the first."""
    weights = [tensor.detach() for tensor in tensors]
    real = [torch.view_as_real(each) if each.is_complex() else each for each in weights]
    norms = [torch.linalg.vector_norm(each, dtype=torch.float32) for each in real]
    return torch.stack([norm.to(norms[0].device) for norm in norms])


def _unscaled(optimizer: Optimizer, squared: Tensor, dot: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Undoes what a gradient scaler leaves to a fused optimiser: the scale, and overflows, which count as unknown."""
    scale, overflow = getattr(optimizer, "grad_scale", None), getattr(optimizer, "found_inf", None)
    if isinstance(scale, Tensor):
        squared, dot = squared / scale.square(), dot / scale
    if isinstance(overflow, Tensor):
        squared = torch.where(overflow > 0, torch.full_like(squared, torch.nan), squared)
    return squared, dot, momentum


def _dense(parameter: Tensor) -> Tensor | None:
    """The gradient, where it has one that can be measured: sparse ones are of other rows each time."""
    gradient = parameter.grad
    return None if gradient is None or gradient.is_sparse else gradient


def _momentum_buffer(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    state: dict[str, Tensor | None] = optimizer.state.get(parameter, {})
    buffer = state.get("momentum_buffer")
    return state.get("exp_avg") if buffer is None else buffer
