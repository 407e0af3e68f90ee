"""Past runs as trials: what metatuner recorded, and what anybody logged to MLflow with params and a metric."""

from __future__ import annotations

import contextlib
import gc
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from ..envs.errors import StoreError, UnknownExperimentError
from ..envs.records import TrialState
from .curves import Curve, curves
from .experiments import experiment_names
from .names import meant_name
from .operations import DIRECTION_TAG, KEY_TAG, METRIC_TAG, STATE_TAG, STUDY_TAG, TITLE_TAG
from .redaction import one_line
from .store import Store, connect, resolve
from .study_runs import all_studies, study_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1000
_STATES = {"FAILED": TrialState.FAILED, "KILLED": TrialState.KILLED}
_OPTUNA_STATES = {"COMPLETE": TrialState.FINISHED, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAILED}
_PARENT_TAG = "mlflow.parentRunId"


@dataclass(frozen=True, slots=True)
class PastTrial:
    """One past trial.

    Attributes:
        run_id: MLflow's id of its run.
        experiment: The name of its experiment.
        name: The name it was recorded with, else the run's.
        params: What it started from, as texts.
        metrics: The last value of each metric.
        curves: The curves that were asked for, where it has them.
        state: How it ended; None where it runs still.
        study: The name of its study; None for a run that metatuner did not record.
        task: What tells its study from others: its name, with a number behind it where an earlier one has it. The
            experiment's name for a run that metatuner did not record, likewise.
        metric: What its study judges trials by; None where no study says.
        direction: "minimize" or "maximize", as its study says; None where none does.
        started_ms: Milliseconds since the epoch.
    """

    run_id: str
    experiment: str
    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    curves: Mapping[str, Curve] = field(default_factory=dict)
    state: TrialState | None = TrialState.FINISHED
    study: str | None = None
    task: str = ""
    metric: str | None = None
    direction: str | None = None
    started_ms: int = 0


def read_history(
    experiments: str | Sequence[str],
    *,
    with_curves: Sequence[str] = (),
    with_judged: bool = False,
    tracking_uri: str | None = None,
    filter_string: str = "",
) -> Iterator[PastTrial]:
    """Past trials, newest first, read page by page: memory stays bounded however many there are.

    Studies themselves and runs without params are left out: neither is a trial.

    Args:
        experiments: An experiment's name or a regular expression for whole names, or several.
        with_curves: Metrics whose curves are wanted, such as "val/loss"; each takes a while of its own.
        with_judged: Whether the curve of what its study judges it by is wanted, of each trial.
        tracking_uri: The store, as for `MLflowRecorder`.
        filter_string: MLflow's, to narrow it down.

    Raises:
        UnknownExperimentError: No experiment has such a name.
        StoreError: The store cannot be used, or refuses the filter.
    """
    store = resolve(tracking_uri)
    client = connect(store, reading=True)
    try:
        names = _matching(client, [experiments] if isinstance(experiments, str) else experiments)
        studies = _studies(client, list(names))
        taken = _Names(study.name for study in studies.values())
        others = {i: taken.free(name) for i, name in names.items()}
        token: str | None = ""
        while token is not None:
            with _no_garbage_collection():
                page = client.search_runs(list(names), filter_string, max_results=_PAGE, page_token=token or None)
                trials = _trials(store, client, page, _Places(names, others, studies), with_curves, judged=with_judged)
            yield from trials
            token = page.token
    except (StoreError, UnknownExperimentError):
        raise
    except Exception as error:
        raise StoreError(f"{store.shown} cannot be read: {one_line(error, hide=store.uri)}") from error


def _matching(client: MlflowClient, patterns: Sequence[str]) -> dict[str, str]:
    """Names by id of the experiments that match."""
    found = experiment_names(client)
    for pattern in patterns:
        if not any(_matches(pattern, name) for name in found.values()):
            raise UnknownExperimentError(
                f"no experiment is called {pattern!r}: expected one of {', '.join(sorted(found.values())[:10])}, or a "
                "regular expression that matches a whole name"
            )
    # Names are patterns, too: where an experiment has exactly this one, it is meant alone.
    exact = {pattern for pattern in patterns if pattern in found.values()}
    return {
        i: name
        for i, name in found.items()
        if name in exact or any(_matches(pattern, name) for pattern in patterns if pattern not in exact)
    }


def _matches(pattern: str, name: str) -> bool:
    if pattern == name:
        return True
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error:
        return False


class _Study(NamedTuple):
    name: str  # no other study's
    metric: str | None
    direction: str | None


class _Places(NamedTuple):
    """Where runs are, and what they are of."""

    experiments: Mapping[str, str]  # names by id
    others: Mapping[str, str]  # what the task of those is called that metatuner did not record, by the experiment's id
    studies: Mapping[str, _Study]  # by their keys


def _studies(client: MlflowClient, experiments: list[str]) -> Mapping[str, _Study]:
    found: dict[str, _Study] = {}
    taken = _Names(())
    runs = all_studies(client, experiments, deleted=True)
    # Those that are still there keep the names that one knows them by.
    for run in sorted(runs, key=lambda run: (run.info.lifecycle_stage, run.info.start_time, run.info.run_id)):
        tags = run.data.tags
        # By the tag that its trials have too: a run may be renamed.
        name = taken.take(tags.get(STUDY_TAG, ""))
        found[tags[KEY_TAG]] = _Study(name, tags.get(METRIC_TAG), tags.get(DIRECTION_TAG))
    return found


class _Names:
    """Names that are taken, many of them by numbers behind one and the same."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken, self._next = set(taken), Counter[str]()

    def free(self, name: str) -> str:
        """The name, or the first one with a number that is not taken."""
        for n in count(max(1, self._next[name])):
            if (each := name if n == 1 else f"{name} ({n})") not in self._taken:
                self._next[name] = n
                return each
        raise AssertionError("there are numbers enough")

    def take(self, name: str) -> str:
        """The same, and it is taken."""
        found = self.free(name)
        self._taken.add(found)
        return found


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Python's collector looks through every object of a page again and again: half of the time that reading takes."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _trials(
    store: Store,
    client: MlflowClient,
    page: list[Any],
    places: _Places,
    with_curves: Sequence[str],
    *,
    judged: bool,
) -> list[PastTrial]:
    runs = [run for run in page if _is_trial(run)]
    wanted: dict[str, list[str]] = {name: [run.info.run_id for run in runs] for name in with_curves}
    for run in runs if judged else ():
        metric = _study_of(run, places).metric
        if metric is not None and metric not in with_curves:
            wanted.setdefault(metric, []).append(run.info.run_id)
    read = {name: curves(store, client, ids, name) for name, ids in wanted.items()}
    return [
        _trial(
            run,
            places,
            {name: found[run.info.run_id] for name, found in read.items() if run.info.run_id in found},
        )
        for run in runs
    ]


def _trial(run: Any, places: _Places, found: Mapping[str, Curve]) -> PastTrial:
    tags = run.data.tags
    study = _study_of(run, places)
    ours, optuna = KEY_TAG in tags, _of_optuna(tags)
    state = TrialState.PRUNED if tags.get(STATE_TAG) == "pruned" else optuna.get("state", TrialState.FINISHED)
    return PastTrial(
        run_id=run.info.run_id,
        experiment=places.experiments[run.info.experiment_id],
        name=tags.get(TITLE_TAG) or run.info.run_name or "",
        # Names that others logged are as they are.
        params={meant_name(key, tags) if ours else key: value for key, value in run.data.params.items()},
        metrics={meant_name(key, tags) if ours else key: float(value) for key, value in run.data.metrics.items()},
        curves=found,
        state=None if run.info.status in ("RUNNING", "SCHEDULED") else _STATES.get(run.info.status, state),
        study=tags.get(STUDY_TAG),
        task=study.name or places.others[run.info.experiment_id],
        metric=study.metric,
        direction=study.direction or optuna.get("direction"),
        started_ms=int(run.info.start_time or 0),
    )


def _of_optuna(tags: Mapping[str, str]) -> dict[str, Any]:
    """What tags of Optuna's own callback for MLflow say of a trial, whose run ends well whatever became of it."""
    if KEY_TAG in tags or "state" not in tags or not any(name.endswith("_distribution") for name in tags):
        return {}
    state = _OPTUNA_STATES.get(tags["state"].rpartition(".")[2])
    direction = tags.get("direction", "").rpartition(".")[2].lower()
    return ({} if state is None else {"state": state}) | (
        {"direction": direction} if direction in ("minimize", "maximize") else {}
    )


def _study_of(run: Any, places: _Places) -> _Study:
    tags = run.data.tags
    return places.studies.get(study_of(tags.get(KEY_TAG, "")), _Study(tags.get(STUDY_TAG, ""), None, None))


def _is_trial(run: Any) -> bool:
    is_study = KEY_TAG in run.data.tags and _PARENT_TAG not in run.data.tags
    return bool(run.data.params) and not is_study
