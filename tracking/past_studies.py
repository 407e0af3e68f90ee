"""Past runs of MLflow as Optuna studies: what `tune` takes for past tasks.

Every study that metatuner recorded is a task; so are, together, the other runs of an experiment, whoever logged them. A
run counts where it has all hyperparameters of the search space, each within its range.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..envs.errors import StoreError
from ..envs.records import TrialState
from .history import PastTrial, read_history
from .operations import VALUE_METRIC

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial

_log = logging.getLogger(__name__)


def past_studies(
    experiments: str,
    space: Mapping[str, BaseDistribution],
    *,
    metric: str = "objective",
    direction: str = "minimize",
    tracking_uri: str | None = None,
    without: str | None = None,
) -> list[Study]:
    """Past runs as studies in memory, one a task.

    Args:
        experiments: An experiment's name, or a regular expression for whole names.
        space: The search space: Optuna's distributions by name.
        metric: What runs were judged by; its curve is read too.
        direction: "minimize" or "maximize".
        tracking_uri: The store, as for `MLflowRecorder`.
        without: The name of a study that is left out, such as the one that is to be tuned.

    Raises:
        UnknownExperimentError: No experiment has such a name.
        StoreError: The store cannot be used, or no run has the search space's hyperparameters and the metric.
    """
    import optuna

    tasks: dict[str, list[FrozenTrial]] = defaultdict(list)
    read = 0
    for past in read_history(experiments, with_curves=[metric], tracking_uri=tracking_uri):
        if past.state is None or past.study == without is not None:
            continue
        read += 1
        if (trial := _trial(past, space, metric)) is not None:
            tasks[past.study or past.experiment].append(trial)
    matched = sum(map(len, tasks.values()))
    if not matched:
        raise StoreError(
            f"none of the {read} past runs of {experiments!r} has a value of {metric!r} and all of "
            f"{', '.join(space)} within their ranges: name another experiment, or another metric"
        )
    _log.info("%d of %d past runs have this search space: %d tasks (%s)", matched, read, len(tasks), ", ".join(tasks))
    studies = []
    for name, trials in tasks.items():
        study = optuna.create_study(study_name=name, direction=optuna.study.StudyDirection[direction.upper()])
        study.add_trials(trials)
        studies.append(study)
    return studies


def _trial(past: PastTrial, space: Mapping[str, BaseDistribution], metric: str) -> FrozenTrial | None:
    """A run as a trial; None where it does not fit the search space, or tells no value."""
    import optuna

    config = {name: _value(past.params.get(name), distribution) for name, distribution in space.items()}
    value = past.metrics.get(VALUE_METRIC if past.study else metric, math.nan)
    curve = {step: each for step, each in past.curves.get(metric, {}).items() if math.isfinite(each)}
    failed = past.state is TrialState.FAILED
    pruned = past.state is TrialState.PRUNED
    if None in config.values() or past.state is TrialState.KILLED:
        return None
    if not failed and not (curve if pruned else math.isfinite(value)):
        return None
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.FAIL if failed else states.PRUNED if pruned else states.COMPLETE,
        params=config,
        distributions=dict(space),
        value=None if failed or pruned else value,
        intermediate_values=curve,
    )


def _value(text: str | None, distribution: BaseDistribution) -> Any:
    """A hyperparameter's value from its text; None where it has none within its range."""
    from optuna.distributions import CategoricalDistribution

    if text is None:
        return None
    if isinstance(distribution, CategoricalDistribution):
        return next((choice for choice in distribution.choices if str(choice) == text), None)
    try:
        internal = float(text)
    except ValueError:
        return None
    return distribution.to_external_repr(internal) if distribution._contains(internal) else None
