"""What the processes of a distributed training agree on, so that all of them apply the same adjustments.

Collective calls happen at decisions, before the first step of a schedule that was made or loaded, and where new data
are told of. They are made on the device of the optimiser's parameters: that is where gradients are averaged, so the
group can talk about it.
"""

from __future__ import annotations

import hashlib
from dataclasses import fields
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from ..envs.errors import ConfigurationError
from ..envs.signals import Interval

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Array = NDArray[np.float64]


class Ranks:
    """The processes that train one model together. Alone, every method returns what it is given.

    Args:
        group: Which processes. "default": torch's default group where `torch.distributed` is initialised. None: this
            process decides alone, whatever others do.
        device: Where the collective calls are made.
    """

    def __init__(self, group: ProcessGroup | Literal["default"] | None, device: torch.device) -> None:
        self._unsettled = group == "default" and not (dist.is_available() and dist.is_initialized())
        if group == "default":
            group = dist.group.WORLD if dist.is_available() and dist.is_initialized() else None
        self._group, self._device = group, device
        self.size = dist.get_world_size(group) if group is not None else 1
        self.first = group is None or dist.get_rank(group) == 0
        """Whether this process decides and records."""

    def average(self, interval: Interval) -> Interval:
        """Measurements of one training, averaged over the ranks that made them; diverged if one of them did."""
        if self.size == 1:
            return interval
        names = [field.name for field in fields(interval) if field.name != "diverged"]
        averaged = self.mean(np.concatenate([getattr(interval, name) for name in names]))
        measured = dict(zip(names, averaged, strict=True))
        return Interval.of(**measured, diverged=self.any(bool(interval.diverged[0])))

    def mean(self, values: Array) -> Array:
        """Means over ranks, each over those where it is not NaN; NaN where it is NaN on all. Shape as given."""
        if self.size == 1:
            return values
        known = ~np.isnan(values)
        sums = self._sum(np.concatenate([np.where(known, values, 0.0), known.astype(np.float64)]))
        total, count = np.split(sums, 2)
        return np.where(count > 0, total / np.maximum(count, 1.0), np.nan)

    def any(self, flag: bool) -> bool:
        """Whether it holds on at least one rank."""
        return flag if self.size == 1 else bool(self._sum(np.array([float(flag)]))[0] > 0)

    def of_first(self, values: Array) -> Array:
        """The first rank's values, on every rank; the shape is the same everywhere."""
        if self._group is None or self.size == 1:
            return values
        tensor = self._tensor(values)
        dist.broadcast(tensor, dist.get_global_rank(self._group, 0), group=self._group)
        return tensor.cpu().numpy()

    def require_same(self, what: object) -> None:
        """Checks that all ranks were told the same.

        Raises:
            ConfigurationError: They were not.
        """
        if self.size == 1:
            return
        digest = hashlib.sha256(repr(what).encode()).digest()
        mine = np.array([float(int.from_bytes(digest[:6], "big"))])
        if self.any(bool(self.of_first(mine)[0] != mine[0])):
            raise ConfigurationError(
                f"the ranks of this training do not schedule the same: this one schedules {what}; construct "
                "AdaptiveSchedule with the same arguments on every rank, or process_group=None for separate trainings"
            )

    def require_together(self, steps: int) -> None:
        """Checks that all ranks are as far, and that there are no more than were known.

        Raises:
            ConfigurationError: A process group was made since, or a rank went on from a checkpoint and others did not.
        """
        if self._unsettled and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise ConfigurationError(
                "torch.distributed was initialised after this schedule was made, which decides alone: make it after "
                "init_process_group, or with process_group=None for separate trainings"
            )
        if self.size > 1 and self.any(bool(self.of_first(np.array([float(steps)]))[0] != steps)):
            raise ConfigurationError(
                f"the ranks of this training are not as far: this one's schedule has seen {steps} steps; load a state "
                "on every rank, or on none"
            )

    def _sum(self, values: Array) -> Array:
        tensor = self._tensor(values)
        dist.all_reduce(tensor, group=self._group)
        return tensor.cpu().numpy()

    def _tensor(self, values: Array) -> torch.Tensor:
        # A copy: a collective call writes to its argument.
        return torch.tensor(values, dtype=torch.float64, device=self._device)
