"""Turns records into what is to be done to MLflow. No clock, no network, no MLflow: records in, operations out.

A study is a run, each of its trials a child run. Starting values are params; everything that changes is a step metric;
a decision is both step metrics (`hp/*`, `adjust/*`, `reward`) and a row of the artifact `decisions.csv`, which also has
the signals that the policy saw.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..envs.records import (
    Artifact,
    DataSetUsed,
    Decision,
    Description,
    FileArtifact,
    Metrics,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from . import plots
from .names import LONGEST_TAG, shorten
from .operations import KEY_TAG, Draw, EndRun, Operation, ReopenRun, StartRun, Upload, UseData, Write
from .run_log import RunLog
from .traces import Trace, Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STATUS = {
    TrialState.FINISHED: "FINISHED",
    TrialState.PRUNED: "FINISHED",  # MLflow has no such status; the tag metatuner.state tells
    TrialState.FAILED: "FAILED",
    TrialState.KILLED: "KILLED",
}
_LONGEST_DATA_NAME, _LONGEST_DIGEST, _LONGEST_PROFILE = 500, 36, 60_000  # MLflow's limits
NOTE_TAG = "mlflow.note.content"


class Projection:
    """The records of one study, in the order in which they were made and checked (`tracking.completion`).

    Args:
        study: The key of the study's run.
        kept_file: Tells where the copy of a file artifact lies.
        draw: Whether to draw plots.
    """

    def __init__(self, study: str, kept_file: Callable[[str], Path] = Path, *, draw: bool = True) -> None:
        self._key = study
        self._kept_file = kept_file
        self._draw = draw
        self._name = ""
        self._study: RunLog | None = None
        self._trials: dict[int, RunLog] = {}
        self._trainings: list[Training] = []

    def take(self, record: Record) -> list[Operation]:
        """What a record asks for, now. Metrics may wait for more of them, or for `flush`."""
        match record:
            case StudyStarted():
                return self._start_study(record)
            case Description():
                return self._describe(record)
            case TrialStarted():
                return self._start_trial(record)
            case DataSetUsed():
                return [self._use(record)]
            case Metrics():
                return self._measure(record)
            case Decision():
                return self._decide(record)
            case Artifact():
                return [Write(run=self._log(record.trial).run, path=record.path, text=record.text)]
            case FileArtifact():
                source = self._kept_file(record.source)
                return [Upload(run=self._log(record.trial).run, path=record.path, source=source)]
            case TrialFinished():
                return self._finish_trial(record)
            case StudyFinished():
                return self._finish_study(record)
        raise TypeError(f"unknown record {type(record).__name__}")

    def flush(self) -> list[Operation]:
        """Everything that waits."""
        study = [self._study] if self._study is not None else []
        return [operation for log in [*study, *self._trials.values()] for operation in log.flush()]

    def _start_study(self, record: StudyStarted) -> list[Operation]:
        if self._study is not None:
            self._study.add_tags({"metatuner.state": "running"})
            return [ReopenRun(run=self._key), *self._study.flush()]
        self._study, self._name = RunLog(self._key, Trace(record.name)), record.name
        return self._start(self._study, record, {}, None)

    def _start_trial(self, record: TrialStarted) -> list[Operation]:
        key = f"{self._key}/{record.trial}" + (f".{record.attempt}" if record.attempt else "")
        log = self._trials[record.trial] = RunLog(key, Trace(record.name))
        tags = {"metatuner.trial": str(record.trial), "metatuner.attempt": str(record.attempt)}
        return self._start(log, record, tags, self._key)

    def _start(
        self, log: RunLog, record: StudyStarted | TrialStarted, own_tags: Mapping[str, str], parent: str | None
    ) -> list[Operation]:
        tags = {
            "metatuner.study": shorten(self._name, LONGEST_TAG),
            "metatuner.version": __version__,
            "metatuner.state": "running",
            KEY_TAG: log.run,
            **own_tags,
        }
        start = StartRun(run=log.run, name=record.name, time_ms=record.time_ms, tags=tags, parent=parent)
        log.add_tags(record.tags)
        return [start, *log.set_params(record.params), *log.flush()]

    def _describe(self, record: Description) -> list[Operation]:
        study = self._log(None)
        study.add_tags({NOTE_TAG: shorten(record.markdown, LONGEST_TAG, "artifact description.md")})
        whole = [Write(run=study.run, path="description.md", text=record.markdown)]
        return [*study.flush(), *(whole if len(record.markdown) > LONGEST_TAG else [])]

    def _use(self, record: DataSetUsed) -> UseData:
        profile = json.dumps(dict(record.profile), default=str)
        return UseData(
            run=self._log(record.trial).run,
            name=shorten(record.name, _LONGEST_DATA_NAME),
            digest=record.digest[:_LONGEST_DIGEST],
            context=record.context,
            source=json.dumps({"uri": record.source or record.name}),
            profile=profile if len(profile) <= _LONGEST_PROFILE else "{}",
        )

    def _measure(self, record: Metrics) -> list[Operation]:
        log = self._log(record.trial)
        for name, value in record.values.items():
            log.add(name, value, record.step, record.time_ms)
        return log.flush_if_full()

    def _decide(self, record: Decision) -> list[Operation]:
        log = self._log(record.trial)
        log.add_decision(record)
        for name, value in record.values.items():
            log.add(f"hp/{name}", value, record.step, record.time_ms)
        for name, value in record.adjustments.items():
            log.add(f"adjust/{name}", value, record.step, record.time_ms)
        # Before the first decision nothing was earned: that is no value, not a value that is no number.
        if record.number > 0 or not math.isnan(record.reward):
            log.add("reward", record.reward, record.step, record.time_ms)
        return log.flush_if_full()

    def _finish_trial(self, record: TrialFinished) -> list[Operation]:
        log = self._trials.pop(record.trial)
        training = log.trace.training()
        self._trainings.append(training)
        drawing = partial(plots.schedule_figure, training) if self._draw and training.has_curves else None
        return self._finish(log, record, "plots/schedule.png", drawing)

    def _finish_study(self, record: StudyFinished) -> list[Operation]:
        trainings = tuple(self._trainings)
        drawing = (
            partial(plots.comparison_figure, trainings, self._name)
            if self._draw and plots.can_compare(trainings)
            else None
        )
        return self._finish(self._log(None), record, "plots/schedules.png", drawing)

    def _finish(
        self,
        log: RunLog,
        record: TrialFinished | StudyFinished,
        path: str,
        drawing: Callable[[], Figure] | None,
    ) -> list[Operation]:
        log.add_tags({"metatuner.state": str(record.state)})
        message: list[Operation] = []
        if record.message:
            log.add_tags({"metatuner.message": shorten(record.message, LONGEST_TAG, "artifact message.txt")})
            if len(record.message) > LONGEST_TAG:
                message.append(Write(run=log.run, path="message.txt", text=record.message))
        return [
            *log.flush(table=True),
            *message,
            *([Draw(run=log.run, path=path, figure=drawing)] if drawing is not None else []),
            EndRun(run=log.run, time_ms=record.time_ms, status=_STATUS[record.state]),
        ]

    def _log(self, trial: int | None) -> RunLog:
        """The log of a trial, or of the study."""
        if trial is not None:
            return self._trials[trial]
        assert self._study is not None, "a journal begins with the start of its study"
        return self._study
