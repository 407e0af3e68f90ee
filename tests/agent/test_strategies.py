from __future__ import annotations

import optuna
import pytest
from metatuner.agent.strategies import STRATEGIES, Setting, strategy_named
from metatuner.agent.trial_runner import suggest
from metatuner.envs.errors import ConfigurationError
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "depth": IntDistribution(1, 4),
    "kind": CategoricalDistribution(("a", "b")),
}


@pytest.mark.parametrize("name", list(STRATEGIES))
def test_every_strategy_is_made(name: str) -> None:
    past = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    past.optimize(lambda trial: sum(len(str(suggest(trial, key, each))) for key, each in SPACE.items()), n_trials=9)
    sampler, _ = strategy_named(name).make(name, Setting(SPACE, budget=20, seed=3, units=9, past=[past]))
    assert isinstance(sampler, BaseSampler)


def test_what_a_strategy_cannot_do_is_said() -> None:
    with pytest.raises(ConfigurationError, match="expected one of the strategies policy, random"):
        strategy_named("magic")
    with pytest.raises(ConfigurationError, match="give `units`"):
        strategy_named("asha").make("asha", Setting(SPACE, 20, 0))
    with pytest.raises(ConfigurationError, match="know the space beforehand"):
        strategy_named("grid").make("grid", Setting(None, 20, 0))
    with pytest.raises(ConfigurationError, match=r"'n' has 1e\+09: give it fewer"):
        strategy_named("gp").make("gp", Setting({"n": IntDistribution(0, 10**9)}, 20, 0))
