"""The hyperparameters of hyperopt's spaces, by label, as Optuna's: a guest of `fmin` reads them off its expression."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ..envs.errors import SearchSpaceError

_WIDE = 3.0  # standard deviations that stand for the whole of a normal distribution
_FEW = 20  # integers that are told apart as the options of a choice are: `hp.randint` says nothing of their order


@dataclass(frozen=True)
class Label:
    """A hyperparameter of hyperopt's.

    Attributes:
        distribution: The same as Optuna's: of the value, or of how many quanta it is.
        quantum: What values are multiples of; None where they are not.
        least: How many quanta the distribution's 0 is: logarithms need integers from 1 on.
        endless: Whether hyperopt may draw a value beyond the distribution's ends.
    """

    distribution: BaseDistribution
    quantum: float | None = None
    least: int = 0
    endless: bool = False

    def value(self, found: Any) -> Any:
        """Optuna's value as hyperopt's."""
        return found if self.quantum is None else (found + self.least) * self.quantum

    def found(self, value: Any) -> Any:
        """Hyperopt's value as Optuna's; None where it is out of the distribution."""
        if isinstance(self.distribution, CategoricalDistribution):
            return int(value) if int(value) in self.distribution.choices else None
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        found = float(value) if self.quantum is None else float(round(value / self.quantum) - self.least)
        if not self.distribution.low <= found <= self.distribution.high:
            if not self.endless:
                return None
            found = min(max(found, float(self.distribution.low)), float(self.distribution.high))
        return int(found) if isinstance(self.distribution, IntDistribution) else found

    @property
    def middle(self) -> Any:
        """Optuna's value for a trial that did not ask for the hyperparameter."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.distribution.choices[0]
        assert isinstance(self.distribution, FloatDistribution | IntDistribution)
        low, high = float(self.distribution.low), float(self.distribution.high)
        middle = math.sqrt(low * high) if self.distribution.log else (low + high) / 2
        return round(middle) if isinstance(self.distribution, IntDistribution) else middle


def labels_of(expression: Any) -> dict[str, Label]:
    """The hyperparameters of an expression of hyperopt's.

    Raises:
        SearchSpaceError: A distribution is not known.
    """
    nodes = list(_all_nodes(expression))
    choosers = {_label_in(next(iter(each.inputs()))) for each in nodes if each.name == "switch"}
    found: dict[str, Label] = {}
    for each in nodes:
        if each.name == "hyperopt_param" and (label := each.pos_args[0].obj) not in found:
            found[label] = _translated(label, each.pos_args[1], chooses=label in choosers)
    return found


def active(expression: Any, values: Mapping[str, Any]) -> set[str]:
    """Labels of the hyperparameters that an expression asks for: of a choice's branches the chosen one alone."""
    if expression.name == "hyperopt_param":
        return {expression.pos_args[0].obj}
    inputs = list(expression.inputs())
    if expression.name == "switch":
        chooser = inputs[0]
        inputs = [chooser, inputs[1 + int(values[_label_in(chooser)])]]
    return set().union(*(active(each, values) for each in inputs))


def _all_nodes(node: Any) -> Iterator[Any]:
    yield node
    for each in node.inputs():
        yield from _all_nodes(each)


def _label_in(chooser: Any) -> str:
    return str(next(each.pos_args[0].obj for each in _all_nodes(chooser) if each.name == "hyperopt_param"))


def _translated(label: str, node: Any, *, chooses: bool) -> Label:
    """Hyperopt's distribution as Optuna's."""
    if node.name == "categorical":
        return Label(CategoricalDistribution(list(range(len(node.pos_args[0].pos_args)))))
    # By name: hyperopt sorts arguments that are given by name by the alphabet.
    given = {name: float(each.obj) for name, each in node.arg.items() if getattr(each, "obj", None) is not None}
    given.pop("size", None)
    match node.name, given:
        case "randint", {"low": low, "high": high}:
            return Label(IntDistribution(int(low), int(high) - 1))
        case "randint", {"low": count} if chooses or count <= _FEW:
            return Label(CategoricalDistribution(list(range(int(count)))))
        case "randint", {"low": count}:
            return Label(IntDistribution(0, int(count) - 1))
        case (("uniform" | "quniform"), {"low": low, "high": high}):
            return _between(low, high, given.get("q"))
        case (("loguniform" | "qloguniform"), {"low": low, "high": high}):
            return _between(math.exp(low), math.exp(high), given.get("q"), log=True)
        case (("normal" | "qnormal"), {"mu": mean, "sigma": std}):
            return _between(mean - _WIDE * std, mean + _WIDE * std, given.get("q"), endless=True)
        case (("lognormal" | "qlognormal"), {"mu": mean, "sigma": std}):
            low, high = math.exp(mean - _WIDE * std), math.exp(mean + _WIDE * std)
            return _between(low, high, given.get("q"), log=True, endless=True)
    raise SearchSpaceError(
        f"expected one of hyperopt's own distributions, of numbers, for {label!r}, got {node.name} of {given}"
    )


def _between(low: float, high: float, quantum: float | None, *, log: bool = False, endless: bool = False) -> Label:
    if quantum is None:
        return Label(FloatDistribution(low, high, log=log), endless=endless)
    least, most = round(low / quantum), round(high / quantum)
    shift = least - 1 if log and least < 1 else 0
    return Label(IntDistribution(least - shift, most - shift, log=log), quantum, shift, endless)
