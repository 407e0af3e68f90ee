"""What is to be done to an MLflow store, as plain data.

A run is named by a **key** that is ours and known before MLflow answers: `STUDY` or `STUDY/TRIAL`. It becomes the tag
`metatuner.key`, so that a run can be found again and doing an operation twice does it once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY_TAG = "metatuner.key"


class Point(NamedTuple):
    """A metric's value at a step."""

    key: str
    value: float
    time_ms: int
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """Something to be done to the run with this key."""

    run: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StartRun(Operation):
    """Make the run, under its parent's if it has one."""

    name: str
    time_ms: int
    tags: Mapping[str, str]
    parent: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Log(Operation):
    """Add metrics, params and tags."""

    metrics: Sequence[Point] = ()
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Write(Operation):
    """Write a text artifact."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw(Operation):
    """Draw a figure and keep it as a PNG artifact. It is drawn when it is sent: that takes a good while."""

    path: str
    figure: Callable[[], Figure]


@dataclass(frozen=True, kw_only=True, slots=True)
class EndRun(Operation):
    """Close the run. `status` is one of MLflow's: FINISHED, FAILED, KILLED."""

    time_ms: int
    status: str
