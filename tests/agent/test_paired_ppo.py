from __future__ import annotations

import numpy as np
from metatuner.agent.actor import ActorShape
from metatuner.agent.actor_critic import ScheduleActorCritic
from metatuner.agent.paired_ppo import PairedPPO
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.families import SyntheticClassification
from metatuner.envs.schedule_vec_env import ScheduleVecEnv
from metatuner.envs.signals import GLOBAL_SIGNALS


def collected(copies: int) -> np.ndarray:
    """Advantages (tasks, 4 copies, decisions) of a first rollout."""
    env = ScheduleVecEnv(SyntheticClassification(copies=4), groups=2, group_size=8, decisions=3, seed=1)
    shape = ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS))
    ppo = PairedPPO(
        ScheduleActorCritic,
        env,
        copies=copies,
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
    env = ScheduleVecEnv(SyntheticClassification(copies=4), groups=2, group_size=8, decisions=3, seed=1)
    env.reset()
    actions = np.zeros((16, 3), np.float32)
    actions[1] = 1.0
    seen = env.step(actions)[0].reshape(4, 4, -1)
    assert np.array_equal(seen[1:, 1:], np.broadcast_to(seen[1:, :1], seen[1:, 1:].shape))
    assert np.array_equal(seen[0, 2:], np.broadcast_to(seen[0, :1], seen[0, 2:].shape))
    assert not np.array_equal(seen[0, 1], seen[0, 0])
    assert not np.array_equal(seen[0, 0], seen[1, 0])


def test_advantages_are_relative_to_the_copies() -> None:
    plain, paired = collected(copies=1), collected(copies=4)
    assert np.abs(paired).max() > 0.01
    assert np.allclose(paired.mean(axis=1), 0.0, atol=1e-6)
    assert not np.allclose(plain.mean(axis=1), 0.0, atol=1e-2)
    assert np.allclose(paired, plain - plain.mean(axis=1, keepdims=True), atol=1e-5)
