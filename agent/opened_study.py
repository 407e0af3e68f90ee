"""The study of a tuning: found in its storage, or made there, and known by a key."""

from __future__ import annotations

import time
import uuid
from pathlib import Path

import optuna
from optuna.distributions import check_distribution_compatibility
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection

from ..envs.conditional_space import ConditionalSpace
from ..envs.errors import ConfigurationError, MetatunerError, SearchSpaceError, StoreError
from ..envs.records import KEY_ATTRIBUTE
from .storages import not_opened, open_storage

_POLL_S, _KEY_WAIT_S = 0.02, 10.0


def open_study(
    name: str, storage: str | Path | BaseStorage | None, direction: str, *, resume: bool
) -> tuple[Study, bool]:
    """The study of this name, and whether it was made now; one that is not there is made. Arguments as for `tune`.

    Raises:
        ConfigurationError: It is there and should not be, or has the other direction.
        StoreError: The storage cannot be opened, or the study there was altered: it has not one value a
            trial, say.
    """
    aim = StudyDirection[direction.upper()]
    try:
        opened = open_storage(storage) if isinstance(storage, str | Path) else storage
        try:
            study = optuna.create_study(storage=opened, study_name=name, direction=aim)
            return study, True
        except optuna.exceptions.DuplicatedStudyError:
            if not resume or opened is None:
                raise
            study = optuna.load_study(study_name=name, storage=opened)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ConfigurationError(
            f"the storage has a study {name!r} already: give another name, or go on with it (resume=True; on the "
            "command line without --fresh)"
        ) from error
    except MetatunerError:
        raise
    except Exception as error:
        raise not_opened(error) from error
    values = (trial.values for trial in study.get_trials(deepcopy=False))
    if len(study.directions) != 1 or any(each is not None and len(each) != 1 for each in values):
        raise StoreError(f"the study {name!r} has trials with several values, or none: give another name")
    if not all(
        isinstance(kept, dict)
        for each in study.get_trials(deepcopy=False)
        for kept in (each.user_attrs, each.system_attrs)
    ):
        raise StoreError(f"the study {name!r} has trials whose attributes are no mappings: give another name")
    if study.direction is not aim:
        raise ConfigurationError(
            f"the study {name!r} is there, to {study.direction.name.lower()}, and you ask to {direction}: give another "
            "name, or the same direction"
        )
    return study, False


def require_compatible(study: Study, space: ConditionalSpace | None) -> None:
    """Optuna keeps one kind of values for each name of a study."""
    for trial in study.get_trials(deepcopy=False) if space is not None else ():
        for name, before in trial.distributions.items():
            now = space.distributions.get(name, before) if space is not None else before
            try:
                check_distribution_compatibility(before, now)
            except ValueError as error:
                raise SearchSpaceError(
                    f"the study is there, and its trials have {name!r} in {before}; now the space has it in {now}: "
                    "give the study, or this hyperparameter, another name"
                ) from error


def wait_for_key(study: Study) -> None:
    """Another worker may have made the study a moment ago: it says that it leads, and then gives the study its key."""
    deadline = time.monotonic() + _KEY_WAIT_S
    while KEY_ATTRIBUTE not in study.user_attrs:
        if study.get_trials(deepcopy=False) or time.monotonic() > deadline:
            return  # it is a study of Optuna's
        time.sleep(_POLL_S)


def key_of(study: Study) -> str:
    """What tells this study from all others, of the same name too; it is given to one that has none."""
    if KEY_ATTRIBUTE not in study.user_attrs:
        study.set_user_attr(KEY_ATTRIBUTE, uuid.uuid4().hex)
    return str(study.user_attrs[KEY_ATTRIBUTE])
