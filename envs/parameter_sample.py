"""Measures a large model on a fixed part of its parameters, so that measuring costs next to nothing.

A small model is measured in full. Of a large one, each tensor contributes short blocks, evenly spread over all of it:
a squared norm or a scalar product over the blocks, times the inverse of their share, estimates that over the tensor.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SAMPLE = 2**16
"""Models of fewer than twice as many parameters are measured in full, larger ones on about this many."""

BLOCK = 64
"""Neighbouring elements that are taken together: reading them one by one from all over the memory is slow."""

FEWEST_BLOCKS = 4
"""A tensor that would contribute fewer blocks is taken in full."""


class ParameterSample:
    """Which elements of each parameter, and of whatever has its shape, are measured.

    Args:
        parameters: The parameters to measure, as they are listed later.
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self._stride = max(1, sum(parameter.numel() for parameter in parameters) // SAMPLE)
        self._factors: tuple[tuple[int, ...], Tensor] | None = None

    @property
    def full(self) -> bool:
        """Whether every element is measured."""
        return self._stride == 1

    def of(self, tensor: Tensor) -> Tensor:
        """The measured elements of a tensor in one row; those of half precision in single precision."""
        tensor = tensor.detach()
        if blocks := self._blocks(tensor.numel()):
            tensor = tensor.contiguous()
            shape, strides = (blocks, BLOCK), (BLOCK * self._stride, 1)
            tensor = tensor.as_strided(shape, strides, tensor.storage_offset())
        flat = tensor.reshape(-1)
        return flat if flat.dtype in (torch.float32, torch.float64) else flat.float()

    def total(self, parts: Sequence[Tensor], sizes: Sequence[int]) -> Tensor:
        """The sum over all elements, estimated from sums over the measured ones.

        Args:
            parts: For each tensor the sum over its measured elements, a scalar.
            sizes: Elements of each tensor.

        Returns:
            A scalar on the device of the first part.
        """
        if not parts:
            return torch.zeros(())
        sums = torch.stack([part.to(parts[0].device) for part in parts])
        return sums.sum() if self.full else torch.dot(sums, self._factors_of(tuple(sizes), sums))

    def _blocks(self, size: int) -> int:
        """Blocks that a tensor of this size contributes; 0 means all of it."""
        blocks = size // (BLOCK * self._stride)
        return 0 if self.full or blocks < FEWEST_BLOCKS else blocks

    def _factors_of(self, sizes: tuple[int, ...], like: Tensor) -> Tensor:
        # The same tensors are measured again and again: their factors stay on the device.
        if self._factors is None or self._factors[0] != sizes or self._factors[1].device != like.device:
            blocks = [self._blocks(size) for size in sizes]
            factors = [size / (count * BLOCK) if count else 1.0 for size, count in zip(sizes, blocks, strict=True)]
            self._factors = sizes, torch.tensor(factors, dtype=like.dtype, device=like.device)
        return self._factors[1]
