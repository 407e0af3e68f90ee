"""Data sets as records: a name, a fingerprint of the contents, and figures that a person can check."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from .records import DataSetUsed

_DIGITS = 32  # hexadecimal; MLflow keeps 36


def data_set_used(
    name: str, data: TensorDataset | Sequence[Tensor], *, context: str, source: str = "", trial: int | None = None
) -> DataSetUsed:
    """The record that says that a data set is used.

    Args:
        name: Its name, for people.
        data: Tensors whose first dimension is the rows, the inputs first.
        context: What for: "training", "validation", "test".
        source: Where it comes from: a path, a URL or words.
        trial: The trial that uses it; None for the whole study.
    """
    tensors = list(data.tensors if isinstance(data, TensorDataset) else data)
    profile = {"rows": len(tensors[0]), "shapes": [list(tensor.shape) for tensor in tensors]}
    return DataSetUsed(
        trial=trial, name=name, digest=fingerprint(tensors), context=context, source=source, profile=profile
    )


def fingerprint(tensors: Sequence[Tensor]) -> str:
    """The beginning of the SHA-256 of types, shapes and contents, as 32 hexadecimal digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:_DIGITS]
