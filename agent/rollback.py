"""A copy of weights and optimiser state to return to when a training diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from ..envs.optimizers import parameters


class Rollback:
    """Keeps the state of an optimiser's parameters as of the last `keep`.

    The copy is written to the same memory each time: fresh memory costs three times as much as the copying.

    Args:
        optimizer: Whose parameters and state to keep; its hyperparameters are not rolled back.
        model: Where given, its buffers are kept too, and the weights of averages in it (`AveragedModel`).
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        self._optimizer, self._model = optimizer, model
        self._kept: dict[str, Any] | None = None
        self._lent = False

    @torch.no_grad()
    def keep(self) -> None:
        """Copies the present state."""
        # What was given away as a state must not change any more.
        old = self._kept if self._kept is not None and not self._lent else {}
        now, kept = self.present, (self._kept or {}).get("beside")
        into = old.get("states", [{}] * len(now["states"]))
        self._kept = {
            "weights": _copies(now["weights"], old.get("weights")),
            "states": [_copy(state, there) for state, there in zip(now["states"], into, strict=True)],
            "groups": [_copy(group, {}) for group in now["groups"]],
            # The batch whose gradients are at hand may have spoilt them, in its forward pass, before anybody knows.
            "beside": _copies(_unspoilt(now["beside"], kept), old.get("beside")),
        }
        self._lent = False

    @torch.no_grad()
    def restore(self) -> None:
        """Returns to the state of the last `keep`, which stays kept."""
        assert self._kept is not None
        for weight, kept, state in zip(
            parameters(self._optimizer), self._kept["weights"], self._kept["states"], strict=True
        ):
            weight.copy_(kept)
            if state:
                self._optimizer.state[weight] = _copy(_beside(weight, state), self._optimizer.state.get(weight, {}))
            else:
                self._optimizer.state.pop(weight, None)
        for group, running in zip(self._optimizer.param_groups, self._kept["groups"], strict=True):
            group.update(_copy(running, group))
        for tensor, kept in zip(self.beside, self._kept["beside"], strict=True):
            tensor.copy_(kept)

    @property
    def present(self) -> dict[str, Any]:
        """What would be kept now, not copied."""
        weights = parameters(self._optimizer)
        return {
            "weights": weights,
            "states": [self._optimizer.state.get(weight, {}) for weight in weights],
            "groups": [_running(group) for group in self._optimizer.param_groups],
            "beside": self.beside,
        }

    def state_dict(self) -> dict[str, Any] | None:
        """What is kept; None where nothing is yet."""
        self._lent = True
        return self._kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps what `state_dict` gave."""
        self._kept, self._lent = state, True

    @property
    def beside(self) -> list[Tensor]:
        """What of the model no optimiser trains."""
        if self._model is None:
            return []
        averages = [each for each in self._model.modules() if isinstance(each, AveragedModel)]
        return [*self._model.buffers(), *(weight for each in averages for weight in each.parameters())]


_COUNTED = frozenset(
    {"k", "d", "d_max", "d_hat", "d_numerator", "weight_sum", "lr_max", "gsq_weighted", "sksq_weighted"}
    | {"numerator_weighted", "numerator_acum"}
)
"""What optimisers count in their groups: Schedule-Free, Prodigy, D-Adaptation. All else there is for others to set."""

_MEASURABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)


def _running(group: Mapping[str, Any]) -> dict[str, Any]:
    counted = {name: group[name] for name in sorted(_COUNTED & group.keys())}
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in counted.items()}
    return {name: value for name, value in plain.items() if isinstance(value, int | float | Tensor)}


def _unspoilt(tensors: list[Tensor], kept: list[Tensor] | None) -> list[Tensor]:
    """The tensors, and of those whose finite numbers are finite no more what was kept of them, if anything was."""
    if not kept or len(kept) != len(tensors):
        return tensors
    spoilt = [
        (torch.isfinite(before) & ~torch.isfinite(now)).any().to(tensors[0].device)
        if now.layout is torch.strided and now.dtype in _MEASURABLE and before.shape == now.shape
        else torch.tensor(False, device=tensors[0].device)
        for now, before in zip(tensors, kept, strict=True)
    ]
    told = torch.stack(spoilt).tolist()
    return [before if bad else now for now, before, bad in zip(tensors, kept, told, strict=True)]


def _copies(tensors: list[Tensor], into: list[Tensor] | None) -> list[Tensor]:
    return [_copied(tensor, into[i] if into else None) for i, tensor in enumerate(tensors)]


def _copy(state: Mapping[str, Any], into: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _copied(value, into.get(name)) for name, value in state.items()}


def _beside(weight: Tensor, state: Mapping[str, Any]) -> dict[str, Any]:
    """What has the weight's shape, where the weight is: a checkpoint may have been read to elsewhere."""
    return {
        name: value.to(weight.device) if isinstance(value, Tensor) and value.shape == weight.shape else value
        for name, value in state.items()
    }


def _copied(value: Any, into: object) -> Any:
    """A copy, of a tensor in the memory of an earlier one where that fits; some optimisers keep lists, too."""
    if isinstance(value, Tensor):
        tensor = value.detach()
        if isinstance(into, Tensor) and (into.shape, into.dtype) == (tensor.shape, tensor.dtype):
            return into.copy_(tensor)
        return tensor.clone()
    if isinstance(value, dict):
        return {name: _copied(each, None) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)([_copied(each, None) for each in value])
    return value
