"""Turns records into what is to be done to MLflow. No clock, no network, no MLflow: records in, operations out.

A study is a run, each of its trials a child run. Starting values are params; everything that changes is a step metric;
a decision is both step metrics (`hp/*`, `adjust/*`, `reward`) and a row of the artifact `decisions.csv`, which also has
the signals that the policy saw. Why trials were proposed is the artifact `decisions.csv` of the study. What a trial is
judged by is its metric `value`; the best so far is the study's metric `best_value`, over the number of trials that have
ended.

The study's description and its plots are made anew while it runs, but seldom: a study of a thousand short trials must
not spend its time on pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
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
    ParamsChosen,
    Proposal,
    Record,
    StudyFinished,
    StudyLed,
    StudyStarted,
    TrialConstraints,
    TrialFinished,
    TrialSeen,
    TrialStarted,
    TrialState,
)
from . import schedule_plots, study_plots
from .description import LONGEST_INTRODUCTION, describe
from .importance import can_rank
from .names import LONGEST_TAG, shorten
from .operations import (
    BUDGET_TAG,
    COMMAND_TAG,
    CONDITIONS_FILE,
    CONSTRAINT,
    DECISIONS_FILE,
    DIRECTION_TAG,
    FORETOLD,
    KEY_TAG,
    KIND_TAG,
    METRIC_TAG,
    RUN_NAME_TAG,
    SPACE_FILE,
    STATE_TAG,
    STUDY_TAG,
    TITLE_TAG,
    VALUE_METRIC,
    WHY_TAG,
    Describe,
    Draw,
    EndRun,
    IfRunning,
    Operation,
    ReopenRun,
    Settle,
    StartRun,
    Upload,
    UseData,
    Write,
)
from .pace import Pace
from .run_log import RunLog
from .study_summary import StudySummary, run_key, run_title
from .table import proposals_csv
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
_TABLE_GROWTH = 1.25
_DESCRIPTION_SECONDS, _PLOTS_SECONDS = 10.0, 60.0


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
        self._study: RunLog | None = None
        self._summary = StudySummary(StudyStarted(name=""))
        self._introduction = ""
        self._trials: dict[int, RunLog] = {}
        self._trainings: list[Training] = []
        self._leads = True  # whether the study's own run is recorded from here
        self._seen: dict[int, TrialSeen] = {}
        self._proposals_written = 0
        self._descriptions, self._plots = Pace(_DESCRIPTION_SECONDS), Pace(_PLOTS_SECONDS)

    def remember(self, past: Iterable[Record]) -> None:
        """Takes in what the store knows of trials that these records do not tell of."""
        self._summary.remember(past, self._key)

    def take(self, record: Record) -> list[Operation]:
        """What a record asks for, now. Metrics may wait for more of them, or for `flush`."""
        if not self._leads and _is_of_study(record):
            return []
        match record:
            case StudyStarted():
                return self._start_study(record)
            case StudyLed():
                return self._lead(record)
            case TrialSeen():
                return self._see(record)
            case Description():
                return self._describe(record)
            case TrialStarted():
                return self._start_trial(record)
            case ParamsChosen():
                self._summary.choose(record)
                log = self._log(record.trial)
                log.add_tags(record.tags)
                return log.set_params(record.params)
            case Proposal():
                return self._propose(record)
            case TrialConstraints():
                return self._constrain(record)
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
        study = [self._study] if self._study is not None and self._leads else []
        return [operation for log in [*study, *self._trials.values()] for operation in log.flush()]

    @property
    def waits_for_run(self) -> bool:
        """Whether the study's own run is for another process to make."""
        return not self._leads

    def _start_study(self, record: StudyStarted) -> list[Operation]:
        self._summary.started = record
        if record.shared:
            self._leads = False  # until somebody says so
            self._study = self._study or RunLog(self._key, Trace(record.name))
            return []
        if self._study is not None:
            self._study.add_tags({STATE_TAG: "running", **_told_of(record)})
            return [ReopenRun(run=self._key), *self._study.flush(), self._described()]
        self._study = RunLog(self._key, Trace(record.name))
        return self._start_run(record)

    def _start_run(self, record: StudyStarted) -> list[Operation]:
        assert self._study is not None
        space = json.dumps({name: json.loads(text) for name, text in record.space.items()}, indent=1)
        conditions = json.dumps(dict(record.conditions), indent=1)
        # A run that is there already keeps what it began with, and a study may go on with a larger budget.
        self._study.add_tags(_told_of(record))
        return [
            *self._start(self._study, record, record.name, _told_of(record), None),
            *([Write(run=self._key, path=SPACE_FILE, text=space)] if record.space else []),
            *([Write(run=self._key, path=CONDITIONS_FILE, text=conditions)] if record.conditions else []),
            self._described(),
        ]

    def _lead(self, record: StudyLed) -> list[Operation]:
        if record.leads == self._leads:
            return []
        self._leads = record.leads
        return self._start_run(replace(self._summary.started, time_ms=record.time_ms)) if record.leads else []

    def _see(self, record: TrialSeen) -> list[Operation]:
        """Takes note of a trial that another process may have recorded; `_settled` sees to it that one did."""
        self._seen[record.trial] = record
        known, constraints = self._summary.trials.get(record.trial), _constrained(record)
        if known is not None and known.state is record.state and known.allowed == constraints.hold:
            return []
        begun = _begun(record)
        self._summary.begin(begun, run_key(self._key, begun))
        if record.why:
            self._summary.propose(_proposed(record))
        self._summary.constrain(constraints)
        self._note_best(_ended(record), record.value)
        return self._rendered(record.time_ms)

    def _settled(self) -> list[Operation]:
        """What makes the runs of all trials that were seen what the study's storage has, where they are not."""
        if not self._seen:
            return []
        return [Settle(run=self._key, trials={each: tuple(self._of_seen(seen)) for each, seen in self._seen.items()})]

    def _of_seen(self, seen: TrialSeen) -> list[Operation]:
        begun = _begun(seen)
        key = run_key(self._key, begun)
        log = RunLog(key, Trace(""))
        title = run_title(seen.trial, 0, seen.name, seen.state, seen.value)
        start = self._start(log, begun, title, _trial_tags(begun), self._key)
        if seen.why:
            _log_proposal(log, _proposed(seen))
        _log_constraints(log, _constrained(seen))
        if seen.value is not None:
            log.add(VALUE_METRIC, seen.value, 0, seen.time_ms)
        log.add_tags({STATE_TAG: str(seen.state)})
        if seen.message:
            log.add_tags({"metatuner.message": shorten(seen.message, LONGEST_TAG)})
        return [*start, *log.flush(), EndRun(run=key, time_ms=seen.time_ms, status=_STATUS[seen.state])]

    def _start_trial(self, record: TrialStarted) -> list[Operation]:
        key = run_key(self._key, record)
        log = self._trials[record.trial] = RunLog(key, Trace(f"#{record.trial} {record.name}"))
        self._summary.begin(record, key)
        title = run_title(record.trial, record.attempt, record.name)
        return self._start(log, record, title, _trial_tags(record), self._key)

    def _propose(self, record: Proposal) -> list[Operation]:
        self._summary.propose(record)
        log = self._log(record.trial)
        _log_proposal(log, record)
        return log.flush_if_full()

    def _constrain(self, record: TrialConstraints) -> list[Operation]:
        self._summary.constrain(record)
        log = self._log(record.trial)
        _log_constraints(log, record)
        return log.flush_if_full()

    def _start(
        self,
        log: RunLog,
        record: StudyStarted | TrialStarted,
        title: str,
        own_tags: Mapping[str, str],
        parent: str | None,
    ) -> list[Operation]:
        tags = {
            STUDY_TAG: shorten(self._summary.started.name, LONGEST_TAG),
            "metatuner.version": __version__,
            STATE_TAG: "running",
            KEY_TAG: log.run,
            KIND_TAG: "study" if parent is None else "trial",
            **own_tags,
        }
        start = StartRun(run=log.run, name=title, time_ms=record.time_ms, tags=tags, parent=parent)
        log.add_tags(record.tags)
        return [start, *log.set_params(record.params), *log.flush()]

    def _describe(self, record: Description) -> list[Operation]:
        self._introduction = record.markdown
        is_cut = len(record.markdown) > LONGEST_INTRODUCTION
        whole = [Write(run=self._key, path="description.md", text=record.markdown)] if is_cut else []
        return [self._described(), *whole]

    def _described(self, *, over: bool = False) -> Describe:
        return Describe(run=self._key, markdown=describe(self._summary, self._key, self._introduction, over=over))

    def _use(self, record: DataSetUsed) -> UseData:
        profile = json.dumps(dict(record.profile), default=str)
        return UseData(
            run=self._log(record.trial).run,
            name=shorten(record.name, _LONGEST_DATA_NAME),
            digest=record.digest[:_LONGEST_DIGEST],
            context=record.context,
            source=json.dumps({"uri": record.source or record.name}),
            profile=profile if len(profile) <= _LONGEST_PROFILE else json.dumps({"left out, characters": len(profile)}),
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
        value = self._judge(record, log)
        trial = self._summary.trials[record.trial]
        title = run_title(trial.trial, trial.attempt, trial.name, trial.state, value)
        log.add_tags({RUN_NAME_TAG: title})
        drawings = (
            [Draw(run=log.run, path="plots/schedule.png", figure=partial(schedule_plots.schedule_figure, training))]
            if self._draw and training.has_curves
            else []
        )
        return [*self._finish(log, record, drawings), *self._rendered(record.time_ms)]

    def _judge(self, record: TrialFinished, log: RunLog) -> float | None:
        """Notes and logs what a trial is judged by."""
        value = record.value if record.value is not None else log.trace.last(self._summary.started.metric)
        if value is not None and record.state in (TrialState.FINISHED, TrialState.PRUNED):
            log.add(VALUE_METRIC, value, log.trace.end, record.time_ms)
        self._note_best(record, value)
        return value

    def _note_best(self, record: TrialFinished, value: float | None) -> None:
        """Notes what a trial came to, and logs the study's best value where it is better."""
        best = self._summary.best
        self._summary.end(record, value)
        better = self._summary.best
        if self._leads and better is not None and better is not best and better.value is not None:
            ended = sum(trial.state is not None for trial in self._summary.trials.values())
            self._log(None).add("best_value", better.value, ended, record.time_ms)

    def _rendered(self, time_ms: int) -> list[Operation]:
        """The description and the plots, if they are due."""
        if not self._leads:
            return []
        description = [self._described()] if self._descriptions.allows(time_ms) else []
        plots = self._study_plots() if self._plots.allows(time_ms) else []
        return [*description, *plots, *self._proposals()]

    def _proposals(self, *, over: bool = False) -> list[Operation]:
        """The table of proposals, where it has grown by a quarter or the study is over."""
        trials = [trial for trial in self._summary.trials.values() if trial.proposal is not None]
        if not trials or not (over or len(trials) > self._proposals_written * _TABLE_GROWTH):
            return []
        self._proposals_written = len(trials)
        return [Write(run=self._key, path=DECISIONS_FILE, text=proposals_csv(trials))]

    def _study_plots(self) -> list[Operation]:
        if not self._draw:
            return []
        summary = self._summary
        started, best = summary.started, tuple(summary.ranked())
        trials, trainings = tuple(summary.trials.values()), tuple(self._trainings)
        figures: dict[str, Callable[[], Figure]] = {}
        if schedule_plots.can_compare(trainings):
            figures["schedules"] = partial(schedule_plots.comparison_figure, trainings, started.name)
        if len(best) > 1:
            figures["history"] = partial(
                study_plots.history_figure, trials, started.metric, started.name, maximize=summary.maximizes
            )
        if study_plots.can_draw_parallel(best):
            figures["parallel_coordinates"] = partial(
                study_plots.parallel_figure,
                best,
                started.metric,
                started.space,
                started.name,
                maximize=summary.maximizes,
            )
        if can_rank(best):
            figures["importance"] = partial(
                study_plots.importance_figure, best, started.space, started.name, maximize=summary.maximizes
            )
        return [Draw(run=self._key, path=f"plots/{name}.png", figure=figure) for name, figure in figures.items()]

    def _finish_study(self, record: StudyFinished) -> list[Operation]:
        if not self._leads:
            return []
        end = [
            *self._settled(),
            self._described(over=True),
            *self._proposals(over=True),
            *self._finish(self._log(None), record, self._study_plots()),
        ]
        if self._summary.started.shared and record.state is TrialState.KILLED:
            return [IfRunning(run=self._key, operations=end)]
        return end

    def _finish(
        self, log: RunLog, record: TrialFinished | StudyFinished, drawings: Sequence[Operation]
    ) -> list[Operation]:
        log.add_tags({STATE_TAG: str(record.state)})
        message: list[Operation] = []
        if record.message:
            log.add_tags({"metatuner.message": shorten(record.message, LONGEST_TAG, "artifact message.txt")})
            if len(record.message) > LONGEST_TAG:
                message.append(Write(run=log.run, path="message.txt", text=record.message))
        return [
            *log.flush(table=True),
            *message,
            *drawings,
            EndRun(run=log.run, time_ms=record.time_ms, status=_STATUS[record.state]),
        ]

    def _log(self, trial: int | None) -> RunLog:
        """The log of a trial, or of the study."""
        if trial is not None:
            return self._trials[trial]
        assert self._study is not None, "a journal begins with the start of its study"
        return self._study


def _is_of_study(record: Record) -> bool:
    """Whether a record is of the study itself, whose run another process may record."""
    if isinstance(record, Artifact | FileArtifact | Metrics | DataSetUsed):
        return record.trial is None
    return isinstance(record, Description)


def _told_of(study: StudyStarted) -> dict[str, str]:
    about = {
        METRIC_TAG: study.metric,
        DIRECTION_TAG: study.direction,
        BUDGET_TAG: study.budget,
        COMMAND_TAG: study.command,
    }
    return {name: shorten(text, LONGEST_TAG) for name, text in about.items() if text}


def _trial_tags(record: TrialStarted) -> dict[str, str]:
    return {
        "metatuner.trial": str(record.trial),
        "metatuner.attempt": str(record.attempt),
        TITLE_TAG: shorten(record.name, LONGEST_TAG),
    }


def _begun(seen: TrialSeen) -> TrialStarted:
    return TrialStarted(trial=seen.trial, name=seen.name, params=seen.params, time_ms=seen.started_ms)


def _proposed(seen: TrialSeen) -> Proposal:
    return Proposal.kept(seen.trial, seen.why, seen.started_ms)


def _log_proposal(log: RunLog, proposal: Proposal) -> None:
    log.add_tags({WHY_TAG: str(proposal)})
    for name, value in proposal.foretold.items():
        log.add(f"{FORETOLD}{name}", value, 0, proposal.time_ms)


def _constrained(seen: TrialSeen) -> TrialConstraints:
    return TrialConstraints(trial=seen.trial, excess=seen.excess, time_ms=seen.started_ms)


def _log_constraints(log: RunLog, constraints: TrialConstraints) -> None:
    for name, value in constraints.excess.items():
        log.add(f"{CONSTRAINT}{name}", value, 0, constraints.time_ms)


def _ended(seen: TrialSeen) -> TrialFinished:
    return TrialFinished(
        trial=seen.trial, state=seen.state, value=seen.value, message=seen.message, time_ms=seen.time_ms
    )
