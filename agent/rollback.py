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

    Args:
        optimizer: Whose parameters and state to keep; its hyperparameters are not rolled back.
        model: Where given, its buffers are kept too.
    """

    def __init__(self, optimizer: Optimizer, model: nn.Module | None = None) -> None:
        self._optimizer, self._model = optimizer, model
        self._kept: dict[str, Any] | None = None

    @torch.no_grad()
    def keep(self) -> None:
        """Copies the present state."""
        weights = parameters(self._optimizer)
        self._kept = {
            "weights": [weight.detach().clone() for weight in weights],
            "states": [_copy(self._optimizer.state.get(weight, {})) for weight in weights],
            "buffers": [buffer.clone() for buffer in self._buffers()],
        }

    @torch.no_grad()
    def restore(self) -> None:
        """Returns to the state of the last `keep`, which stays kept."""
        assert self._kept is not None
        for weight, kept, state in zip(
            parameters(self._optimizer), self._kept["weights"], self._kept["states"], strict=True
        ):
            weight.copy_(kept)
            if state:
                self._optimizer.state[weight] = _copy(state)
            else:
                self._optimizer.state.pop(weight, None)
        for buffer, kept in zip(self._buffers(), self._kept["buffers"], strict=True):
            buffer.copy_(kept)

    def state_dict(self) -> dict[str, Any] | None:
        """What is kept; None where nothing is yet."""
        return self._kept

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Keeps what `state_dict` gave."""
        self._kept = state

    def _buffers(self) -> list[Tensor]:
        return list(self._model.buffers()) if self._model is not None else []


def _copy(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in state.items()}
