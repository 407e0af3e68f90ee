"""What a study has before its strategy proposes anything: configurations to try first, and known trials."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from ..envs.conditional_space import ConditionalSpace
from ..envs.errors import ConfigurationError
from ..envs.records import Record, TrialConstraints, TrialFinished, TrialStarted
from .answers import as_number
from .cut_off_trials import GIVEN_ATTRIBUTE
from .purse import KNOWN_ATTRIBUTE
from .trial_runner import Constraints, excess_told

KNOWN = "known"
"""What trials are called in the record that nobody proposed."""

_FIXED = "fixed_params"  # where Optuna keeps what an enqueued trial was given


def enqueue(study: Study, configs: Iterable[Mapping[str, Any]], space: ConditionalSpace | None) -> None:
    """Enqueues configurations, in whole or in part, but none that the study has tried or enqueued already.

    Raises:
        ConfigurationError: One does not fit the space.
    """
    there = {identity(trial.system_attrs.get(_FIXED, trial.params), space) for trial in _trials(study)}
    for config in configs:
        _require_config(config, space)
        if (same := identity(config, space)) not in there:
            study.enqueue_trial(dict(config), user_attrs={GIVEN_ATTRIBUTE: True})
            there.add(same)


def add_known(
    study: Study,
    known: Iterable[tuple[Mapping[str, Any], float]],
    space: ConditionalSpace | None,
    constraints: Constraints | None = None,
) -> Iterator[Record]:
    """Adds trials whose values are known, but none that is there already; yields their records.

    Raises:
        ConfigurationError: One does not fit the space, or is not complete, or its value is no number.
    """
    there = {identity(trial.params, space) for trial in _trials(study) if KNOWN_ATTRIBUTE in trial.user_attrs}
    for each in known:
        config, value = _pair(each)
        if space is None:
            raise ConfigurationError("known trials need a search space: give a dict of distributions")
        _require_config(config, space, complete=True)
        if (same := identity(config, space)) not in there:
            there.add(same)
            excess = {} if constraints is None else excess_told(constraints, config)
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(config),
                    distributions={name: space.distributions[name] for name in config},
                    value=value,
                    user_attrs={KNOWN_ATTRIBUTE: True},
                    constraints=excess or None,
                )
            )
            number = next(t.number for t in reversed(_trials(study)) if identity(t.params, space) == same)
            yield TrialStarted(trial=number, name=KNOWN, params=dict(config))
            if excess:
                yield TrialConstraints(trial=number, excess=excess)
            yield TrialFinished(trial=number, value=value)


def _trials(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)


def _pair(known: object) -> tuple[Mapping[str, Any], float]:
    if not isinstance(known, tuple | list) or len(known) != 2:
        raise ConfigurationError(f"expected known trials as pairs of a configuration and its value, got {known!r}")
    value = as_number(known[1])
    if isinstance(value, str):
        raise ConfigurationError(f"expected the value of the known trial {known[0]!r} to be a number, got {known[1]!r}")
    return known[0], value


def _require_config(config: object, space: ConditionalSpace | None, *, complete: bool = False) -> None:
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"expected a configuration as a dict, got {config!r}")
    if space is not None:
        space.check(config, complete=complete)
    elif not all(isinstance(name, str) for name in config):
        raise ConfigurationError(f"expected a configuration as a dict from names to values, got {config!r}")


def identity(config: Mapping[str, Any], space: ConditionalSpace | None) -> frozenset[tuple[str, object]]:
    """What two configurations have in common that are the same."""
    return frozenset((name, _value(name, value, space)) for name, value in config.items())


def _value(name: str, value: Any, space: ConditionalSpace | None) -> object:
    distribution = None if space is None else space.distributions.get(name)
    try:
        return repr(value) if distribution is None else distribution.to_internal_repr(value)
    except (ValueError, TypeError):  # an earlier space of this study had it
        return repr(value)
