from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from metatuner.agent.search_actor import SearchActor, SearchActorShape
from metatuner.agent.search_learning import Lessons, SearchLearningSettings, bootstrapped, learn_search_policy
from metatuner.agent.search_policy import SearchPolicy
from metatuner.envs.errors import CheckpointError, ConfigurationError
from optuna.distributions import BaseDistribution, FloatDistribution

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
SETTINGS = SearchLearningSettings(steps=128, searches=1, parallel=1)


def studies(count: int) -> list[optuna.Study]:
    found = []
    for number in range(count):
        study = optuna.create_study(study_name=f"task {number}", sampler=optuna.samplers.RandomSampler(seed=number))
        centre = 0.3 + 0.02 * number
        study.optimize(
            lambda trial, at=centre: sum((trial.suggest_float(name, 0, 1) - at) ** 2 for name in SPACE),
            n_trials=20,
        )
        found.append(study)
    return found


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    torch.set_num_threads(1)
    return Lessons.of(studies(5), SPACE)


def champion(sharpness: float = 8.0) -> SearchPolicy:
    actor = SearchActor(SearchActorShape(width=8))
    with torch.no_grad():
        actor.sharpness.fill_(sharpness)
    return SearchPolicy("champion", actor, {})


def test_what_was_learnt_is_judged_on_tasks_that_were_kept_apart(lessons: Lessons, tmp_path: Path) -> None:
    policy, comparison = learn_search_policy(lessons, champion(), SETTINGS, tmp_path, name="mine")
    assert len(comparison.tasks) == 2
    assert not set(comparison.tasks) & set(policy.card["learnt_from"]["tasks"])
    assert set(comparison.tasks) | set(policy.card["learnt_from"]["tasks"]) == set(lessons.names)
    assert comparison.low <= comparison.gain <= comparison.high
    assert SearchPolicy.load(tmp_path).card["learnt_from"]["policy"] == "champion"
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_against_a_champion_that_does_the_contrary_of_what_pays_it_is_better(lessons: Lessons, tmp_path: Path) -> None:
    settings = SearchLearningSettings(steps=128, searches=2, parallel=1)
    _, comparison = learn_search_policy(lessons, champion(-50.0), settings, tmp_path)
    assert comparison.better
    assert comparison.verdict.startswith("better")


def test_what_is_the_same_is_not_better(lessons: Lessons, tmp_path: Path) -> None:
    """Nothing of what was learnt is trusted: candidate and champion are both the rule."""
    settings = SearchLearningSettings(steps=1, searches=1, learning_rate=0.0, parallel=1)
    _, comparison = learn_search_policy(lessons, champion(), settings, tmp_path)
    assert comparison.gain == 0
    assert not comparison.better
    assert "not shown to be better" in comparison.verdict


def test_a_checkpoint_of_other_lessons_is_refused(lessons: Lessons, tmp_path: Path) -> None:
    class InterruptedRunError(Exception):
        pass

    def interrupt(done: int, total: int, mean: float) -> None:
        raise InterruptedRunError

    settings = SearchLearningSettings(steps=50_000, searches=1, parallel=1)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        learn_search_policy(lessons, champion(), settings, tmp_path)
    with pytest.raises(InterruptedRunError):
        learn_search_policy(lessons, champion(), settings, tmp_path, resume=False, progress=interrupt)


def test_the_interval_of_a_gain_is_of_tasks() -> None:
    """Many searches of two tasks that disagree tell nothing of the next task."""
    gains = np.stack([np.full(100, 0.5), np.full(100, -0.3)])
    low, high = bootstrapped(gains, 0.95, np.random.default_rng(0))
    assert low == pytest.approx(-0.3)
    assert high == pytest.approx(0.5)


def test_too_few_tasks_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 5 past tasks"):
        Lessons.of(studies(3), SPACE)


@pytest.mark.parametrize(("name", "value"), [("steps", 0), ("searches", 0), ("held_out", 1.0), ("confidence", 1.5)])
def test_settings_are_checked(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        SearchLearningSettings(**{name: value})  # type: ignore[arg-type]
