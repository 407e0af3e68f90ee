"""The learned search in Optuna's studies: Optuna's own suite, and what makes it more than another sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import optuna
import pytest
from metatuner.agent.followed_study import histories
from metatuner.agent.policy_sampler import PolicySampler
from metatuner.agent.portfolio_sampler import PortfolioSampler, greedy_portfolio
from metatuner.agent.search_actor import SearchActor, SearchActorShape
from metatuner.agent.search_policy import SearchPolicy
from metatuner.agent.strategies import STRATEGIES
from metatuner.envs.errors import ConfigurationError, PolicyFileError
from metatuner.envs.records import NullRecorder
from metatuner.envs.search_state import rung_units
from metatuner.envs.unit_cube import UnitCube
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.trial import Trial, TrialState, create_trial

SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "momentum": FloatDistribution(0.0, 1.0),
    "kind": CategoricalDistribution(["a", "b"]),
}
UNITS = 16


def final(config: dict[str, Any]) -> float:
    return float((np.log10(config["lr"]) + 2) ** 2 + 3 * (config["momentum"] - 0.8) ** 2 + (config["kind"] == "b"))


def train(config: dict[str, Any]) -> Iterator[float]:
    for unit in range(1, UNITS + 1):
        yield final(config) + 2 * np.exp(-unit / 4)


def tuned(objective: Callable[..., Any] = train, budget: int = 4, **options: Any) -> mt.TuneResult:
    return mt.tune(objective, SPACE, budget, recorder=NullRecorder(), units=UNITS, **options)


def in_optuna(trial: Trial) -> float:
    config = {
        "lr": trial.suggest_float("lr", 1e-5, 1.0, log=True),
        "momentum": trial.suggest_float("momentum", 0, 1),
        "kind": trial.suggest_categorical("kind", ["a", "b"]),
    }
    return final(config)


class TestOptunasSuite(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: PolicySampler(seed=0)


@pytest.fixture(scope="module")
def past() -> list[Study]:
    """Studies of two tasks like the one that is tuned."""
    studies = []
    for seed in range(2):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.optimize(lambda trial: in_optuna(trial) + 0.1 * trial.params["momentum"], n_trials=40)
        studies.append(study)
    return studies


def test_it_pauses_continues_and_finishes_the_best() -> None:
    result = tuned(budget=6, seed=0)
    spent = sum(trial.user_attrs["metatuner:units"] for trial in result.trials) / UNITS
    assert 5 < spent <= 6
    continued = [trial for trial in result.trials if "metatuner:continues" in trial.user_attrs]
    assert continued
    for trial in continued:
        first = result.trials[trial.user_attrs["metatuner:continues"]]
        assert trial.params == first.params
        # The curve is whole, and what was paid for is the rest.
        assert list(trial.intermediate_values) == list(range(1, len(trial.intermediate_values) + 1))
        assert trial.user_attrs["metatuner:units"] < len(trial.intermediate_values)
        for step, value in first.intermediate_values.items():
            assert trial.intermediate_values[step] == value
    reached = [max(trial.intermediate_values.values()) for trial in result.trials]
    assert len(reached) > 6  # more configurations than full trainings
    assert result.best_trial.state is TrialState.COMPLETE


def test_no_configuration_of_a_grid_is_begun_twice() -> None:
    begun = []

    def watched(config: dict[str, Any]) -> Iterator[float]:
        begun.append(tuple(config.values()))
        for unit in range(1, 5):
            yield (config["depth"] - 2) ** 2 + config["leaf"] / 9 + 1 / unit

    space = {"depth": IntDistribution(1, 5), "leaf": IntDistribution(1, 9, log=True)}
    mt.tune(watched, space, 20, recorder=NullRecorder(), units=4)
    assert len(set(begun)) == len(begun) > 20


def test_every_generator_is_closed_in_the_end() -> None:
    opened, closed = [], []

    def watched(config: dict[str, Any]) -> Iterator[float]:
        opened.append(config)
        try:
            yield from train(config)
        finally:
            closed.append(config)

    tuned(watched, seed=1)
    assert opened and len(opened) == len(closed)


def test_it_beats_random_search_and_stopping_random_search() -> None:
    def median(strategy: str) -> float:
        return float(np.median([tuned(strategy=strategy, seed=seed, budget=10).best_value for seed in range(5)]))

    assert median("policy") < min(median("random"), median("asha"))


def test_past_tasks_help_from_the_first_trial_on(past: list[Study]) -> None:
    first = [PolicySampler(past=past, space=SPACE, seed=seed) for seed in range(5)]
    values = []
    for sampler in first:
        study = optuna.create_study(sampler=sampler)
        study.optimize(in_optuna, n_trials=1)
        values.append(study.best_value)
    assert np.median(values) < 0.5  # the median of random ones is about 4


def test_a_past_with_another_space_helps_where_it_fits() -> None:
    narrower = {"lr": FloatDistribution(1e-8, 1.0), "kind": CategoricalDistribution(["a", "b", "c"])}
    study = optuna.create_study()
    for i in range(24):
        config = {"lr": 10.0 ** (-i / 3), "kind": "abc"[i % 3]}
        value = final({**config, "momentum": 0.8})
        study.add_trial(create_trial(params=config, distributions=narrower, value=value))
    (told,) = histories([study], UnitCube(SPACE), (1,))
    assert told.known.tolist() == [True, False, True, True]
    # A rate below 1e-5 and a "c" are not in today's space.
    assert len(told.points) == len([i for i in range(16) if i % 3 < 2])
    assert np.nanmin(told.points) >= 0 and np.nanmax(told.points) <= 1
    found = mt.tune(final, SPACE, 1, past=[study], recorder=NullRecorder(), seed=0)
    assert final({**found.best_config, "momentum": 0.8}) < 0.5
    less = {"kind": SPACE["kind"]}
    little = optuna.create_study()
    little.add_trials([create_trial(params={"kind": "ab"[i % 2]}, distributions=less, value=i) for i in range(6)])
    assert not histories([little], UnitCube(SPACE), (1,))  # one hyperparameter of three


def test_a_past_training_that_was_paused_and_went_on_counts_once() -> None:
    result = tuned(budget=6, seed=0)
    begun = [trial for trial in result.trials if "metatuner:continues" not in trial.user_attrs]
    (history,) = histories([result.study], UnitCube(SPACE), rung_units(UNITS))
    assert len(history.points) == len(begun) < len(result.trials)
    finished = sum(trial.state is TrialState.COMPLETE for trial in result.trials)
    assert np.isfinite(history.values[:, -1]).sum() == finished


def test_what_was_stopped_early_is_not_taken_for_a_full_training() -> None:
    study = optuna.create_study()
    for i in range(12):
        reports = {step: 10.0 * i + 1 / step for step in range(1, 5 if i % 2 else 2)}
        study.add_trial(
            create_trial(
                params={"x": i / 12},
                distributions={"x": FloatDistribution(0, 1)},
                state=TrialState.COMPLETE if i % 2 else TrialState.PRUNED,
                value=reports[4] if i % 2 else None,
                intermediate_values=reports,
            )
        )
    cube = UnitCube({"x": FloatDistribution(0, 1)})
    (alone,) = histories([study], cube, (1,))  # whoever yields one value knows nothing of the four of then
    assert alone.values[:, -1].tolist() == [10.0 * i + 0.25 for i in range(1, 12, 2)]
    (curves,) = histories([study], cube, (1, 2, 4))
    assert len(curves.values) == 12
    assert np.isnan(curves.values[::2, 1:]).all() and np.isfinite(curves.values[1::2]).all()


def test_plain_functions_and_maximisation() -> None:
    found = mt.tune(lambda config: -final(config), SPACE, 15, direction="maximize", recorder=NullRecorder(), seed=0)
    assert found.best_value > -1.0
    assert len(found.trials) == 15


def test_the_same_seed_proposes_the_same() -> None:
    runs = [[trial.params for trial in tuned(seed=seed).trials] for seed in (3, 3, 4)]
    assert runs[0] == runs[1] != runs[2]


def test_failures_are_learnt_from() -> None:
    def fragile(config: dict[str, Any]) -> float:
        if config["lr"] > 1e-3:
            raise FloatingPointError("diverged")
        return final(config)

    result = mt.tune(fragile, SPACE, 25, recorder=NullRecorder(), seed=0)
    failed = [trial.state is TrialState.FAIL for trial in result.trials]
    assert sum(failed[-10:]) <= 5  # 60 % of the space fails
    assert result.best_value < 5


def test_a_resumed_study_goes_on_without_what_was_in_memory(tmp_path: Any) -> None:
    storage = str(tmp_path / "study.log")
    tuned(budget=2, storage=storage, name="s", seed=0)
    result = tuned(budget=4, storage=storage, name="s", seed=0)
    spent = sum(trial.user_attrs["metatuner:units"] for trial in result.trials) / UNITS
    assert 3 < spent <= 4.01


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_workers_share_one_search(tmp_path: Path, seed: int, shared: bool) -> None:
    options = {"storage": f"sqlite:///{tmp_path / 'study.db'}", "name": "study"} if shared else {}
    result = tuned(budget=5 if shared else 10, n_workers=8, seed=seed, **options)
    assert result.best_value < 4
    assert not any(trial.state is TrialState.FAIL for trial in result.trials)


def test_in_an_optuna_study_it_prunes() -> None:
    sampler = PolicySampler(units=UNITS, budget=6, space=SPACE, seed=0)
    study = optuna.create_study(sampler=sampler, pruner=sampler.pruner())

    def objective(trial: Trial) -> float:
        in_optuna(trial)
        for unit, value in enumerate(train(trial.params), start=1):
            trial.report(value, unit)
            if trial.should_prune():
                raise optuna.TrialPruned
        return value

    study.optimize(objective, n_trials=20)
    states = [trial.state for trial in study.trials]
    assert TrialState.PRUNED in states
    assert TrialState.FAIL not in states


def test_what_is_wrong_is_said(past: list[Study], tmp_path: Any) -> None:
    with pytest.raises(ConfigurationError, match="units must be at least 1"):
        PolicySampler(units=0)
    with pytest.raises(ConfigurationError, match="give it `units`"):
        PolicySampler().pruner()
    with pytest.raises(PolicyFileError, match="one for a search is needed"):
        PolicySampler("schedule-default")
    with pytest.raises(PolicyFileError, match="one for a schedule is needed"):
        mt.Policy.load("search-default")
    with pytest.raises(ConfigurationError, match="portfolio needs past tasks"):
        tuned(strategy="portfolio")
    policy = SearchPolicy("mine", SearchActor(SearchActorShape(width=8)), {})
    folder = policy.save(tmp_path / "mine")
    assert SearchPolicy.load(folder).actor.shape.width == 8
    card = (folder / "card.json").read_text()
    (folder / "card.json").write_text(card.replace('"width": 8', '"width": 0'))
    with pytest.raises(PolicyFileError, match="network sizes"):
        SearchPolicy.load(folder)
    (folder / "card.json").write_text(card.replace('"slope"', '"weather"'))
    with pytest.raises(PolicyFileError, match="other features"):
        SearchPolicy.load(folder)


def test_a_portfolio_tries_what_was_good(past: list[Study]) -> None:
    result = tuned(strategy="portfolio", past=past, budget=3)
    assert result.trials[0].value is not None and result.trials[0].value < 1.5
    assert len({str(trial.params) for trial in result.trials}) == 3
    study = optuna.create_study(sampler=PortfolioSampler(past, SPACE, seed=0))
    study.optimize(in_optuna, n_trials=55)  # after the portfolio come random ones
    assert len(study.trials) == 55


def test_a_portfolio_is_greedy() -> None:
    regrets = np.array([[0.1, 0.0, 0.9, 0.5], [0.3, 0.9, 0.0, 0.5]])
    # Alone 0 is the best; then what helps the second task the most; the rest by their means.
    assert greedy_portfolio(regrets, 4) == [0, 2, 1, 3]


def test_the_learned_strategy_is_the_default() -> None:
    assert next(iter(STRATEGIES)) == "policy"
    assert "metatuner:units" in tuned(budget=1).trials[0].user_attrs
