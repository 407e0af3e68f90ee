"""Which hyperparameters matter: trials of a study as Optuna's, so that Optuna can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .study_summary import TrialSummary

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

FEWEST_TRIALS = 8  # fewer say nothing about any hyperparameter
_LOG_SPAN = 10.0


def importances(trials: Sequence[TrialSummary], space: Mapping[str, str], *, maximize: bool) -> dict[str, float]:
    """The share of each hyperparameter in what makes the best tenth of the trials good, the largest first.

    PED-ANOVA (Watanabe, Bansal and Hutter 2023), as Optuna has it: fast, and it needs no model of the objective.
    Hyperparameters that not every trial has, or that never varied, are left out.

    Args:
        trials: Trials with a finite value.
        space: Optuna's distributions as JSON by name, where they are known; others follow from the values.
        maximize: Whether a larger value is better.
    """
    distributions = _comparable(trials, space)
    if not distributions:
        return {}
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(direction="maximize" if maximize else "minimize")
    finally:
        optuna.logging.set_verbosity(verbosity)
    study.add_trials([_optuna_trial(trial, distributions) for trial in trials])
    return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def can_rank(trials: Sequence[TrialSummary]) -> bool:
    """Whether `importances` has anything to say."""
    return bool(_comparable(trials, {}))


def distribution(texts: Sequence[str], given: str | None = None) -> BaseDistribution | None:
    """The distribution that values come from; None where they do not vary.

    Args:
        texts: The values as texts.
        given: What is known of it, as Optuna's JSON. It stands unless a value lies outside.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, json_to_distribution

    if len(set(texts)) < 2:
        return None
    numbers = [_number(text) for text in texts]
    if any(number is None for number in numbers):
        return CategoricalDistribution(sorted(set(texts)))
    finite = [number for number in numbers if number is not None]
    low, high = min(finite), max(finite)
    if low == high:  # the same number, written in several ways
        return None
    if given is not None:
        known = json_to_distribution(given)
        if isinstance(known, CategoricalDistribution):
            return CategoricalDistribution(sorted(set(texts)))
        if all(known._contains(each) for each in finite):
            return known
    return FloatDistribution(low, high, log=low > 0 and high / low >= _LOG_SPAN)


def _comparable(trials: Sequence[TrialSummary], space: Mapping[str, str]) -> dict[str, BaseDistribution]:
    """The hyperparameters that vary and that every trial has; none where there is nothing to compare."""
    if len(trials) < FEWEST_TRIALS:
        return {}
    shared = [name for name in trials[0].params if all(name in trial.params for trial in trials)]
    found = {name: distribution([trial.params[name] for trial in trials], space.get(name)) for name in shared}
    varied = {name: each for name, each in found.items() if each is not None}
    return varied if len(varied) > 1 else {}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _value(text: str, of: BaseDistribution) -> str | float:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(of, CategoricalDistribution):
        return text
    return int(float(text)) if isinstance(of, IntDistribution) else float(text)


def _optuna_trial(trial: TrialSummary, distributions: Mapping[str, BaseDistribution]) -> FrozenTrial:
    from optuna.trial import create_trial

    params = {name: _value(trial.params[name], found) for name, found in distributions.items()}
    return create_trial(params=params, distributions=dict(distributions), value=trial.value)
