"""What is to be done to an MLflow store, as plain data.

A run is named by a **key** that is ours and known before MLflow answers: `STUDY` or `STUDY/TRIAL`. It becomes the tag
`metatuner.key`, so that a run can be found again and doing an operation twice does it once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KEY_TAG = "metatuner.key"
RUN_NAME_TAG = "mlflow.runName"
KIND_TAG = "metatuner.kind"  # study or trial
WRITTEN_TAG = "metatuner.written"  # of an experiment: when it was last tried whether the store takes anything
STATE_TAG = "metatuner.state"  # running, or one of envs.records.TrialState
WHY_TAG = "metatuner.why"  # why a trial was proposed
CONSTRAINT = "constraint/"  # what the names of metrics that are to be 0 at most begin with
FORETOLD = "foretold/"  # what the names of metrics with the figures behind it begin with
STUDY_TAG = "metatuner.study"  # the study's name
TITLE_TAG = "metatuner.name"  # a trial's name without number and value
METRIC_TAG = "metatuner.metric"  # of a study: what trials are judged by
DIRECTION_TAG = "metatuner.direction"  # minimize or maximize
BUDGET_TAG = "metatuner.budget"  # in words
COMMAND_TAG = "metatuner.command"  # how to do it again
SPACE_FILE = "search_space.json"  # Optuna's distributions by name
CONDITIONS_FILE = "conditions.json"  # when hyperparameters are active, in words, by name
DECISIONS_FILE = "decisions.csv"  # a trial's (`tracking.table`)
VALUE_METRIC = "value"  # what a trial is judged by, whatever the study's metric is


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
class UseData(Operation):
    """Say which data set the run uses."""

    name: str
    digest: str
    context: str
    source: str
    profile: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Write(Operation):
    """Write a text artifact."""

    path: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Describe(Operation):
    """Set the run's description: Markdown with links between runs (`tracking.links`)."""

    markdown: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Upload(Operation):
    """Keep a file as an artifact. `source` is a copy of ours, which goes when it has arrived."""

    path: str
    source: Path


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


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteRun(Operation):
    """Delete a run that stands beside the one with this key. MLflow can bring it back: `mlflow runs restore`."""

    run_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ReopenRun(Operation):
    """The run goes on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settle(Operation):
    """Make the runs of a study's trials what they should be, where they are not there, not ended or ended otherwise.

    Attributes:
        trials: By a trial's number, all that is to be done to its run.
    """

    trials: Mapping[int, Sequence[Operation]]


@dataclass(frozen=True, kw_only=True, slots=True)
class IfRunning(Operation):
    """Do what follows if the store shows the run as running: another process may have ended it.

    Attributes:
        operations: What is to be done.
    """

    operations: Sequence[Operation]


def merged(operations: Sequence[Operation]) -> list[Operation]:
    """The same with one `Log` a run, without what is replaced later: requests are what shipping spends its time on.

    A run that begins and ends here begins under its last name: MLflow takes a request's time to change one.
    """
    result: list[Operation] = []
    places: dict[str, int] = {}
    for operation in _standing(operations):
        if not isinstance(operation, Log):
            result.append(operation)
        elif operation.run not in places:
            places[operation.run] = len(result)
            result.append(operation)
        else:
            place = places[operation.run]
            before = result[place]
            assert isinstance(before, Log)
            result[place] = Log(
                run=operation.run,
                metrics=(*before.metrics, *operation.metrics),
                params={**before.params, **operation.params},
                tags={**before.tags, **operation.tags},
            )
    return _titled(result)


def _titled(operations: Sequence[Operation]) -> list[Operation]:
    starts = {operation.run for operation in operations if isinstance(operation, StartRun)}
    titles = {
        operation.run: operation.tags[RUN_NAME_TAG]
        for operation in operations
        if isinstance(operation, Log) and operation.run in starts and RUN_NAME_TAG in operation.tags
    }
    return [
        _with_title(operation, titles[operation.run]) if operation.run in titles else operation
        for operation in operations
    ]


def _with_title(operation: Operation, title: str) -> Operation:
    if isinstance(operation, StartRun):
        return replace(operation, name=title)
    if isinstance(operation, Log):
        return replace(operation, tags={name: value for name, value in operation.tags.items() if name != RUN_NAME_TAG})
    return operation


def _standing(operations: Sequence[Operation]) -> list[Operation]:
    """Of drawings of one file and of descriptions of one run, only the last ones stand."""
    last = {(operation.run, _place(operation)): index for index, operation in enumerate(operations)}
    return [
        operation
        for index, operation in enumerate(operations)
        if not isinstance(operation, Draw | Describe) or last[operation.run, _place(operation)] == index
    ]


def _place(operation: Operation) -> str:
    return operation.path if isinstance(operation, Draw) else type(operation).__name__


def pieces(log: Log) -> list[Log]:
    """A log as smaller ones, to find the part that MLflow does not take; of a single value nothing is left to split."""
    metrics, params, tags = list(log.metrics), list(log.params.items()), list(log.tags.items())
    if bool(metrics) + bool(params) + bool(tags) > 1:
        parts = [
            Log(run=log.run, metrics=metrics),
            Log(run=log.run, params=log.params),
            Log(run=log.run, tags=log.tags),
        ]
        return [part for part in parts if part.metrics or part.params or part.tags]
    middle = len(metrics + params + tags) // 2
    cuts = (slice(None, middle), slice(middle, None)) if middle else ()
    return [Log(run=log.run, metrics=metrics[cut], params=dict(params[cut]), tags=dict(tags[cut])) for cut in cuts]
