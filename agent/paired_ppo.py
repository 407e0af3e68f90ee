"""PPO whose trainings are judged against others of the same task.

How far a loss can fall is mostly a matter of the task. A critic cannot see it in advance, and that noise hides what the
decisions were worth. Copies of a task differ in exploration alone, so the mean of their advantages is a baseline that
does not depend on the decision it is subtracted from but for its own share of the mean (compare the group baseline of
GRPO, Shao et al. 2024, and leave-one-out REINFORCE, Kool et al. 2019).

How much decisions can change is a matter of the task, too: a perceptron's loss may fall to a thousandth, a language
model's never to a half. Advantages are therefore scaled within a task group, or else the policy would learn from the
groups with the largest losses alone.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.buffers import RecurrentRolloutBuffer
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ..envs.schedule_vec_env import ScheduleVecEnv
from .actor_critic import RecurrentScheduleActorCritic, ScheduleActorCritic

FLOOR = 0.3
"""Groups whose advantages spread less than this share of the overall spread are scaled up less than fully: where
decisions hardly matter, there is little but noise to scale."""


class _Paired(OnPolicyAlgorithm):
    """Rollouts of whole episodes of environments that come in groups, and within a group in copies.

    Every rollout is one episode, however long it is.

    Args:
        group_size: Environments 0 .. group_size - 1 are of the first task group, and so on.
        copies: Within a group, each task stands so many times, one copy behind the other.
        scaled: Whether advantages are scaled within each group.
        args: As for the algorithm.
        kwargs: As for the algorithm.
    """

    def __init__(self, *args: Any, group_size: int = 1, copies: int = 1, scaled: bool = True, **kwargs: Any) -> None:
        self._group_size, self._copies, self._scaled = group_size, copies, scaled
        super().__init__(*args, **kwargs)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collects one episode, then makes its advantages relative to those of the same task and group."""
        standardiser = cast(ScheduleActorCritic, self.policy).standardiser
        if rollout_buffer.full:
            # Between two rollouts, so that what was tried and what is learnt from it are on one scale.
            standardiser.update(self._seen(rollout_buffer))
        n_rollout_steps = cast(ScheduleVecEnv, env).decisions
        if rollout_buffer.buffer_size != n_rollout_steps:
            rollout_buffer = self.rollout_buffer = self._buffer(n_rollout_steps)
        self.batch_size = max(n_rollout_steps * self.n_envs // 4, 2)
        goes_on = super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        standardiser.widen_ranges(self._seen(rollout_buffer))
        rollout_buffer.advantages = self._relative(rollout_buffer.advantages)
        return goes_on

    def _seen(self, rollout_buffer: RolloutBuffer) -> Tensor:
        return torch.from_numpy(rollout_buffer.observations.reshape(-1, *self.observation_space.shape))  # type: ignore[misc]

    def _buffer(self, decisions: int) -> RolloutBuffer:
        """A buffer for episodes of so many decisions."""
        return RolloutBuffer(
            decisions, self.observation_space, self.action_space, self.device,
            gae_lambda=self.gae_lambda, gamma=self.gamma, n_envs=self.n_envs,
        )  # fmt: skip

    def _relative(self, advantages: NDArray[np.float32]) -> NDArray[np.float32]:
        """Advantages of shape (decisions, environments), relative to those of the same task and group."""
        decisions = len(advantages)
        if self._copies > 1:
            by_task = advantages.reshape(decisions, -1, self._copies)
            advantages = (by_task - by_task.mean(axis=2, keepdims=True)).reshape(decisions, -1)
        if self._scaled:
            by_group = advantages.reshape(decisions, -1, self._group_size)
            spread = by_group.std(axis=(0, 2), keepdims=True)
            advantages = (by_group / (spread + FLOOR * advantages.std() + 1e-8)).reshape(decisions, -1)
        return advantages


class PairedPPO(_Paired, PPO):
    """stable-baselines3's PPO on such rollouts."""


class PairedRecurrentPPO(_Paired, RecurrentPPO):  # type: ignore[misc]
    """sb3-contrib's PPO for policies with a memory, on such rollouts."""

    def _buffer(self, decisions: int) -> RolloutBuffer:
        memory = cast(RecurrentScheduleActorCritic, self.policy).lstm_actor
        return RecurrentRolloutBuffer(
            decisions, self.observation_space, self.action_space,
            (decisions, memory.num_layers, self.n_envs, memory.hidden_size), self.device,
            gae_lambda=self.gae_lambda, gamma=self.gamma, n_envs=self.n_envs,
        )  # fmt: skip
