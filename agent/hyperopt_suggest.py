"""The learned search as an algorithm of hyperopt: `fmin(..., algo=metatuner.hyperopt_suggest)`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from ..envs.errors import SearchSpaceError
from .policy_sampler import PolicySampler
from .quiet import quiet_optuna
from .search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy

_WIDE = 3.0  # standard deviations that stand for the whole of a normal distribution


def hyperopt_suggest(
    new_ids: Sequence[int],
    domain: Any,
    trials: Any,
    seed: int,
    *,
    policy: str | Path | SearchPolicy = DEFAULT_SEARCH_POLICY,
    past: Sequence[Study] = (),
) -> list[Any]:
    """Proposes trials as a learned policy would.

    It learns from all of the trials that are done, whoever proposed them. `functools.partial` gives it more than what
    hyperopt does. Distributions without ends count as three
    standard deviations wide, and the probabilities of `hp.pchoice` are not used: what was tried tells more.

    Example:
        >>> import metatuner as mt
        >>> import numpy as np
        >>> from hyperopt import Trials, fmin, hp
        >>> space, generator = {"x": hp.uniform("x", -5, 5)}, np.random.default_rng(0)
        >>> options = {"max_evals": 12, "trials": Trials(), "rstate": generator, "show_progressbar": False}
        >>> best = fmin(lambda config: (config["x"] - 2) ** 2, space, algo=mt.hyperopt_suggest, **options)
        >>> round(best["x"])
        2

    Args:
        new_ids: Ids of the trials to propose.
        domain: hyperopt's, of the objective and its space.
        trials: hyperopt's, so far.
        seed: hyperopt's; the first one of a search tells its seed.
        policy: A policy, a shipped one's name, a folder, or an address.
        past: Optuna studies of past tasks, whose hyperparameters have at least half of the labels of this space.

    Returns:
        hyperopt's documents of new trials.

    Raises:
        SearchSpaceError: A distribution is not known.
        PolicyError: The policy cannot be used.
    """
    from hyperopt.base import miscs_update_idxs_vals

    mirror = _mirrors.get(trials)
    if mirror is None:
        mirror = _mirrors[trials] = _Mirror(domain, policy, past, seed)
    mirror.catch_up(trials)
    documents: list[Any] = []
    for new_id in new_ids:
        values = mirror.ask(new_id)
        misc = {"tid": new_id, "cmd": domain.cmd, "workdir": domain.workdir}
        idxs = {label: [new_id] if label in values else [] for label in mirror.labels}
        vals = {label: [values[label]] if label in values else [] for label in mirror.labels}
        miscs_update_idxs_vals([misc], idxs, vals)
        documents.extend(trials.new_trial_docs([new_id], [None], [domain.new_result()], [misc]))
    return documents


@dataclass(frozen=True)
class _Label:
    """A hyperparameter of hyperopt's.

    Attributes:
        distribution: The same as Optuna's.
        quantum: What values are rounded to multiples of; None leaves them.
    """

    distribution: BaseDistribution
    quantum: float | None = None

    def value(self, found: Any) -> Any:
        """The value as hyperopt's."""
        return found if self.quantum is None else round(found / self.quantum) * self.quantum


@dataclass
class _Mirror:
    """An Optuna study beside hyperopt's trials."""

    domain: Any
    policy: str | Path | SearchPolicy
    past: Sequence[Study]
    seed: int
    _asked: dict[int, int] = field(default_factory=dict)  # hyperopt's id: Optuna's number
    _told: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._expression = self.domain.expr
        self.labels = {label: _translated(label, node) for label, node in _parameters(self._expression)}
        self._space = {label: each.distribution for label, each in self.labels.items()}
        sampler = PolicySampler(self.policy, past=self.past, space=self._space, seed=self.seed)
        with quiet_optuna():
            self._study = optuna.create_study(sampler=sampler)

    def ask(self, new_id: int) -> dict[str, Any]:
        """Values of those hyperparameters that count, by label."""
        with quiet_optuna():
            trial = self._study.ask(self._space)
        self._asked[new_id] = trial.number
        values = {label: each.value(trial.params[label]) for label, each in self.labels.items()}
        return {label: values[label] for label in _active(self._expression, values)}

    def catch_up(self, trials: Any) -> None:
        """Learns from the trials that have ended since."""
        from hyperopt import JOB_STATE_DONE, JOB_STATE_ERROR

        with quiet_optuna():
            for document in trials.trials[len(self._told) :] if self._in_order(trials) else trials.trials:
                if document["tid"] in self._told or document["state"] not in (JOB_STATE_DONE, JOB_STATE_ERROR):
                    continue
                self._told.add(document["tid"])
                self._tell(document)

    def _in_order(self, trials: Any) -> bool:
        """Whether all trials before the first one that is not told were told: so it is where one follows the other."""
        told = len(self._told)
        return told == 0 or (len(trials.trials) >= told and trials.trials[told - 1]["tid"] in self._told)

    def _tell(self, document: Mapping[str, Any]) -> None:
        loss = document["result"].get("loss")
        failed = document["result"].get("status") != "ok" or loss is None or not math.isfinite(loss)
        state = TrialState.FAIL if failed else TrialState.COMPLETE
        value = None if failed else float(loss)
        if document["tid"] in self._asked:
            self._study.tell(self._asked[document["tid"]], value, state=state)
            return
        found = {label: values[0] for label, values in document["misc"]["vals"].items() if len(values)}
        params = {
            label: _nearest(each, found[label]) if label in found else _middle(each)
            for label, each in self._space.items()
        }
        self._study.add_trial(create_trial(state=state, value=value, params=params, distributions=self._space))


_mirrors: weakref.WeakKeyDictionary[Any, _Mirror] = weakref.WeakKeyDictionary()


def _parameters(node: Any) -> Iterator[tuple[str, Any]]:
    """Labels with the nodes of their distributions, in an expression of hyperopt's."""
    seen: set[str] = set()
    for each in _all_nodes(node):
        if each.name == "hyperopt_param" and each.pos_args[0].obj not in seen:
            seen.add(each.pos_args[0].obj)
            yield each.pos_args[0].obj, each.pos_args[1]


def _all_nodes(node: Any) -> Iterator[Any]:
    yield node
    for each in node.inputs():
        yield from _all_nodes(each)


def _active(node: Any, values: Mapping[str, Any]) -> set[str]:
    """Labels of the hyperparameters that an expression asks for: of a choice's branches the chosen one alone."""
    if node.name == "hyperopt_param":
        return {node.pos_args[0].obj}
    inputs = list(node.inputs())
    if node.name == "switch":
        chooser = inputs[0]
        label = next(each.pos_args[0].obj for each in _all_nodes(chooser) if each.name == "hyperopt_param")
        inputs = [chooser, inputs[1 + int(values[label])]]
    return set().union(*(_active(each, values) for each in inputs))


def _translated(label: str, node: Any) -> _Label:
    """Hyperopt's distribution as Optuna's."""
    if node.name == "categorical":
        return _Label(CategoricalDistribution(list(range(len(node.pos_args[0].pos_args)))))
    given = [float(each.obj) for each in node.pos_args]
    given += [float(each.obj) for _, each in node.named_args]
    match node.name, given:
        case "randint", [high]:
            return _Label(CategoricalDistribution(list(range(int(high)))))
        case "randint", [low, high]:
            return _Label(IntDistribution(int(low), int(high) - 1))
        case "uniform", [low, high]:
            return _Label(FloatDistribution(low, high))
        case "loguniform", [low, high]:
            return _Label(FloatDistribution(math.exp(low), math.exp(high), log=True))
        case "normal", [mean, std]:
            return _Label(FloatDistribution(mean - _WIDE * std, mean + _WIDE * std))
        case "lognormal", [mean, std]:
            return _Label(FloatDistribution(math.exp(mean - _WIDE * std), math.exp(mean + _WIDE * std), log=True))
        case (("quniform" | "uniformint"), [low, high, *quantum]):
            return _Label(FloatDistribution(low, high), quantum[0] if quantum else 1.0)
        case "qloguniform", [low, high, quantum]:
            return _Label(FloatDistribution(math.exp(low), math.exp(high), log=True), quantum)
        case "qnormal", [mean, std, quantum]:
            return _Label(FloatDistribution(mean - _WIDE * std, mean + _WIDE * std), quantum)
        case "qlognormal", [mean, std, quantum]:
            low, high = math.exp(mean - _WIDE * std), math.exp(mean + _WIDE * std)
            return _Label(FloatDistribution(low, high, log=True), quantum)
    raise SearchSpaceError(
        f"expected one of hyperopt's own distributions, of numbers, for {label!r}, got {node.name} of {given}"
    )


def _nearest(distribution: BaseDistribution, value: Any) -> Any:
    """The value, within the distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return int(value)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    clipped = float(np.clip(value, distribution.low, distribution.high))
    return round(clipped) if isinstance(distribution, IntDistribution) else clipped


def _middle(distribution: BaseDistribution) -> Any:
    """A value for a hyperparameter that a trial did not ask for."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    return _nearest(distribution, math.sqrt(low * high) if distribution.log else (low + high) / 2)
