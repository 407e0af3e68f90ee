from __future__ import annotations

import functools
import importlib.util
import math
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metatuner.agent.hyperopt_sampler import HyperoptSampler
from metatuner.agent.pymoo_sampler import PymooSampler
from metatuner.agent.strategies import Setting, strategy_named
from metatuner.agent.tabu_sampler import TabuSampler
from metatuner.agent.tune import tune
from metatuner.envs.errors import ConfigurationError, MissingPackageError
from metatuner.envs.records import NullRecorder
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import TrialState

SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "pso": lambda seed: PymooSampler("pso", population=6, seed=seed),
    "de": lambda seed: PymooSampler("de", population=6, seed=seed),
    "tabu": lambda seed: TabuSampler(seed=seed),
    "hyperopt-tpe": lambda seed: HyperoptSampler(seed=seed),
}
SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(-2.0, 2.0),
    "y": FloatDistribution(1e-5, 1.0, log=True),
    "z": FloatDistribution(0.0, 10.0),
}
MIXED: dict[str, BaseDistribution] = {
    **SPACE,
    "n": IntDistribution(1, 64, log=True),
    "step": FloatDistribution(0.5, 3.0, step=0.5),
    "kind": CategoricalDistribution(("a", None, 3)),
    "one": IntDistribution(2, 2),
}

# hyperopt's estimator goes on exploring for many more trials than these tests have.
every_local_search = pytest.mark.parametrize("name", ["pso", "de", "tabu"])
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def bowl(config: dict[str, Any]) -> float:
    """Between 0 at x = 0.3, y = 0.01, z = 4.2 and about 7."""
    return (config["x"] - 0.3) ** 2 + (math.log10(config["y"]) + 2.0) ** 2 / 9 + (config["z"] - 4.2) ** 2 / 25


def mixed_bowl(config: dict[str, Any]) -> float:
    return bowl(config) + abs(math.log(config["n"] / 8)) + abs(config["step"] - 2.0) + (config["kind"] is not None)


def study_of(name: str, seed: int = 0, **options: Any) -> optuna.Study:
    return optuna.create_study(sampler=SAMPLERS[name](seed), **options)


def proposals(
    study: optuna.Study,
    n: int,
    objective: Callable[[dict[str, Any]], float] = bowl,
    space: dict[str, BaseDistribution] = SPACE,
) -> list[dict[str, Any]]:
    """What is proposed for the next trials; NaN is a failed one."""
    proposed = []
    for _ in range(n):
        trial = study.ask(space)
        value = objective(trial.params)
        study.tell(trial, **({"state": TrialState.FAIL} if math.isnan(value) else {"values": value}))
        proposed.append(trial.params)
    return proposed


class TestOptunaConformance(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=SAMPLERS)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return lambda: SAMPLERS[request.param](0)


@functools.cache
def median_of_best(strategy: str) -> float:
    return statistics.median(
        tune(bowl, SPACE, 60, strategy=strategy, seed=seed, recorder=NullRecorder()).best_value for seed in range(5)
    )


@every_sampler
def test_better_than_random_search_on_a_smooth_function(name: str) -> None:
    assert median_of_best(name) < 0.8 * median_of_best("random")


@every_sampler
def test_workers_do_not_spoil_it(name: str) -> None:
    values = []
    for seed in range(5):
        study = study_of(name, seed)
        running: list[optuna.Trial] = []
        for _ in range(60):
            running.append(study.ask(SPACE))
            if len(running) == 4:
                # The newest first: some values come long after their generation has passed.
                trial = running.pop(-1 if len(study.trials) % 10 else 0)
                study.tell(trial, bowl(trial.params))
        values.append(study.best_value)
    assert statistics.median(values) < 0.8 * median_of_best("random")


@every_sampler
def test_workers_are_threads(name: str) -> None:
    result = tune(mixed_bowl, MIXED, 40, strategy=name, n_workers=4, recorder=NullRecorder())
    assert [trial.state for trial in result.trials] == [TrialState.COMPLETE] * 40


@every_sampler
def test_proposals_follow_from_the_seed(name: str) -> None:
    first, again, other = (proposals(study_of(name, seed), 40, mixed_bowl, MIXED) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@every_sampler
def test_to_maximize_is_to_minimize_the_negative(name: str) -> None:
    negative = proposals(study_of(name, direction="maximize"), 40, lambda config: -mixed_bowl(config), MIXED)
    assert negative == proposals(study_of(name), 40, mixed_bowl, MIXED)


widths = st.just(0.0) | st.floats(1e-3, 1e3)
numbers = st.one_of(
    st.builds(lambda low, wide: FloatDistribution(low, low + wide), st.floats(-1e3, 1e3), widths),
    st.builds(lambda low, wide: FloatDistribution(low, low * wide, log=True), st.floats(1e-9, 1e3), st.floats(1, 1e6)),
    st.builds(
        lambda low, steps: FloatDistribution(low / 10, (low + steps) / 10, step=0.1),
        st.integers(-9, 9),
        st.integers(0, 50),
    ),
    st.builds(
        lambda low, steps, step: IntDistribution(low, low + steps * step, step=step),
        st.integers(-99, 99),
        st.integers(0, 99),
        st.integers(1, 9),
    ),
    st.builds(lambda low, wide: IntDistribution(low, low + wide, log=True), st.integers(1, 99), st.integers(0, 999)),
)
categories = st.builds(lambda n: CategoricalDistribution(("a", 1, None, 2.5)[:n]), st.integers(1, 4))
spaces = st.dictionaries(st.text(max_size=3), numbers | categories, min_size=1, max_size=4)


@every_sampler
@settings(max_examples=10)
@given(space=spaces, seed=st.integers(0, 99))
def test_proposals_are_in_any_space(name: str, space: dict[str, BaseDistribution], seed: int) -> None:
    outcomes = iter([math.inf, 1.0, -3.0, math.nan, 0.5, -math.inf, 2.0] * 4)
    for params in proposals(study_of(name, seed), 27, lambda _: next(outcomes), space=space):
        for key, each in space.items():
            # Optuna itself refuses what is outside.
            if isinstance(each, IntDistribution):
                assert type(params[key]) is int
            elif isinstance(each, FloatDistribution):
                assert isinstance(params[key], float)


@every_local_search
def test_what_fails_is_kept_away_from(name: str) -> None:
    def objective(config: dict[str, Any]) -> float:
        return math.nan if config["x"] < 0 else bowl(config)

    study = study_of(name)
    late = proposals(study, 60, objective)[30:]
    assert sum(config["x"] < 0 for config in late) < 10
    assert sum(trial.state is TrialState.FAIL for trial in study.trials) > 2


@every_sampler
def test_nothing_but_failures_stops_no_study(name: str) -> None:
    study = study_of(name)
    proposals(study, 3)
    assert len(proposals(study, 40, lambda _: math.nan)) == 40


@every_sampler
def test_trials_that_nobody_tells_hold_nothing_up(name: str) -> None:
    study = study_of(name)
    proposals(study, 1)
    assert len({tuple(study.ask(SPACE).params.values()) for _ in range(30)}) > 20


@every_local_search
@pytest.mark.parametrize("before", [2, 25])
def test_a_configuration_that_is_given_is_followed(name: str, before: int) -> None:
    best = {"x": 0.3, "y": 0.01, "z": 4.2}
    study = study_of(name)
    proposals(study, before)
    study.enqueue_trial(best)
    assert proposals(study, 1) == [best]
    assert min(map(bowl, proposals(study, 30))) < 0.01


@every_sampler
def test_a_value_that_is_given_does_not_stay_alone(name: str) -> None:
    study = study_of(name)
    proposals(study, 8)
    study.enqueue_trial({"x": 1.5})
    (half,) = proposals(study, 1)
    assert half["x"] == 1.5
    assert len(proposals(study, 20)) == 20


@pytest.mark.parametrize("name", ["tabu", "hyperopt-tpe"])
def test_a_resumed_study_goes_on_as_if_it_had_not_been_interrupted(name: str) -> None:
    options: dict[str, Any] = {"strategy": name, "recorder": NullRecorder(), "name": "study"}
    whole = tune(mixed_bowl, MIXED, 40, **options)
    storage = optuna.storages.InMemoryStorage()
    for budget in (30, 33, 40):
        parts = tune(mixed_bowl, MIXED, budget, storage=storage, **options)
    assert [trial.params for trial in parts.trials] == [trial.params for trial in whole.trials]


@every_sampler
def test_a_study_that_others_began_goes_on_from_its_best_trials(name: str) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    before = proposals(study, 40)
    study.sampler = SAMPLERS[name](0)
    after = proposals(study, 30)
    assert statistics.median(map(bowl, after)) < 0.6 * statistics.median(map(bowl, before))


@every_sampler
def test_hyperparameters_that_not_every_trial_has(name: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1.0, 1.0)
        if trial.suggest_categorical("bent", (False, True)):
            return x**2 + trial.suggest_float("bend", 0.0, 1.0)
        return abs(x) + 0.1

    study = study_of(name)
    study.optimize(objective, n_trials=40)
    assert study.best_value < 0.2


def test_a_walk_leaves_where_it_was() -> None:
    study = study_of("tabu")
    space = {"x": FloatDistribution(0.0, 1.0)}
    tried = [config["x"] for config in proposals(study, 60, lambda config: (config["x"] - 0.2) ** 2, space=space)]
    assert len({round(x, 6) for x in tried}) == 60
    assert max(tried[-30:]) > 0.6  # it has found the best long ago


@pytest.mark.parametrize("name", ["pso", "de", "hyperopt-tpe"])
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    package = name.split("-")[0] if name == "hyperopt-tpe" else "pymoo"
    with pytest.raises(MissingPackageError, match=rf"install metatuner\[{package}\]"):
        strategy_named(name).make(name, Setting(SPACE, 20, 0))


def test_packages_are_loaded_when_they_are_needed() -> None:
    code = "import sys, metatuner.agent.tune; print(sys.modules.keys() & {'pymoo', 'hyperopt'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "set()\n"


def test_what_cannot_be_a_population_or_a_round_is_said() -> None:
    with pytest.raises(ConfigurationError, match="at least 4 points, got 3"):
        PymooSampler("de", population=3)
    with pytest.raises(ConfigurationError, match="at least 1 neighbour, got 0"):
        TabuSampler(neighbours=0)
