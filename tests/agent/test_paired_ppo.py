from __future__ import annotations

import numpy as np
import torch
from metatuner.agent.actor import ActorShape
from metatuner.agent.actor_critic import ScheduleActorCritic
from metatuner.agent.paired_ppo import PairedPPO
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.families import Architecture, SyntheticTasks
from metatuner.envs.schedule_vec_env import ScheduleVecEnv
from metatuner.envs.signals import GLOBAL_SIGNALS

FAMILY = SyntheticTasks(steps=(12, 30), copies=4, mix={Architecture.PERCEPTRON: 1.0})


def collected(copies: int, scaled: bool = False) -> np.ndarray:
    """Advantages (tasks, 4 copies, decisions) of a first rollout of two groups of two tasks."""
    env = ScheduleVecEnv(FAMILY, groups=2, group_size=8, decisions=3, seed=2)
    shape = ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS))
    ppo = PairedPPO(
        ScheduleActorCritic,
        env,
        group_size=8,
        copies=copies,
        scaled=scaled,
        n_steps=3,
        batch_size=12,
        n_epochs=1,
        policy_kwargs={"shape": shape},
        seed=0,
    )
    ppo.learn(48)
    # PPO leaves its buffer flat, environment by environment.
    return np.array(ppo.rollout_buffer.advantages).reshape(4, 4, 3)


def test_copies_share_everything_but_their_decisions() -> None:
    env = ScheduleVecEnv(FAMILY, groups=2, group_size=8, decisions=3, seed=1)
    env.reset()
    actions = np.zeros((16, 3), np.float32)
    actions[1] = 1.0
    seen = env.step(actions)[0].reshape(4, 4, -1)
    # Where a row of a batch begins in memory can change the last bit of a sum, on some processors.
    assert np.allclose(seen[1:, 1:], seen[1:, :1], atol=1e-4)
    assert np.allclose(seen[0, 2:], seen[0, :1], atol=1e-4)
    assert not np.allclose(seen[0, 1], seen[0, 0], atol=1e-2)
    assert not np.allclose(seen[0, 0], seen[1, 0], atol=1e-2)


def test_advantages_are_relative_to_the_copies() -> None:
    plain, paired = collected(copies=1), collected(copies=4)
    assert np.abs(paired).max() > 0.01
    assert np.allclose(paired.mean(axis=1), 0.0, atol=1e-6)
    assert not np.allclose(plain.mean(axis=1), 0.0, atol=1e-2)
    assert np.allclose(paired, plain - plain.mean(axis=1, keepdims=True), atol=1e-5)


def test_scaling_makes_groups_alike_and_keeps_the_order_within_each() -> None:
    plain, scaled = (collected(copies=4, scaled=s).reshape(2, -1) for s in (False, True))
    assert plain.std(axis=1).max() > 1.1 * plain.std(axis=1).min()
    ratio = scaled.std(axis=1).max() / scaled.std(axis=1).min()
    assert ratio < plain.std(axis=1).max() / plain.std(axis=1).min()
    for before, after in zip(plain, scaled, strict=True):
        assert np.allclose(after / before, after[0] / before[0], rtol=1e-3)


def test_an_action_of_no_hyperparameter_counts_for_nothing() -> None:
    env = ScheduleVecEnv(FAMILY, groups=1, group_size=4, adjust=("lr", "clip_norm"), decisions=3)
    shape = ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS))
    ppo = PairedPPO(ScheduleActorCritic, env, n_steps=3, batch_size=12, policy_kwargs={"shape": shape}, seed=0)
    own = len(HYPERPARAMETER_SIGNALS)
    seen = torch.randn(4, len(GLOBAL_SIGNALS) + 2 * own)
    seen[:, len(GLOBAL_SIGNALS)] = 1.0
    seen[:, -own:] = 0.0
    actions = torch.zeros(4, 2)
    other = actions + torch.tensor([0.0, 3.0])
    _, log_prob, entropy = ppo.policy.evaluate_actions(seen, actions)
    assert torch.equal(log_prob, ppo.policy.evaluate_actions(seen, other)[1])
    alone = torch.distributions.Normal(ppo.policy.get_distribution(seen).mode()[:, 0], ppo.policy.log_std.exp()[0])
    torch.testing.assert_close(log_prob, alone.log_prob(actions[:, 0]))
    torch.testing.assert_close(entropy, alone.entropy())
