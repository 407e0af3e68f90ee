"""PPO whose trainings are judged against others of the same task.

How far a loss can fall is mostly a matter of the task. A critic cannot see it in advance, and that noise hides what the
decisions were worth. Copies of a task differ in exploration alone, so the mean of their advantages is a baseline that
does not depend on the decision it is subtracted from but for its own share of the mean (compare the group baseline of
GRPO, Shao et al. 2024, and leave-one-out REINFORCE, Kool et al. 2019).
"""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer


class PairedPPO(PPO):
    """PPO on environments that come in copies.

    Args:
        copies: Environments 0 .. copies - 1 are of one task, the next `copies` of the next, and so on.
        args: As for `PPO`.
        kwargs: As for `PPO`.
    """

    def __init__(self, *args: Any, copies: int = 1, **kwargs: Any) -> None:
        self._copies = copies
        super().__init__(*args, **kwargs)

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        """Collects as PPO does, then subtracts from each advantage the mean over the task's copies at that decision."""
        goes_on = super().collect_rollouts(*args, **kwargs)
        if self._copies > 1:
            assert isinstance(self.rollout_buffer, RolloutBuffer)
            shape = self.rollout_buffer.advantages.shape  # (decisions, environments)
            by_task = self.rollout_buffer.advantages.reshape(shape[0], -1, self._copies)
            self.rollout_buffer.advantages = (by_task - by_task.mean(axis=2, keepdims=True)).reshape(shape)
        return goes_on
