"""The learned search as an algorithm of hyperopt: `fmin(..., algo=metatuner.hyperopt_suggest)`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState, create_trial

from ..envs.hyperopt_documents import ended_trials
from .hyperopt_labels import active, labels_of
from .policy_sampler import PolicySampler
from .quiet import quiet_optuna
from .search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy


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

    It learns from all of the trials that are done, whoever proposed them; those whose values are out of this space are
    left out. `functools.partial` gives it more than what hyperopt does. Distributions without ends count as three
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
    if mirror is None or not mirror.is_of(domain, policy, past):
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
        self.labels = labels_of(self.domain.expr)
        self._space = {label: each.distribution for label, each in self.labels.items()}
        sampler = PolicySampler(self.policy, past=self.past, space=self._space, seed=self.seed)
        with quiet_optuna():
            self._study = optuna.create_study(sampler=sampler)

    def is_of(self, domain: Any, policy: str | Path | SearchPolicy, past: Sequence[Study]) -> bool:
        """Whether it is this search still: another `fmin` may go on with the same trials."""
        return self.domain is domain and self.policy == policy and list(self.past) == list(past)

    def ask(self, new_id: int) -> dict[str, Any]:
        """Values of those hyperparameters that count, by label."""
        with quiet_optuna():
            trial = self._study.ask(self._space)
        self._asked[new_id] = trial.number
        values = {label: each.value(trial.params[label]) for label, each in self.labels.items()}
        return {label: values[label] for label in active(self.domain.expr, values)}

    def catch_up(self, trials: Any) -> None:
        """Learns from the trials that have ended since."""
        with quiet_optuna():
            for document in ended_trials(trials):
                if document["tid"] not in self._told:
                    self._told.add(document["tid"])
                    self._tell(document)

    def _tell(self, document: Mapping[str, Any]) -> None:
        loss = document["result"].get("loss")
        failed = document["result"].get("status") != "ok" or loss is None or not math.isfinite(loss)
        state = TrialState.FAIL if failed else TrialState.COMPLETE
        value = None if failed else float(loss)
        if document["tid"] in self._asked:
            self._study.tell(self._asked[document["tid"]], value, state=state)
            return
        given = document["misc"]["vals"]
        if not self.labels.keys() <= given.keys():
            return  # of another space, which had fewer
        params = {
            label: each.found(given[label][0]) if len(given[label]) else each.middle
            for label, each in self.labels.items()
        }
        if None not in params.values():
            self._study.add_trial(create_trial(state=state, value=value, params=params, distributions=self._space))


_mirrors: weakref.WeakKeyDictionary[Any, _Mirror] = weakref.WeakKeyDictionary()
