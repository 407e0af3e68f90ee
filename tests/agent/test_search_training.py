from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metatuner.agent.search_actor import SearchActor, SearchActorShape
from metatuner.agent.search_evaluation import SHARES, evaluate_search, trust_what_pays
from metatuner.agent.search_policy import SearchPolicy
from metatuner.agent.search_training import SearchTrainingSettings, train_search_policy
from metatuner.envs.errors import CheckpointError, ConfigurationError
from metatuner.envs.families import Split
from metatuner.envs.search_families import SearchFamilies
from metatuner.envs.search_moves import CONTEXT, FEATURES, MOVES
from metatuner.envs.search_task import SearchTask

SETTINGS = SearchTrainingSettings(steps=256, seed=0, searches=2, width=8)
SIZE = MOVES * len(FEATURES) + len(CONTEXT)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("search")
    train_search_policy(SETTINGS, folder, name="little", evaluation_tasks=1)
    return folder


def test_it_learns_saves_and_says_how(trained: Path) -> None:
    policy = SearchPolicy.load(trained)
    assert policy.name == "little"
    assert policy.card["meta_training"]["steps"] == 256
    assert policy.card["command"].startswith("metatuner train search --steps 256 --seed 0")
    assert policy.card["evaluation"]["validation tasks"] == 1
    assert not (trained / "checkpoint.safetensors").exists()
    assert set(policy.card["trust"]) <= set(SHARES)


def test_what_was_learnt_is_trusted_in_part() -> None:
    actor = SearchActor(SearchActorShape(width=8))
    torch.nn.init.normal_(actor.head.weight)
    observation = torch.from_numpy(np.random.default_rng(0).normal(size=(6, SIZE)).astype(np.float32))
    observation[:, SIZE - len(CONTEXT) + CONTEXT.index("tasks")] = torch.tensor([0, 0, 0, 1, 1, 1])
    rule, learnt = SearchActor(SearchActorShape(width=8))(observation), actor(observation)
    actor.trust.copy_(torch.tensor([0.0, 0.5]))
    torch.testing.assert_close(actor(observation)[:3], rule[:3])
    torch.testing.assert_close(actor(observation)[3:], (rule[3:] + learnt[3:]) / 2)


class QuickTasks(SearchFamilies):
    """Two tasks that are quick to search: the first without past tasks, the second with them."""

    def task(self, seed: int) -> SearchTask:
        return super().task((4, 1)[seed])


def test_what_does_not_pay_is_not_trusted() -> None:
    """A network that would rather do anything but what the rule says."""
    contrary = SearchActor(SearchActorShape(width=8))
    with torch.no_grad():
        contrary.sharpness.fill_(-50.0)
    tasks = QuickTasks(Split.VALIDATION)
    assert [tasks.task(seed).past is None for seed in range(2)] == [True, False]
    trust_what_pays(contrary, 2, tasks)
    assert (contrary.trust < 1).all()


def test_at_first_it_is_the_rule() -> None:
    actor = SearchActor(SearchActorShape(width=8))
    observation = torch.from_numpy(np.random.default_rng(0).normal(size=(5, SIZE)).astype(np.float32))
    rule = observation[:, : SIZE - len(CONTEXT)].reshape(5, MOVES, -1)[..., FEATURES.index("log_worth")]
    torch.testing.assert_close(actor(observation), actor.sharpness * rule)


def test_scores_go_with_their_moves(trained: Path) -> None:
    """In whatever order the moves are told, each has the same score."""
    actor = SearchPolicy.load(trained).actor
    random = np.random.default_rng(1)
    features = random.normal(size=(MOVES, len(FEATURES))).astype(np.float32)
    features[:, FEATURES.index("possible")] = 1.0
    context = random.normal(size=len(CONTEXT)).astype(np.float32)
    order = random.permutation(MOVES)

    def scores(told: np.ndarray) -> torch.Tensor:
        return actor(torch.from_numpy(np.concatenate([told.reshape(-1), context]))[None])[0]

    torch.testing.assert_close(scores(features)[torch.from_numpy(order)], scores(features[order]), atol=1e-5, rtol=1e-4)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    class InterruptedRunError(Exception):
        pass

    def interrupt(done: int, total: int, mean: float) -> None:
        del total, mean
        if done == 256:
            raise InterruptedRunError

    settings = SearchTrainingSettings(steps=384, seed=0, searches=1, width=8)
    with pytest.raises(InterruptedRunError):
        train_search_policy(settings, tmp_path, evaluation_tasks=0, checkpoint_every=1, progress=interrupt)
    seen: list[int] = []
    with pytest.raises(CheckpointError, match="belongs to a run"):
        train_search_policy(SETTINGS, tmp_path, evaluation_tasks=0)
    train_search_policy(settings, tmp_path, evaluation_tasks=0, progress=lambda done, total, mean: seen.append(done))
    assert seen == [256, 384]
    (tmp_path / "checkpoint.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        train_search_policy(settings, tmp_path, evaluation_tasks=0)


def test_the_evaluation_of_the_rule_is_that_of_an_untrained_policy() -> None:
    figures = evaluate_search(SearchActor(SearchActorShape(width=8)), Split.HELD_OUT, 3)
    assert evaluate_search(SearchActor(SearchActorShape(width=8)), Split.HELD_OUT, 3, workers=2) == figures
    for name, value in figures.items():
        if name.startswith("regret of policy"):
            assert value == figures[name.replace("policy", "rule")]


@pytest.mark.parametrize("name", ["steps", "searches", "epochs", "width"])
def test_settings_are_checked(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        SearchTrainingSettings(**{name: 0})


def test_the_shipped_policy_says_how_it_was_made() -> None:
    card = SearchPolicy.load().card
    assert card["command"] == SearchTrainingSettings().command  # what the documentation calls it
    assert card["evaluation"]["validation tasks"] >= 100
