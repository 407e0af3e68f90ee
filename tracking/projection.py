"""Turns records into what is to be done to MLflow. No clock, no network, no MLflow: records in, operations out.

A study is a run, each of its trials a child run. Starting values are params; everything that changes is a step metric;
a decision is both step metrics (`hp/*`, `adjust/*`, `reward`) and a row of the artifact `decisions.csv`, which also has
the signals that the policy saw.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

from .. import __version__
from ..envs.errors import ConfigurationError
from ..envs.records import (
    Artifact,
    Decision,
    Description,
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
from .operations import KEY_TAG, Draw, EndRun, Operation, StartRun, Write
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
NOTE_TAG = "mlflow.note.content"


class Projection:
    """One study at a time, in the order in which its records were made.

    Args:
        new_key: Makes the key of a study.
        draw: Whether to draw plots.
    """

    def __init__(self, new_key: Callable[[], str], *, draw: bool = True) -> None:
        self._new_key = new_key
        self._draw = draw
        self._study: RunLog | None = None
        self._name = ""
        self._trials: dict[int, RunLog] = {}
        self._over: set[int] = set()
        self._trainings: list[Training] = []

    @property
    def study(self) -> str | None:
        """The key of the study that is open."""
        return self._study.run if self._study else None

    def take(self, record: Record) -> list[Operation]:
        """What a record asks for, now. Metrics may wait for more of them, or for `flush`."""
        match record:
            case StudyStarted():
                return self._start_study(record)
            case Description():
                return self._describe(record)
            case TrialStarted():
                return self._start_trial(record)
            case Metrics():
                return self._measure(record)
            case Decision():
                return self._decide(record)
            case Artifact():
                return self._keep(record)
            case TrialFinished():
                return self._finish_trial(record)
            case StudyFinished():
                return self._finish_study(record)
        raise ConfigurationError(f"expected a record of metatuner.envs.records, got {type(record).__name__}")

    def flush(self) -> list[Operation]:
        """Everything that waits."""
        study = [self._study] if self._study is not None else []
        return [operation for log in [*study, *self._trials.values()] for operation in log.flush()]

    def _start_study(self, record: StudyStarted) -> list[Operation]:
        if self._study is not None:
            raise ConfigurationError(f"the study {self._name!r} is still open: finish it before {record.name!r} starts")
        self._study, self._name = RunLog(self._new_key(), Trace(record.name)), record.name
        self._trials, self._over, self._trainings = {}, set(), []
        return self._start(self._study, record, {}, None)

    def _start_trial(self, record: TrialStarted) -> list[Operation]:
        study = self._open_study()
        if record.trial in self._trials or record.trial in self._over:
            raise ConfigurationError(f"trial {record.trial} was started before; give each trial a number of its own")
        log = self._trials[record.trial] = RunLog(f"{study.run}/{record.trial}", Trace(record.name))
        return self._start(log, record, {"metatuner.trial": str(record.trial)}, study.run)

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
        study = self._open_study()
        study.add_tags({NOTE_TAG: shorten(record.markdown, LONGEST_TAG, "artifact description.md")})
        whole = [Write(run=study.run, path="description.md", text=record.markdown)]
        return [*study.flush(), *(whole if len(record.markdown) > LONGEST_TAG else [])]

    def _measure(self, record: Metrics) -> list[Operation]:
        if (log := self._log(record.trial)) is None:
            return []
        for name, value in record.values.items():
            log.add(name, value, record.step, record.time_ms)
        return log.flush_if_full()

    def _decide(self, record: Decision) -> list[Operation]:
        if (log := self._log(record.trial)) is None:
            return []
        log.add_decision(record)
        for name, value in record.values.items():
            log.add(f"hp/{name}", value, record.step, record.time_ms)
        for name, value in record.adjustments.items():
            log.add(f"adjust/{name}", value, record.step, record.time_ms)
        # Before the first decision nothing was earned: that is no value, not a value that is no number.
        if record.number > 0 or not math.isnan(record.reward):
            log.add("reward", record.reward, record.step, record.time_ms)
        return log.flush_if_full()

    def _keep(self, record: Artifact) -> list[Operation]:
        parts = record.path.split("/")
        if record.path.startswith("/") or "\\" in record.path or any(part in ("", ".", "..") for part in parts):
            raise ConfigurationError(
                f"expected an artifact's path to be relative with forward slashes, got {record.path!r}"
            )
        log = self._log(record.trial)
        return [Write(run=log.run, path=record.path, text=record.text)] if log is not None else []

    def _finish_trial(self, record: TrialFinished) -> list[Operation]:
        if (log := self._log(record.trial)) is None:
            return []
        del self._trials[record.trial]
        self._over.add(record.trial)
        training = log.trace.training()
        self._trainings.append(training)
        drawing = partial(plots.schedule_figure, training) if self._draw and training.has_curves else None
        return self._finish(log, record, "plots/schedule.png", drawing)

    def _finish_study(self, record: StudyFinished) -> list[Operation]:
        study = self._open_study()
        trainings = tuple(self._trainings)
        drawing = (
            partial(plots.comparison_figure, trainings, self._name)
            if self._draw and plots.can_compare(trainings)
            else None
        )
        self._study = None
        return self._finish(study, record, "plots/schedules.png", drawing)

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

    def _open_study(self) -> RunLog:
        if self._study is None:
            raise ConfigurationError("no study is open: record StudyStarted first")
        return self._study

    def _log(self, trial: int | None) -> RunLog | None:
        """The log of a trial, or of the study. None, and a warning, where the trial is over."""
        study = self._open_study()
        if trial is None:
            return study
        if trial in self._over:
            logging.getLogger(__name__).warning("a record of trial %d came after its end and was dropped", trial)
        elif trial not in self._trials:
            raise ConfigurationError(f"trial {trial} was not started: record TrialStarted first")
        return self._trials.get(trial)
