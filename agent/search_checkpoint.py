"""A file with what a search policy's meta-training has come to, as plain data; it belongs to one run's settings."""

from __future__ import annotations

from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from ..envs.errors import CheckpointError

_MOST_STEPS = 2**62


class SearchCheckpoint:
    """Tensors, and after how many moves they were written.

    Args:
        path: The file.
        settings: What tells the run from others.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._path, self._settings = path, settings

    def write(self, steps: int, tensors: dict[str, Tensor]) -> None:
        """Replaces the file; whoever reads it meanwhile finds the old one."""
        facts = {"settings": self._settings, "steps": str(steps)}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(safetensors.torch.save({k: v.contiguous().clone() for k, v in tensors.items()}, facts))
        temporary.replace(self._path)

    def read(self) -> tuple[int, dict[str, Tensor]] | None:
        """Moves and tensors; None where there is no file.

        Raises:
            CheckpointError: The file is damaged, or belongs to another run.
        """
        if not self._path.exists():
            return None
        try:
            with safetensors.safe_open(self._path, "pt") as file:
                facts = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            settings, steps = facts["settings"], int(facts["steps"])
            if not 0 <= steps < _MOST_STEPS:
                raise ValueError(f"expected a number of steps, got {steps}")
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._path} is not a whole checkpoint ({error}): delete it to begin afresh"
            ) from error
        if settings != self._settings:
            raise CheckpointError(
                f"{self._path} belongs to a run with settings {settings}, not {self._settings}: give the same settings "
                "to go on with it, or another folder (or --fresh) to begin anew"
            )
        return steps, tensors

    def remove(self) -> None:
        """Removes the file, if there is one."""
        self._path.unlink(missing_ok=True)
