"""What a study was begun with, kept in its storage: a worker that joins it later need not be told again."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.study import Study

from ..envs.conditional_space import ConditionalSpace
from ..envs.errors import MetatunerError, StoreError
from .storages import not_opened, open_storage

_ATTRIBUTE = "metatuner:settings"  # a study's user attribute
_WAIT_S = 3.0
KEPT = (
    "budget", "strategy", "direction", "experiment", "seed", "units", "prior", "metric", "trial_timeout", "isolated",
    "heartbeat",
)  # fmt: skip
"""The arguments of `tune` that all workers of a study share."""


def title_of(objective: object) -> str:
    """What tells objectives apart that have the same name: where a function comes from."""
    kind = objective if hasattr(objective, "__qualname__") else type(objective)
    return f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}"


def described(space: ConditionalSpace | None) -> dict[str, str]:
    """A search space, as JSON of Optuna's by name; nothing where the objective asks for what it wants."""
    return {} if space is None else {name: distribution_to_json(each) for name, each in space.distributions.items()}


def keep_settings(study: Study, settings: dict[str, Any]) -> None:
    """Writes down what a study was begun with, or goes on with."""
    study.set_user_attr(_ATTRIBUTE, settings)


def settings_of(storage: str | Path, name: str) -> dict[str, Any] | None:
    """What a study was begun with; None where there is no such study yet.

    Args:
        storage: Where it lies, as for `tune`.
        name: Its name.

    Raises:
        StoreError: The storage cannot be opened, or the study is not one that `tune` began.
    """
    try:
        opened = open_storage(storage)
        if name not in [study.study_name for study in opened.get_all_studies()]:
            return None
        study = optuna.load_study(study_name=name, storage=opened)
        deadline = time.monotonic() + _WAIT_S
        while _ATTRIBUTE not in study.user_attrs:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"the study {name!r} is there, but nothing says what it was begun with: begin it with `metatuner "
                    "tune`, and join it then"
                )
            time.sleep(0.05)  # it was made a moment ago
        found = study.user_attrs[_ATTRIBUTE]
        if not isinstance(found, dict) or not found.keys() >= set(KEPT):
            raise StoreError(
                f"what the study {name!r} was begun with was altered, or is of another version: give all workers the "
                "same options of `metatuner tune` instead"
            )
        return found
    except MetatunerError:
        raise
    except Exception as error:
        raise not_opened(error) from error
