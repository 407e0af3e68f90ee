"""Measures a large model on a fixed part of its parameters, so that measuring costs next to nothing.

A small model is measured in full. Of a large one, each tensor contributes short blocks, evenly spread over all of it:
a scalar product over the blocks, times the inverse of their share, estimates that over the tensor. All tensors are
measured together, since on a GPU it is the number of operations that takes time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE = 2**16
"""Models of fewer than twice as many parameters are measured in full, larger ones on about this many."""

BLOCK = 64
"""Neighbouring elements that are taken together: reading them one by one from all over the memory is slow."""

FEWEST_BLOCKS = 4
"""A tensor that would contribute fewer blocks is taken in full."""

KEPT = 4
"""Lists of tensors whose weights are kept."""


class ParameterSample:
    """Which elements of each parameter, and of whatever has its shape, are measured.

    Args:
        parameters: The parameters to measure.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._stride = max(1, sum(parameter.numel() for parameter in parameters) // SAMPLE)
        self._weights: dict[tuple[object, ...], Tensor] = {}

    @property
    def full(self) -> bool:
        """Whether every element is measured."""
        return self._stride == 1

    def row(self, tensors: Sequence[Tensor]) -> Tensor:
        """The measured elements of some tensors, so weighted that scalar products of rows estimate those of tensors.

        Args:
            tensors: Parameters, or what has their shapes, such as gradients.

        Returns:
            A row on the device of the first tensor, in single precision where they are of half.
        """
        if not tensors:
            return torch.zeros(0)
        tensors = [
            torch.view_as_real(each.detach().resolve_conj()) if each.is_complex() else each.detach() for each in tensors
        ]
        device, sizes = tensors[0].device, [tensor.numel() for tensor in tensors]
        parts = [tensor.reshape(-1) for tensor in tensors if not self._blocks(tensor.numel())]
        if blocks := [self._blocks_of(tensor) for tensor in tensors if self._blocks(tensor.numel())]:
            parts.insert(0, _joined(blocks, device).view(-1))
        row = _joined(parts, device)
        return row if self.full else row * self._weights_of(sizes, row)

    def _blocks(self, size: int) -> int:
        """Blocks that a tensor of this size contributes; 0 means all of it."""
        blocks = size // (BLOCK * self._stride)
        return 0 if self.full or blocks < FEWEST_BLOCKS else blocks

    def _blocks_of(self, tensor: Tensor) -> Tensor:
        """Shape (blocks, `BLOCK`)."""
        tensor = tensor.contiguous()
        shape, strides = (self._blocks(tensor.numel()), BLOCK), (BLOCK * self._stride, 1)
        return tensor.as_strided(shape, strides, tensor.storage_offset())

    def _weights_of(self, sizes: Sequence[int], row: Tensor) -> Tensor:
        """Of each element the root of how many it stands for."""
        # The same tensors are measured again and again: their weights stay on the device. They are made there, so that
        # nothing waits; and where other tensors have gradients each time, only the latest are kept.
        key = (*sizes, row.dtype, row.device)
        if key not in self._weights:
            in_blocks = [(self._blocks(size) * BLOCK, size) for size in sizes if self._blocks(size)]
            in_full = sum(size for size in sizes if not self._blocks(size))
            parts = [row.new_full((count,), math.sqrt(size / count)) for count, size in in_blocks]
            if len(self._weights) == KEPT:
                del self._weights[next(iter(self._weights))]
            self._weights[key] = torch.cat([*parts, row.new_ones(in_full)])
        return self._weights[key]


def _joined(parts: Sequence[Tensor], device: torch.device) -> Tensor:
    """One behind the other, on a device, in single precision where they are of half."""
    if len({part.dtype for part in parts}) > 1:
        parts = [_at_least_single(part) for part in parts]
    return _at_least_single(torch.cat([part.to(device) for part in parts]))


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
