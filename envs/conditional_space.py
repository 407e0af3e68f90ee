"""Search spaces in which a choice brings hyperparameters of its own: dicts in dicts.

    {
        "lr": FloatDistribution(1e-5, 1e-1, log=True),
        "model": {
            "svm": {"C": FloatDistribution(0.1, 10.0, log=True), "kernel": {"rbf": {"gamma": ...}, "linear": {}}},
            "forest": {"depth": IntDistribution(2, 9)},
        },
    }

A dict in the place of a distribution is a choice of one of its keys, and the hyperparameters of the key that is chosen
are active. A configuration is flat and has what is active: `{"lr": 0.01, "model": "forest", "depth": 3}`. Branches of
one choice may share a name where its values are the same in each: it is one hyperparameter.

As hyperopt's `hp.choice`, but every choice has a name, so that it is a hyperparameter as any other; for conditions on
anything else than equality, as ConfigSpace has them, there are Optuna objectives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from .errors import ConfigurationError, SearchSpaceError

NestedSpace: TypeAlias = "Mapping[str, BaseDistribution | Mapping[Any, NestedSpace]]"
"""From names to Optuna distributions, or to dicts from choices to the spaces that they bring."""

_CHOICES = str | int | float | bool | None
_LARGEST = 2**63
_SHOWN = 20
_DEEPEST = 100
_LONGEST = 500


class ConditionalSpace:
    """A search space, checked.

    Args:
        space: The space as dicts; one without conditions is a dict from names to distributions.

    Attributes:
        nested: The space as it was given.
        distributions: All hyperparameters, whether or not they are active together. A choice is one of categories.
        conditions: In words, when those are active that are not always.
        common: The hyperparameters that are always active.

    Raises:
        SearchSpaceError: The space is wrong.
    """

    def __init__(self, space: NestedSpace) -> None:
        if not isinstance(space, Mapping) or not space:
            raise SearchSpaceError(
                f"expected a dict from names to Optuna distributions, got {_shown(space)}; for an Optuna objective "
                "leave it out"
            )
        self.nested = space
        self.distributions: dict[str, BaseDistribution] = {}
        self.conditions: dict[str, str] = {}
        self._collect(space, "", frozenset(), 0)
        self.common = {name: each for name, each in self.distributions.items() if name not in self.conditions}

    def configuration(self, choose: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
        """One configuration.

        Args:
            choose: Gives the value of each hyperparameter that is active; choices come before what they bring.
        """
        return self._chosen(self.nested, choose)

    def check(self, config: Mapping[str, Any], *, complete: bool = False) -> None:
        """Holds a configuration against the space.

        Args:
            config: The configuration.
            complete: Whether nothing that is active may be left out.

        Raises:
            ConfigurationError: A name is not in the space, a value is not in its distribution, a hyperparameter is not
                active with these choices, or is missing.
        """
        for name, value in config.items():
            self._check_value(name, value)
        active = set(self._active(self.nested, config))
        for name in config:
            if name not in active:
                raise ConfigurationError(
                    f"{name!r} is there only where {self.conditions[name]}: choose so, or leave it out of "
                    f"{dict(config)}"
                )
        if complete and (missing := [name for name in self.distributions if name in active.difference(config)]):
            raise ConfigurationError(
                f"{dict(config)} lacks {', '.join(map(repr, missing))}: give the whole configuration"
            )

    def _check_value(self, name: object, value: object) -> None:
        if not isinstance(name, str) or name not in self.distributions:
            known = list(self.distributions)
            more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
            raise ConfigurationError(f"the space has no {name!r}: expected one of {', '.join(known[:_SHOWN])}{more}")
        distribution = self.distributions[name]
        is_number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
        if not isinstance(distribution, CategoricalDistribution) and not is_number:
            raise ConfigurationError(f"expected a number for {name}, got {value!r}")
        try:
            fits = distribution._contains(distribution.to_internal_repr(value))
        except (ValueError, TypeError, OverflowError):
            fits = False
        if not fits:
            raise ConfigurationError(f"{name}={value!r} is not in {distribution}: give a value that is")

    def _active(self, space: NestedSpace, config: Mapping[str, Any]) -> Iterator[str]:
        for name, each in space.items():
            yield name
            if isinstance(each, Mapping) and name in config:
                yield from self._active(each[config[name]], config)

    def _chosen(self, space: NestedSpace, choose: Callable[[str, BaseDistribution], Any]) -> dict[str, Any]:
        config: dict[str, Any] = {}
        for name, each in space.items():
            config[name] = choose(name, self.distributions[name])
            if isinstance(each, Mapping):
                config |= self._chosen(each[config[name]], choose)
        return config

    def _collect(self, space: NestedSpace, condition: str, taken: frozenset[str], level: int) -> frozenset[str]:
        """Takes in a space, or a branch of it.

        Args:
            space: The space or branch.
            condition: When it is active, in words; empty where always.
            taken: Names that are active with it.
            level: How deep it lies.

        Returns:
            Its names and those that are active with it.
        """
        if level > _DEEPEST:
            raise SearchSpaceError(
                f"the space is more than {_DEEPEST} choices deep, or holds itself: expected choices that end somewhere"
            )
        for name, each in space.items():
            found = _distribution(name, each)
            if name in taken:
                raise SearchSpaceError(f"{name!r} is in the space twice, and both may be active: give one another name")
            if self.distributions.setdefault(name, found) != found:
                raise SearchSpaceError(
                    f"{name!r} is {self.distributions[name]} in one branch and {found} in another: give one another "
                    "name, or both the same values"
                )
            if condition:
                known = self.conditions.get(name)
                self.conditions[name] = f"{known} or {condition}" if known else condition
            taken |= {name}
            if isinstance(each, Mapping):
                branches = [
                    self._collect(_branch(name, choice, branch), f"{name} is {choice!r}", taken, level + 1)
                    for choice, branch in each.items()
                ]
                taken = taken.union(*branches)
        return taken


def _distribution(name: object, each: object) -> BaseDistribution:
    if not isinstance(name, str) or not name or not _is_text(name):
        raise SearchSpaceError(f"expected names of hyperparameters as texts of at least one letter, got {_shown(name)}")
    match each:
        case FloatDistribution() | IntDistribution():
            _check_range(name, each)
            return each
        case CategoricalDistribution():
            _check_choices(name, each.choices)
            return each
        case Mapping():
            _check_choices(name, tuple(each))
            return CategoricalDistribution(tuple(each))
    raise SearchSpaceError(
        f"expected names and Optuna distributions, such as FloatDistribution(0.1, 1.0), got {name!r}: {_shown(each)}"
    )


def _branch(name: str, choice: object, branch: object) -> NestedSpace:
    if not isinstance(branch, Mapping):
        raise SearchSpaceError(
            f"expected a dict with the hyperparameters that {name}={choice!r} brings, or an empty one, got "
            f"{_shown(branch)}"
        )
    return branch


def _check_range(name: str, each: FloatDistribution | IntDistribution) -> None:
    low, high = each.low, each.high
    whole = isinstance(low, int) and isinstance(high, int) and -_LARGEST <= low <= high <= _LARGEST
    if isinstance(each, IntDistribution) and not whole:
        raise SearchSpaceError(
            f"{name!r} goes from {_short(each.low)} to {_short(each.high)}: expected whole numbers between -2**63 and "
            "2**63, from the smaller to the larger; tune the logarithm of larger ones"
        )
    if not (_finite(low) and _finite(high) and low <= high and math.isfinite(float(high) - float(low))):
        raise SearchSpaceError(
            f"{name!r} goes from {_short(low)} to {_short(high)}: expected a finite range, from the smaller to the "
            "larger end"
        )
    if each.log and low <= 0:
        raise SearchSpaceError(f"{name!r} starts at {low} on a logarithmic scale: expected an end above 0")
    if each.step is not None and not (_finite(each.step) and each.step > 0):
        raise SearchSpaceError(f"{name!r} has steps of {_short(each.step)}: expected steps above 0")


def _finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number may be larger than any float
        return False


def _short(number: float) -> str:
    is_long = isinstance(number, int) and abs(number) > _LARGEST
    return f"a number of {int(number).bit_length()} bits" if is_long else str(number)


def _shown(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # whatever its __repr__ raises; what is too deep cannot be shown either
        text = f"something of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _check_choices(name: str, choices: tuple[Any, ...]) -> None:
    if not choices:
        raise SearchSpaceError(f"{name!r} has no choices: expected at least one")
    for choice in choices:
        if not isinstance(choice, _CHOICES) or (isinstance(choice, str) and not _is_text(choice)):
            raise SearchSpaceError(
                f"{name!r} has the choice {_shown(choice)} ({type(choice).__name__}): expected texts, numbers, "
                "booleans or None, which can be stored; give such names, and look up in the objective what they stand "
                "for"
            )
    kinds: dict[Any, Any] = {}
    for choice in choices:
        if type(kinds.setdefault(choice, choice)) is not type(choice):
            raise SearchSpaceError(
                f"{name!r} has the choices {kinds[choice]!r} and {choice!r}, which Python takes for equal, so that no "
                "study can tell them apart: give texts, and look up in the objective what they stand for"
            )


def _is_text(text: str) -> bool:
    """Whether a text can be written to a file: it may have halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
