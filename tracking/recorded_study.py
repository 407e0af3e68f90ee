"""One study as MLflow has it: what it is, its trials and what they have left, read back for whoever looks later."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ..envs.errors import ConfigurationError, StoreError, UnknownExperimentError
from ..envs.plain_files import json_of
from ..envs.records import Decision, Proposal, StudyStarted, TrialConstraints, TrialFinished, TrialStarted, TrialState
from .curves import curves
from .experiments import experiment_names
from .names import clean_name, meant_name
from .operations import (
    BUDGET_TAG,
    COMMAND_TAG,
    CONDITIONS_FILE,
    DECISIONS_FILE,
    DIRECTION_TAG,
    KEY_TAG,
    METRIC_TAG,
    SPACE_FILE,
    STUDY_TAG,
    TITLE_TAG,
    VALUE_METRIC,
)
from .store import Store, connect, resolve
from .study_runs import all_studies, study_runs
from .study_state import require_sound
from .study_summary import StudySummary
from .table import read_decisions
from .told_trials import is_number
from .traces import Trace, Training
from .transport import NOTE_TAG, unusable
from .trial_run import judged_by, run_state, trial_records
from .waiting_studies import waiting_hint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MOST_CURVES = 300
"""Curves and tables of decisions are read of so many trials at most, the best ones first."""

_MOST_NAMES = 10
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_SCHEDULE_CURVES = ("train/loss", "val/loss")
_MESSAGE_TAG = "metatuner.message"


@dataclass(frozen=True, slots=True)
class RecordedTrial:
    """What a trial has left beside its summary.

    Attributes:
        message: Why it failed or was pruned.
        metrics: The last value of each metric.
        training: Its curves, as far as they are drawn.
        decisions: What a policy decided while it ran.
    """

    message: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Training = field(default_factory=lambda: Training("", {}))
    decisions: Sequence[Decision] = ()


@dataclass(frozen=True, slots=True)
class RecordedStudy:
    """A study.

    Attributes:
        run_id: MLflow's id of its run.
        experiment: The name of its experiment.
        state: How it ended; None while it is open.
        ended_ms: When, in milliseconds since the epoch; None while it is open.
        summary: What it is, and what has become of its trials (the key of a trial's run is MLflow's id here).
        introduction: What whoever ran it says about it, as Markdown.
        trials: What trials have left, by number, in their latest attempts.
        attempts: How many runs of trials there are, earlier attempts included.
        data_sets: Name and context ("training", "validation") of each data set.
        message: Why it failed.
    """

    run_id: str
    experiment: str
    state: TrialState | None
    ended_ms: int | None
    summary: StudySummary
    introduction: str
    trials: Mapping[int, RecordedTrial]
    attempts: int
    data_sets: Sequence[tuple[str, str]]
    message: str = ""

    @property
    def started(self) -> StudyStarted:
        """What it is."""
        return self.summary.started

    @property
    def is_schedule(self) -> bool:
        """Whether hyperparameters were adjusted while trials ran."""
        return any(name.startswith("hp/") for trial in self.trials.values() for name in trial.metrics)


def read_study(study: str, experiment: str | None = None, tracking_uri: str | None = None) -> RecordedStudy:
    """Reads a study.

    Args:
        study: Its name, or MLflow's id of its run.
        experiment: The experiment's name; None looks in all.
        tracking_uri: The store, as for `MLflowRecorder`.

    Raises:
        UnknownExperimentError: There is no such experiment.
        StoreError: The store is not there or cannot be read, has no such study, or several.
    """
    store = resolve(tracking_uri)
    if store.is_missing and (waits := waiting_hint(study)):
        raise StoreError(f"there is no store {store.shown}{waits}")
    client = connect(store, reading=True)
    try:
        place, run = _find(client, store, study, experiment)
        return _read(client, store, place, run)
    except (StoreError, UnknownExperimentError):
        raise
    except Exception as error:
        raise unusable(store, error) from error


def _find(client: MlflowClient, store: Store, study: str, experiment: str | None) -> tuple[str, Run]:
    """The name of the study's experiment, and its run."""
    places = _experiments(client, store, experiment)
    studies = all_studies(client, list(places))
    found = [run for run in studies if study in (run.info.run_id, run.data.tags.get(STUDY_TAG))]
    if len(found) == 1:
        return places[found[0].info.experiment_id], found[0]
    where = f"experiment {experiment!r} of {store.shown}" if experiment is not None else store.shown
    if found:
        told = "; ".join(f"{run.info.run_id} ({_told(run, places)})" for run in found[:_MOST_NAMES])
        more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
        raise StoreError(f"{len(found)} studies are called {study!r}: give the run id of one: {told}{more}")
    if _RUN_ID.fullmatch(study) and (parent := _parent_of(client, places, study)) is not None:
        raise StoreError(f"{study} is the run of a trial: give that of its study, {parent}")
    names = list(dict.fromkeys(run.data.tags.get(STUDY_TAG, "") for run in studies))
    if not names:
        instead = waiting_hint(study) or ": name another store with --tracking-uri"
        raise StoreError(f"{where} has no studies{instead}")
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    raise StoreError(
        f"{where} has no study {study!r}: it has {', '.join(map(repr, names[:_MOST_NAMES]))}{more}{waiting_hint(study)}"
    )


def _told(run: Run, places: Mapping[str, str]) -> str:
    from datetime import UTC, datetime

    began = datetime.fromtimestamp((run.info.start_time or 0) / 1000, UTC)
    return f"experiment {places[run.info.experiment_id]!r}, begun {began:%Y-%m-%d %H:%M} UTC"


def _experiments(client: MlflowClient, store: Store, experiment: str | None) -> dict[str, str]:
    """Names by id."""
    found = experiment_names(client)
    if experiment is None:
        return found
    if experiment not in found.values():
        raise UnknownExperimentError(
            f"{store.shown} has no experiment {experiment!r}: expected one of "
            f"{', '.join(sorted(found.values())[:_MOST_NAMES])}"
        )
    return {i: name for i, name in found.items() if name == experiment}


def _parent_of(client: MlflowClient, places: Iterable[str], run_id: str) -> str | None:
    runs = client.search_runs(list(places), f"attributes.run_id = '{run_id}'", max_results=1)
    parent = runs[0].data.tags.get("mlflow.parentRunId") if runs else None
    return str(parent) if parent else None


def _read(client: MlflowClient, store: Store, experiment: str, run: Run) -> RecordedStudy:
    runs = study_runs(client, experiment, run.data.tags[KEY_TAG])
    trials = {number: attempts[0] for number, attempts in runs.items() if number is not None}
    trials = {number: trials[number] for number in sorted(trials, key=lambda n: (trials[n].info.start_time, n))}
    judged = [(judged_by(each), run_state(each)) for each in trials.values()]
    summary = StudySummary(_started(client, run, judged))
    for each in trials.values():
        _sum_up(summary, each)
    chosen = _chosen(summary)
    read = _curves(store, client, summary.started.metric, [trials[number] for number in chosen])
    is_open = _is_open(run)
    return RecordedStudy(
        run_id=run.info.run_id,
        experiment=experiment,
        state=None if is_open else run_state(run),
        ended_ms=None if is_open else run.info.end_time,
        summary=summary,
        introduction=_introduction(run.data.tags.get(NOTE_TAG, "")),
        trials={
            number: _recorded(client, each, read.get(each.info.run_id, {}), with_decisions=number in chosen)
            for number, each in trials.items()
        },
        attempts=sum(len(attempts) for number, attempts in runs.items() if number is not None),
        data_sets=_data_sets(run),
        # Of a study that was cut off, and then went on to its end, it is an older one.
        message="" if run.info.status in ("FINISHED", "RUNNING") else run.data.tags.get(_MESSAGE_TAG, ""),
    )


def _started(client: MlflowClient, run: Run, judged: Sequence[tuple[float | None, TrialState | None]]) -> StudyStarted:
    tags = run.data.tags
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    space = _texts(client, run, SPACE_FILE, json.dumps) if SPACE_FILE in files else {}
    conditions = _texts(client, run, CONDITIONS_FILE, str) if CONDITIONS_FILE in files else {}
    values = [value for value, state in judged if state is TrialState.FINISHED and value is not None]
    best = run.data.metrics.get("best_value")
    # Studies recorded before the direction was a tag: their best value tells which way is better.
    rises = best is not None and len(set(values)) > 1 and best == max(values)
    started = StudyStarted(
        name=tags.get(STUDY_TAG, ""),
        params={meant_name(key, tags): value for key, value in run.data.params.items()},
        tags=tags,
        key=tags[KEY_TAG],
        metric=tags.get(METRIC_TAG, VALUE_METRIC),
        direction=tags.get(DIRECTION_TAG, "maximize" if rises else "minimize"),
        space=space,
        conditions=conditions,
        budget=tags.get(BUDGET_TAG, ""),
        command=tags.get(COMMAND_TAG, ""),
        time_ms=run.info.start_time,
    )
    try:
        require_sound(started)
    except ConfigurationError as error:
        raise _damaged(run, SPACE_FILE, error) from error
    return started


def _sum_up(summary: StudySummary, run: Run) -> None:
    for record in trial_records(run):
        match record:
            case TrialStarted():
                summary.begin(record, run.info.run_id)
            case Proposal():
                summary.propose(record)
            case TrialConstraints():
                summary.constrain(record)
            case TrialFinished() if not _is_open(run):
                summary.end(record, record.value)


def _is_open(run: Run) -> bool:
    return run.info.status in ("RUNNING", "SCHEDULED")


def _chosen(summary: StudySummary) -> set[int]:
    """The trials whose curves are worth reading: the best ones, then the others in their order."""
    ranked = [trial.trial for trial in summary.ranked()]
    return set(list(dict.fromkeys([*ranked, *summary.trials]))[:MOST_CURVES])


def _curves(
    store: Store, client: MlflowClient, metric: str, runs: Sequence[Run]
) -> dict[str, dict[str, Mapping[int, float]]]:
    """Curves by run and by the name that was meant."""
    keys: dict[str, str] = {}
    for run in runs:
        for key in run.data.metrics:
            name = meant_name(key, run.data.tags)
            if name.startswith("hp/") or name in _SCHEDULE_CURVES or key == clean_name(metric):
                keys[key] = name
    found: dict[str, dict[str, Mapping[int, float]]] = {}
    for key, name in keys.items():
        having = [run.info.run_id for run in runs if key in run.data.metrics]
        for run_id, curve in curves(store, client, having, key).items():
            found.setdefault(run_id, {})[name] = curve
    return found


def _recorded(
    client: MlflowClient, run: Run, read: Mapping[str, Mapping[int, float]], *, with_decisions: bool
) -> RecordedTrial:
    tags = run.data.tags
    metrics = {meant_name(key, tags): float(value) for key, value in run.data.metrics.items()}
    decided = with_decisions and any(name.startswith("adjust/") for name in metrics)
    decisions = _decisions(client, run) if decided else ()
    trace = Trace(f"#{tags['metatuner.trial']} {tags.get(TITLE_TAG, '')}".strip())
    for name, curve in read.items():
        for step, value in curve.items():
            trace.add(name, step, value if is_number(value) else float("nan"))
    for decision in decisions:
        trace.decisions.add(decision.step, 0.0)
        if decision.note:
            trace.notes.append((decision.step, decision.note))
    return RecordedTrial(
        message=tags.get(_MESSAGE_TAG, ""),
        metrics=metrics,
        training=trace.training(),
        decisions=decisions,
    )


def _decisions(client: MlflowClient, run: Run) -> Sequence[Decision]:
    if not any(file.path == DECISIONS_FILE for file in client.list_artifacts(run.info.run_id)):
        return ()  # it runs, or its table was never sent
    try:
        return read_decisions(_file(client, run, DECISIONS_FILE), int(run.data.tags["metatuner.trial"]))
    except ValueError as error:
        raise _damaged(run, DECISIONS_FILE, error) from error


def _texts(client: MlflowClient, run: Run, path: str, text_of: Callable[[Any], str]) -> dict[str, str]:
    """The entries of an artifact that is a JSON object, as texts."""
    try:
        found = json_of(_file(client, run, path))
        if not isinstance(found, dict):
            raise ValueError(f"expected an object, got {type(found).__name__}")
        return {name: text_of(each) for name, each in found.items()}
    except ValueError as error:
        raise _damaged(run, path, error) from error


def _damaged(run: Run, path: str, error: Exception) -> StoreError:
    return StoreError(
        f"the artifact {path} of run {run.info.run_id} was damaged or altered ({error}): bring it back from a copy"
    )


def _file(client: MlflowClient, run: Any, path: str) -> str:
    with TemporaryDirectory(prefix="metatuner-") as folder:
        return Path(client.download_artifacts(run.info.run_id, path, folder)).read_text(encoding="utf-8")


def _introduction(note: str) -> str:
    """The part of a study's description that whoever runs it wrote, without the heading that is only its name."""
    head = re.split(r"\n*^## (?:Result|Result so far|Search space|Again)$", note, maxsplit=1, flags=re.MULTILINE)[0]
    return head.strip() if "\n" in head.strip() else ""


def _data_sets(run: Run) -> list[tuple[str, str]]:
    used = run.inputs.dataset_inputs if run.inputs is not None else []
    return [(each.dataset.name, ", ".join(tag.value for tag in each.tags)) for each in used]
