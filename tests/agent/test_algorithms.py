"""What is learnt and what is kept of it decide alike, whichever algorithm learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.agent.actor import ActorShape
from metatuner.agent.actor_critic import RecurrentScheduleActorCritic, ScheduleActorCritic
from metatuner.agent.meta_training import Algorithm, MetaTrainingSettings, train_schedule_policy
from metatuner.agent.paired_ppo import PairedPPO, PairedRecurrentPPO
from metatuner.agent.policy import Policy
from metatuner.agent.soft_actor_critic import MaskedSquashedGaussian, ScheduleSAC, SoftScheduleActorCritic
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.families import Architecture, SyntheticTasks
from metatuner.envs.schedule_vec_env import ScheduleVecEnv, Variation
from metatuner.envs.signals import GLOBAL_SIGNALS

SHAPE = ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS))
FAMILY = SyntheticTasks(steps=(8, 20), mix={Architecture.PERCEPTRON: 1.0})
PAIRED = {"n_steps": 4, "batch_size": 16, "n_epochs": 1}
LEARNERS: dict[str, tuple[Any, Any, ActorShape, dict[str, Any]]] = {
    "ppo": (PairedPPO, ScheduleActorCritic, SHAPE, PAIRED),
    "recurrent": (PairedRecurrentPPO, RecurrentScheduleActorCritic, replace(SHAPE, memory=5), PAIRED),
    "sac": (
        ScheduleSAC, SoftScheduleActorCritic, replace(SHAPE, squashed=True),
        {"learning_starts": 0, "batch_size": 16, "buffer_size": 500},
    ),
}  # fmt: skip


@pytest.mark.parametrize("learner", list(LEARNERS))
def test_the_learnt_actor_decides_as_the_algorithm_does(learner: str, tmp_path: Path) -> None:
    algorithm, policy_class, shape, options = LEARNERS[learner]
    env = ScheduleVecEnv(FAMILY, groups=2, group_size=4, decisions=4, variation=Variation(subsets=True), seed=1)
    model = algorithm(
        policy_class, env, policy_kwargs={"shape": shape}, learning_rate=0.01, gamma=1.0, seed=0, **options
    )
    model.learn(96)
    kept = Policy.load(Policy("kept", model.policy.learnt_actor().eval(), 4).save(tmp_path))
    assert kept.actor is not None
    assert kept.actor.shape == shape
    observation, state, begins = env.reset(), None, np.ones(8, dtype=bool)
    mine = kept.first_state(8)
    for _ in range(4):
        theirs, state = model.predict(observation, state, begins, deterministic=True)
        action, mine = kept.decide(observation, mine)
        there = observation[:, len(GLOBAL_SIGNALS) :].reshape(8, -1, len(HYPERPARAMETER_SIGNALS))[..., 0] > 0
        np.testing.assert_allclose(np.where(there, action, 0.0), np.where(there, theirs, 0.0), atol=2e-4)
        observation, _, begins, _ = env.step(action)
    assert np.abs(action).max() > 1e-3


def test_a_squashed_gaussian_counts_adjusted_hyperparameters_alone_and_alike() -> None:
    distribution = MaskedSquashedGaussian(2)
    means, log_std = torch.tensor([[0.3, -0.4], [0.3, -0.4]]), torch.zeros(2)
    masks = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    actions = torch.tensor([[0.5, -0.2], [0.5, 0.9]])
    found = distribution.proba_distribution(torch.cat([means, masks], 1), log_std).log_prob(actions)
    normal = torch.distributions.Normal(means, 1.0)
    squashed = torch.distributions.TransformedDistribution(normal, torch.distributions.TanhTransform())
    of_each = squashed.log_prob(actions)
    expected = torch.stack([of_each[0].sum(), 2 * of_each[1, 0]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_card_tells_which_algorithm_and_what_network(tmp_path: Path) -> None:
    settings = MetaTrainingSettings(
        algorithm=Algorithm.RECURRENT_PPO, memory=3, steps=30, decisions=(3, 3), horizon=(6, 12), groups=1,
        group_size=5, copies=5,
    )  # fmt: skip
    card = train_schedule_policy(settings, tmp_path, evaluation_groups=0).card
    assert card["meta_training"]["algorithm"] == "recurrent-ppo"
    assert "--algorithm recurrent-ppo" in card["command"]
    saved = Policy.load(tmp_path)
    alone = {"members": 1, "optimism": 0.0}
    assert saved.card["network"] == {"summary": 16, "width": 96, "memory": 3, "squashed": False, **alone}
