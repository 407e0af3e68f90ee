"""A copy of weights and optimiser state to return to when a training diverges."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..envs.optimizers import parameters


class Rollback:
    """Keeps the state of an optimiser's parameters as of the last `keep`.

    The copy is written to the same memory each time: fresh memory costs three times as much as the copying.

    Args:
        optimizer: Whose parameters and state to keep; its hyperparameters are not rolled back.
        model: Where given, its buffers are kept too.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        self._optimizer, self._model = optimizer, model
        self._kept: dict[str, Any] | None = None
        self._lent = False

    @torch.no_grad()
    def keep(self) -> None:
        """Copies the present state."""
        weights = parameters(self._optimizer)
        # What was given away as a state must not change any more.
        old = self._kept if self._kept is not None and not self._lent else {}
        states = old.get("states", [{}] * len(weights))
        self._kept = {
            "weights": _copies(weights, old.get("weights")),
            "states": [
                _copy(self._optimizer.state.get(weight, {}), into) for weight, into in zip(weights, states, strict=True)
            ],
            "buffers": _copies(self.buffers, old.get("buffers")),
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
        for buffer, kept in zip(self.buffers, self._kept["buffers"], strict=True):
            buffer.copy_(kept)

    def state_dict(self) -> dict[str, Any] | None:
        """What is kept; None where nothing is yet."""
        self._lent = True
        return self._kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps what `state_dict` gave."""
        self._kept, self._lent = state, True

    @property
    def buffers(self) -> list[Tensor]:
        """The model's, where one was given."""
        return list(self._model.buffers()) if self._model is not None else []


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
