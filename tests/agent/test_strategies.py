from __future__ import annotations

import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metatuner.agent.strategies import STRATEGIES, Setting, grid_points, strategy_named
from metatuner.agent.trial_runner import suggest
from metatuner.envs.errors import ConfigurationError
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "depth": IntDistribution(1, 4),
    "kind": CategoricalDistribution(("a", "b")),
}

distributions = st.one_of(
    st.builds(lambda low, wide: FloatDistribution(low, low + wide), st.floats(-1e3, 1e3), st.floats(0, 1e3)),
    st.builds(lambda low, wide: FloatDistribution(low, low * wide, log=True), st.floats(1e-9, 1e3), st.floats(1, 1e6)),
    st.builds(
        lambda low, steps: FloatDistribution(low / 4, (low + steps) / 4, step=0.25),
        st.integers(-9, 9),
        st.integers(0, 50),
    ),
    st.builds(lambda low, wide: IntDistribution(low, low + wide), st.integers(-99, 99), st.integers(0, 999)),
    st.builds(lambda low, wide: IntDistribution(low, low + wide, log=True), st.integers(1, 99), st.integers(0, 999)),
    st.builds(lambda n: CategoricalDistribution(tuple(range(n))), st.integers(1, 5)),
)


@given(st.dictionaries(st.text(max_size=3), distributions, min_size=1, max_size=4), st.integers(1, 200))
def test_a_grid_fits_the_budget_where_two_values_each_do(space: dict[str, BaseDistribution], budget: int) -> None:
    grid = grid_points(space, budget)
    assert list(grid) == list(space)
    for name, values in grid.items():
        assert len(values) == len(set(values)) >= 1
        for value in values:
            assert space[name]._contains(space[name].to_internal_repr(value))
    coarsest = math.prod(
        len(each.choices) if isinstance(each, CategoricalDistribution) else 2 for each in space.values()
    )
    assert math.prod(map(len, grid.values())) <= max(budget, coarsest)


def test_a_grid_is_evenly_spaced_on_the_scale_of_each_hyperparameter() -> None:
    grid = grid_points(SPACE, 30)
    assert grid["kind"] == ["a", "b"]
    assert grid["depth"] == [1, 3, 4]
    assert grid["lr"] == pytest.approx([1e-5, 1e-3, 1e-1])
    assert math.prod(map(len, grid_points(SPACE, 1000).values())) == 4 * 2 * 125


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
