"""hyperopt's tree-structured Parzen estimator as an Optuna sampler."""

from __future__ import annotations

import math
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial

from .joint_sampler import JointSampler, finished_trials, loss


class HyperoptSampler(JointSampler):
    """Proposes what `hyperopt.tpe.suggest` does (Bergstra et al. 2011), with its defaults: 20 random trials first.

    It is told all finished trials anew each time, failed and stopped ones as failed: a study that is resumed goes on as
    if it had not been interrupted. Trials that still run are unknown to it.
    """

    def _propose(self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        # It takes a second to load.
        from hyperopt import Domain, Trials, tpe

        domain = Domain(None, {name: _prior(name, each) for name, each in space.items()})
        past = Trials()
        past.insert_trial_docs([_document(study, each, space) for each in finished_trials(study, space)])
        past.refresh()
        (found,) = tpe.suggest([trial.number], domain, past, self._seed_of(trial, "hyperopt"), verbose=False)
        values = found["misc"]["vals"]
        return {name: _from_hyperopt(each, values[name][0]) for name, each in space.items()}


# Categories and steps are numbered for hyperopt: its own steps are multiples of their size, wherever the range begins.


def _prior(name: str, distribution: BaseDistribution) -> Any:
    """A distribution as hyperopt's."""
    from hyperopt import hp

    if isinstance(distribution, CategoricalDistribution):
        return hp.choice(name, range(len(distribution.choices)))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high, step = distribution.low, distribution.high, distribution.step
    # Where values are rounded, half a step more at either end makes the ends as likely as all others.
    if distribution.log and step is not None:
        return hp.qloguniform(name, math.log(low - step / 2), math.log(high + step / 2), step)
    if distribution.log:
        return hp.loguniform(name, math.log(low), math.log(high))
    if step is None:
        return hp.uniform(name, low, high)
    return hp.quniform(name, -0.5, round((high - low) / step) + 0.5, 1)


def _to_hyperopt(distribution: BaseDistribution, value: Any) -> float:
    """A value as hyperopt's."""
    if isinstance(distribution, CategoricalDistribution):
        return int(distribution.to_internal_repr(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if distribution.log or distribution.step is None:
        return float(value)
    return float(round((value - distribution.low) / distribution.step))


def _from_hyperopt(distribution: BaseDistribution, value: float) -> Any:
    """A value of hyperopt's as it is here."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.to_external_repr(int(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not distribution.log and distribution.step is not None:
        value = distribution.low + round(value) * distribution.step
    # Logarithms and sums may end a little outside.
    inside = min(max(value, distribution.low), distribution.high)
    return int(inside) if isinstance(distribution, IntDistribution) else float(inside)


def _document(study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
    """A finished trial as hyperopt keeps it."""
    from hyperopt import JOB_STATE_DONE, STATUS_FAIL, STATUS_OK

    value = loss(study, trial.state, trial.value)
    return {
        "tid": trial.number,
        "state": JOB_STATE_DONE,
        "result": {"status": STATUS_FAIL} if value == math.inf else {"status": STATUS_OK, "loss": value},
        "misc": {
            "tid": trial.number,
            "idxs": {name: [trial.number] for name in space},
            "vals": {name: [_to_hyperopt(each, trial.params[name])] for name, each in space.items()},
            "cmd": None,
        },
        **dict.fromkeys(("spec", "exp_key", "owner", "book_time", "refresh_time")),
    }
