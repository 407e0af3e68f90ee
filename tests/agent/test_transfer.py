from __future__ import annotations

from dataclasses import replace

import optuna
import pytest
import torch
from metatuner.agent.search_learning import Lessons
from metatuner.agent.search_policy import SearchPolicy
from metatuner.agent.transfer import TransferSettings, measure_transfer, past_sizes
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.transfer import POLICY, RANDOM, RULE, TPE, Transfer
from optuna.distributions import BaseDistribution, FloatDistribution

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
SETTINGS = TransferSettings(trials=4, repeats=3)


def study(name: str, centre: float, sign: int = 1) -> optuna.Study:
    """A bowl, or what is best at its rim."""
    found = optuna.create_study(study_name=name, sampler=optuna.samplers.RandomSampler(seed=len(name)))
    found.optimize(
        lambda trial: sign * sum((trial.suggest_float(each, 0, 1) - centre) ** 2 for each in SPACE), n_trials=20
    )
    return found


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    torch.set_num_threads(1)
    return Lessons.of([study("near", 0.85), study("close", 0.88), study("inverted", 0.87, -1)], SPACE, least=2)


@pytest.fixture(scope="module")
def measured(lessons: Lessons) -> Transfer:
    return measure_transfer(lessons, SearchPolicy.load(), SETTINGS)


def test_a_related_past_helps_and_an_inverted_one_is_flagged(measured: Transfer) -> None:
    pairs = {(pair.past, pair.target): pair for pair in measured.pairs}
    assert len(pairs) == 6
    for related in (("near", "close"), ("close", "near")):
        assert pairs[related].gain.mean > 0.1
        assert not pairs[related].worse
    for inverted in (("inverted", "near"), ("inverted", "close")):
        assert pairs[inverted].worse
        assert pairs[inverted].gain.high < 0
    assert {pair.past for pair in measured.negative} >= {"inverted"}
    assert measured.negative == sorted(measured.negative, key=lambda pair: pair.gain.mean)


def test_every_way_to_search_has_its_curve(measured: Transfer) -> None:
    ways = {(curve.searcher, curve.past) for curve in measured.curves}
    assert ways == {(POLICY, 0), (POLICY, 1), (POLICY, 2), (RULE, 0), (RULE, 2), (TPE, 0), (RANDOM, 0)}
    for curve in measured.curves:
        assert len(curve.regrets) == SETTINGS.trials
        for each in (*curve.regrets, curve.average, curve.gain):
            assert each.low <= each.mean <= each.high
    zero_shot = measured.curves[0]
    assert (zero_shot.label, zero_shot.gain.low, zero_shot.gain.high) == ("zero-shot", 0, 0)
    average = sum(each.mean for each in zero_shot.regrets) / SETTINGS.trials
    assert zero_shot.average.mean == pytest.approx(average)


def test_the_same_seed_finds_the_same(lessons: Lessons) -> None:
    brief, policy = TransferSettings(trials=1, repeats=2), SearchPolicy.load()
    two = replace(lessons, names=lessons.names[:2], histories=lessons.histories[:2])
    told: list[tuple[int, int]] = []
    first = measure_transfer(two, policy, brief, progress=lambda done, total: told.append((done, total)))
    assert first == measure_transfer(two, policy, brief)
    assert first != measure_transfer(two, policy, replace(brief, seed=1))
    assert told == [(i + 1, 28) for i in range(28)]  # 6 ways for 2 tasks, and 2 pairs, twice


def test_of_many_tasks_the_matrix_has_a_sample(lessons: Lessons) -> None:
    found = measure_transfer(lessons, SearchPolicy.load(), TransferSettings(trials=1, repeats=2, most_tasks=2))
    assert len(found.tasks) == 3
    assert len(found.sample) == 2
    assert {(pair.past, pair.target) for pair in found.pairs} == {found.sample, found.sample[::-1]}


@pytest.mark.parametrize(
    ("tasks", "sizes"), [(2, [1]), (3, [1, 2]), (4, [1, 2, 3]), (5, [1, 2, 4]), (12, [1, 2, 4, 8, 11])]
)
def test_few_shot_is_one_two_four_and_all(tasks: int, sizes: list[int]) -> None:
    assert past_sizes(tasks) == sizes


@pytest.mark.parametrize(
    ("name", "value"), [("trials", 0), ("repeats", 1), ("seed", -1), ("most_tasks", 1), ("confidence", 1.0)]
)
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        TransferSettings(**{name: value})  # type: ignore[arg-type]
