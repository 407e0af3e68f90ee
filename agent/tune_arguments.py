"""What the arguments of `tune` must be: a table of checks, and lists that may be any iterable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study

from ..envs.errors import ConfigurationError
from ..envs.records import Recorder
from .arguments import require_count, require_kind, require_objective, require_seconds, require_seed

_Check = Callable[[str, object], None]
_NONE = type(None)


def require_arguments(arguments: Mapping[str, object]) -> None:
    """Checks the arguments of `tune`, by name.

    Raises:
        ConfigurationError: One of them is wrong.
    """
    for name, check in _CHECKS.items():
        check(name, arguments[name])


def listed(name: str, values: object) -> list[Any]:
    """A list of what is given, which may be any iterable but a text or a dict.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise ConfigurationError(f"expected {name} as a list, got {values!r}")
    return list(values)


def _kind(expected: str, *kinds: Any) -> _Check:
    return lambda name, value: require_kind(name, value, kinds, expected)


def _count_or_none(name: str, value: object) -> None:
    if value is not None:
        require_count(name, value)


def _direction(name: str, value: object) -> None:
    if value not in ("minimize", "maximize"):
        raise ConfigurationError(f"expected the {name} minimize or maximize, got {value!r}")


def _words(name: str, value: object) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"expected {name} to be a text that is not empty, got {value!r}")


def _studies(name: str, value: object) -> None:
    for each in listed(name, value):
        require_kind(name, each, Study, "a list of Optuna studies")


_CHECKS: Mapping[str, _Check] = {
    "budget": require_count,
    "n_workers": require_count,
    "most_paused": require_count,
    "units": _count_or_none,
    "objective": lambda _, value: require_objective(value),
    "direction": _direction,
    "strategy": _kind("a name or an Optuna sampler", str, BaseSampler),
    "pruner": _kind("an Optuna pruner or None", BasePruner, _NONE),
    "storage": _kind("a path, an address, an Optuna storage or None", str, Path, BaseStorage, _NONE),
    "recorder": _kind("a recorder, with a method `record`, or None", Recorder, _NONE),
    "constraints": _kind("a function or None", Callable, _NONE),
    "progress": _kind("a function or None", Callable, _NONE),
    "experiment": _words,
    "metric": _words,
    "name": _kind("a text or None", str, _NONE),
    "tracking_uri": _kind("a text or None", str, _NONE),
    "tags": _kind("a dict from names to texts, or None", Mapping, _NONE),
    "past": _studies,
    "seed": lambda _, value: require_seed(value),
    "timeout": require_seconds,
    "trial_timeout": require_seconds,
    "heartbeat": require_seconds,
    "folder": _kind("a folder's path", str, Path),
}
