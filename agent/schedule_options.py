"""What the callbacks of frameworks pass on to `AdaptiveSchedule`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from optuna.distributions import BaseDistribution

from ..envs.errors import ConfigurationError
from ..envs.records import Recorder
from .knobs import Knob
from .policy import Policy

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class ScheduleOptions(TypedDict, total=False):
    """Arguments of `AdaptiveSchedule`; those that are not here come from the framework."""

    policy: str | Path | Policy
    adjust: Sequence[str]
    recorder: Recorder | None
    space: Mapping[str, BaseDistribution] | None
    on_divergence: Literal["rollback", "cut"]
    trial: int | None
    name: str | None
    knobs: Mapping[str, Knob] | None
    decide_every: int | None
    guard: bool
    process_group: ProcessGroup | Literal["default"] | None


def require_options(options: Mapping[str, object]) -> None:
    """Checks their names, so that a wrong one is told where it is given.

    Raises:
        ConfigurationError: One is unknown, or comes from the framework.
    """
    if unknown := sorted(set(options) - set(ScheduleOptions.__annotations__)):
        raise ConfigurationError(
            f"got {unknown}, expected options among {sorted(ScheduleOptions.__annotations__)}: what else "
            "AdaptiveSchedule takes comes from the framework"
        )
