"""Compares what a study's records say with what MLflow has, and mends the difference.

The records are the truth: those of the study's own storage, or of its journal. What metatuner derives from them for a
person (descriptions, plots, titles) is not compared.
"""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..envs.records import Record
from .curves import curves
from .operations import KEY_TAG, STATE_TAG, VALUE_METRIC, DeleteRun, EndRun, Log, Operation, Point, merged
from .projection import Projection
from .store import Store, connect
from .study_runs import study_runs, trial_of
from .transport import Transport

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that MLflow shows otherwise than the records say.

    Attributes:
        trial: The trial's number; None for the study itself.
        what: What differs, in words.
        repair: What mends it; empty where MLflow allows no change.
    """

    trial: int | None
    what: str
    repair: tuple[Operation, ...] = ()


@dataclass(slots=True)
class _Expected:
    """What the records ask for in one run."""

    operations: list[Operation] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    end: EndRun | None = None
    state: str = ""


def compare(records: Iterable[Record], study: str, store: Store, experiment: str) -> list[Difference]:
    """How MLflow differs from the records of a study.

    Args:
        records: The study's records.
        study: The key of its run.
        store: The store.
        experiment: The experiment's name.

    Raises:
        StoreError: The store cannot be read.
    """
    expected = _expected(records, study)
    client = connect(store)
    runs = study_runs(client, experiment, study)
    differences = []
    if None not in runs:
        differences.append(Difference(None, "the study's run is not there", tuple(expected[None].operations)))
    known = {run.info.run_id for attempts in runs.values() for run in attempts}
    names = sorted({point.key for each in expected.values() for point in each.points})
    found = {name: curves(store, client, sorted(known), name) for name in names}
    for trial in [trial for trial in expected if trial is not None]:
        differences += _compare_trial(trial, expected[trial], runs.get(trial, []), found)
    for trial in sorted(trial for trial in runs if trial is not None and trial not in expected):
        differences.append(Difference(trial, "MLflow has it, the study does not: left as it is"))
    return differences


def unattended(study: str, store: Store, experiment: str) -> list[Difference]:
    """What is wrong in MLflow alone, where no records of the study are at hand.

    Runs that are open although nobody here records them, and trials that are there twice.

    Args:
        study: The key of the study's run.
        store: The store.
        experiment: The experiment's name.

    Raises:
        StoreError: The store cannot be read.
    """
    differences = []
    for trial, runs in study_runs(connect(store), experiment, study).items():
        differences += _doubles(trial, runs)
        for run in runs:
            if run.info.status == "RUNNING":
                key, last = run.data.tags[KEY_TAG], run.info.end_time or run.info.start_time
                end = EndRun(run=key, time_ms=last, status="KILLED")
                what = "it is open, and no journal here is of it: if nobody records it elsewhere, it was killed"
                differences.append(Difference(trial, what, (Log(run=key, tags={STATE_TAG: "killed"}), end)))
    return differences


def repair(differences: Iterable[Difference], store: Store, experiment: str) -> None:
    """Mends what can be mended. Doing it twice changes nothing.

    Raises:
        UnsentError: The store refuses.
    """
    transport = Transport(store, experiment)
    for difference in differences:
        for operation in difference.repair:
            transport.send(operation)


def _expected(records: Iterable[Record], study: str) -> dict[int | None, _Expected]:
    """What each run is to be, by trial number. A later attempt of a trial stands for it."""
    projection = Projection(study, draw=False)
    operations: list[Operation] = []
    for record in records:
        operations += projection.take(record)
    operations += projection.flush()
    by_run: dict[str, _Expected] = defaultdict(_Expected)
    for operation in merged(operations):
        _note(by_run[operation.run], operation)
    return {trial_of(run, study): each for run, each in by_run.items()}


def _note(expected: _Expected, operation: Operation) -> None:
    expected.operations.append(operation)
    if isinstance(operation, Log):
        expected.params |= operation.params
        expected.points += operation.metrics
        expected.state = operation.tags.get(STATE_TAG, expected.state)
    elif isinstance(operation, EndRun):
        expected.end = operation


def _compare_trial(
    trial: int, expected: _Expected, runs: Sequence[Run], found: Mapping[str, Mapping[str, Mapping[int, float]]]
) -> list[Difference]:
    if not runs:
        return [Difference(trial, "it is not there", tuple(expected.operations))]
    run, key = runs[0], runs[0].data.tags[KEY_TAG]
    differences = _doubles(trial, runs)
    missing = {name: value for name, value in expected.params.items() if name not in run.data.params}
    if missing:
        differences.append(Difference(trial, f"params are missing: {_some(missing)}", (Log(run=key, params=missing),)))
    other = {name for name, value in expected.params.items() if run.data.params.get(name, value) != value}
    if other:
        differences.append(Difference(trial, f"params differ, which MLflow lets nobody change: {_some(other)}"))
    points = [point for point in expected.points if not _is_there(point, run, found)]
    if points:
        what = f"{len(points)} metric values are missing: {_some({point.key for point in points})}"
        differences.append(Difference(trial, what, (Log(run=key, metrics=points),)))
    return [*differences, *_compare_end(trial, key, expected, run)]


def _doubles(trial: int | None, runs: Sequence[Run]) -> list[Difference]:
    """Runs beside the oldest one with the same key."""
    first = {run.data.tags[KEY_TAG]: run for run in reversed(runs)}
    return [
        Difference(trial, "it is there twice", (DeleteRun(run=run.data.tags[KEY_TAG], run_id=run.info.run_id),))
        for run in runs
        if first[run.data.tags[KEY_TAG]] is not run
    ]


def _compare_end(trial: int, key: str, expected: _Expected, run: Run) -> list[Difference]:
    end = expected.end
    if end is None:
        return []
    state = run.data.tags.get(STATE_TAG)
    if run.info.status == end.status and state == expected.state:
        return []
    what = f"it is {expected.state}, and MLflow shows {run.info.status} ({state})"
    return [Difference(trial, what, (Log(run=key, tags={STATE_TAG: expected.state}), replace(end, run=key)))]


def _is_there(point: Point, run: Run, found: Mapping[str, Mapping[str, Mapping[int, float]]]) -> bool:
    curve = found[point.key].get(run.info.run_id, {})
    # What a trial is judged by is one value: at which step it stands says how often others were measured.
    values = curve.values() if point.key == VALUE_METRIC else [curve[point.step]] if point.step in curve else []
    # What is infinite is kept as the largest number there is.
    expected = max(min(point.value, sys.float_info.max), -sys.float_info.max)
    return any(value in (point.value, expected) or (math.isnan(value) and math.isnan(point.value)) for value in values)


def _some(names: Iterable[str], count: int = 5) -> str:
    names = sorted(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
