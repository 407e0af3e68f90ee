"""Which rows a training sees at which step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


class EpochSampler:
    """Mini-batches of row numbers: shuffled epochs, the incomplete last batch dropped, as a DataLoader would.

    Args:
        rows: How many rows there are.
        batch_size: Rows a mini-batch; all rows where there are fewer.
        seed: The order follows from it.
    """

    def __init__(self, rows: int, batch_size: int, seed: int) -> None:
        self.rows, self.batch_size = rows, min(batch_size, rows)
        self._generator = torch.Generator().manual_seed(seed)
        self._epoch = torch.empty(0, self.batch_size, dtype=torch.long)

    def next(self, steps: int) -> Tensor:
        """Row numbers of the next `steps` mini-batches, shape (steps, batch size)."""
        batches = self.rows // self.batch_size
        epochs = math.ceil((steps - len(self._epoch)) / batches)
        if epochs > 0:
            orders = torch.stack([torch.randperm(self.rows, generator=self._generator) for _ in range(epochs)])
            shuffled = orders[:, : batches * self.batch_size].reshape(-1, self.batch_size)
            self._epoch = torch.cat([self._epoch, shuffled])
        coming, self._epoch = self._epoch[:steps], self._epoch[steps:]
        return coming

    def state_dict(self) -> dict[str, Any]:
        """What is left of the epoch, and the generator."""
        return {"epoch": self._epoch.clone(), "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Back to a state, bit for bit."""
        self._epoch = state["epoch"].clone()
        self._generator.set_state(state["generator"])
