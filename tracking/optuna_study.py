"""An Optuna study as records: its storage is the truth that MLflow shows.

The same study gives the same records whenever it is read, so that recording it twice is recording it once. A study of
`tune` has a key of its own; of any other the name and the moment when it began are the key: names of studies in memory,
and in different storages, may be the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..envs.constraints import excess_of
from ..envs.errors import StoreError
from ..envs.records import (
    KEY_ATTRIBUTE,
    MESSAGE_ATTRIBUTE,
    OWNER_ATTRIBUTE,
    VOID_ATTRIBUTE,
    WHY_ATTRIBUTE,
    Metrics,
    Proposal,
    Record,
    StudyStarted,
    TrialConstraints,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from ..envs.study_database import require_no_mlflow_store
from .redaction import one_line, without_credentials

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.study import Study
    from optuna.trial import FrozenTrial

STRATEGY_ATTRIBUTE = "metatuner:strategy"  # a trial's user attribute: who proposed it


def load(storage: str, name: str) -> Study:
    """Opens a study.

    Args:
        storage: A database URL as Optuna takes it, or the path of a journal file.
        name: The study's name.

    Raises:
        StoreError: There is no such storage or no such study in it. Nothing is made.
        ConfigurationError: It is an MLflow store.
    """
    import optuna

    shown = without_credentials(storage)
    for file in _files(storage):
        if not _exists(file):
            raise StoreError(f"there is no study storage {shown}: name an existing one with --storage")
    if "://" in storage and not storage.startswith("grpc://"):
        require_no_mlflow_store(storage)
    try:
        opened = _open(storage)
        names = [study.study_name for study in opened.get_all_studies()]
    except Exception as error:
        raise StoreError(
            f"expected an Optuna storage, such as sqlite:///study.db or a journal file, got {shown}: "
            f"{one_line(error, hide=storage)}"
        ) from error
    if name not in names:
        known = f"expected one of {', '.join(map(repr, sorted(names)[:10]))}" if names else "it has none at all"
        raise StoreError(f"{shown} has no study {name!r}: {known}")
    return optuna.load_study(study_name=name, storage=opened)


def key_of(study: Study) -> str:
    """The study's key: a study of `tune` has one of its own, of any other it is the name with the time of its start."""
    return str(study.user_attrs.get(KEY_ATTRIBUTE) or f"{study.study_name} {_began(study.get_trials(deepcopy=False))}")


def records(study: Study) -> Iterator[Record]:
    """The study's records, trial by trial. A trial that waits has none; one that runs has no end.

    Raises:
        StoreError: The study has several objectives, or was altered.
    """
    if not study.directions:
        raise StoreError(f"the study {study.study_name!r} has no objective: it was altered")
    if len(study.directions) > 1:
        raise StoreError(f"the study {study.study_name!r} has {len(study.directions)} objectives: expected one")
    trials = study.get_trials(deepcopy=False)
    if not all(isinstance(name, str) for trial in trials for name in trial.params):
        raise StoreError(f"the study {study.study_name!r} has hyperparameters whose names are no texts: it was altered")
    if not all(isinstance(kept, dict) for trial in trials for kept in (trial.user_attrs, trial.system_attrs)):
        raise StoreError(f"the study {study.study_name!r} has trials whose attributes are no mappings: it was altered")
    if any(trial.state.is_finished() and trial.values is not None and len(trial.values) != 1 for trial in trials):
        raise StoreError(f"the study {study.study_name!r} has trials with several values, or none: it was altered")
    metric = (study.metric_names or ["objective"])[0]
    space = {name: _json(found) for trial in trials for name, found in trial.distributions.items()}
    yield StudyStarted(
        name=study.study_name,
        key=key_of(study),
        metric=metric,
        direction=study.direction.name.lower(),
        space=space,
        time_ms=_began(trials),
    )
    for trial in trials:
        yield from _trial(trial, metric)


def _json(values: BaseDistribution) -> str:
    """A distribution as Optuna writes it; choices that are objects, such as estimators, as they show themselves."""
    from optuna.distributions import CategoricalDistribution, distribution_to_json

    try:
        return distribution_to_json(values)
    except TypeError:
        assert isinstance(values, CategoricalDistribution)
        return distribution_to_json(CategoricalDistribution([_plain(choice) for choice in values.choices]))


def _plain(choice: object) -> Any:
    return choice if choice is None or isinstance(choice, bool | int | float | str) else repr(choice)


def _began(trials: Sequence[FrozenTrial]) -> int:
    return min((_ms(trial.datetime_start) for trial in trials if trial.datetime_start), default=0)


def _trial(trial: FrozenTrial, metric: str) -> Iterator[Record]:
    if trial.datetime_start is None or VOID_ATTRIBUTE in trial.user_attrs:
        return
    started, ended = _ms(trial.datetime_start), _ms(trial.datetime_complete or trial.datetime_start)
    name = str(trial.user_attrs.get(STRATEGY_ATTRIBUTE, "optuna"))
    yield TrialStarted(trial=trial.number, name=name, params=trial.params, time_ms=started)
    if isinstance(why := trial.user_attrs.get(WHY_ATTRIBUTE), Mapping):
        yield Proposal.kept(trial.number, why, started)
    if excess := excess_of(trial):
        yield TrialConstraints(trial=trial.number, excess=excess, time_ms=started)
    for step, value in sorted(trial.intermediate_values.items()):
        yield Metrics(trial=trial.number, step=step, values={metric: value}, time_ms=ended)
    if (state := _state(trial)) is not None:
        judged = None if state in (TrialState.FAILED, TrialState.KILLED) else trial.value
        # Whoever ends what a dead worker ran may have another clock.
        costs = {"resource/wall_s": (ended - started) / 1000} if ended >= started else {}
        yield TrialFinished(trial=trial.number, state=state, value=judged, costs=costs, time_ms=ended)


def _state(trial: FrozenTrial) -> TrialState | None:
    if trial.state.name == "FAIL" and OWNER_ATTRIBUTE in trial.user_attrs and MESSAGE_ATTRIBUTE not in trial.user_attrs:
        return TrialState.KILLED  # cut off
    states = {"COMPLETE": TrialState.FINISHED, "PRUNED": TrialState.PRUNED, "FAIL": TrialState.FAILED}
    return states.get(trial.state.name)


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _files(storage: str) -> list[Path]:
    """The local file that the storage must have: Optuna would make a new one."""
    if "://" not in storage:
        return [Path(storage)]
    from sqlalchemy import make_url

    try:
        database = make_url(storage).database if storage.startswith("sqlite") else None
    except Exception:  # whoever opens it says what is wrong
        return []
    return [Path(database)] if database else []


def _exists(file: Path) -> bool:
    try:
        return file.exists()
    except OSError:  # such as a name that is too long
        return False


def _open(storage: str) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    return RDBStorage(storage) if "://" in storage else JournalStorage(JournalFileBackend(storage))
