"""The batched form of `metatuner/Schedule-v0`: hundreds of trainings in lockstep, as a stable-baselines3 VecEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .adjustments import adjustables
from .controller import ScheduleController, observation_size
from .families import TaskGroup
from .references import reference_named, reference_values
from .signals import LIMIT, Interval


class TaskFamily(Protocol):
    """A seeded generator of task groups."""

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """Group number `index` of a seed: `size` tasks, the same ones each time it is asked for."""


class ScheduleVecEnv(VecEnv):
    """groups x group_size trainings side by side; every episode trains new tasks.

    Spaces, reward and rollback are those of `envs.schedule.ScheduleEnv`. All episodes end together, and an episode
    follows from (seed, its number) alone, so a run can be resumed at any episode.

    Args:
        family: Where tasks come from.
        groups: Task groups at a time, each of one shape.
        group_size: Trainings a group.
        adjust: The hyperparameters to adjust.
        decisions: Decisions an episode.
        reference: What zero adjustment reproduces, "constant" or "cosine".
        seed: The tasks follow from it.
    """

    def __init__(
        self,
        family: TaskFamily,
        *,
        groups: int = 4,
        group_size: int = 64,
        adjust: Sequence[str] = ("lr", "weight_decay", "momentum"),
        decisions: int = 25,
        reference: str = "constant",
        seed: int = 0,
    ) -> None:
        self._family, self._groups, self._group_size, self._seed = family, groups, group_size, seed
        self._hyperparameters, self.decisions = adjustables(adjust), decisions
        self._reference = reference_named(reference)
        self.episode = 0
        """Number of the episode that the next reset begins."""
        h = len(self._hyperparameters)
        super().__init__(
            groups * group_size,
            spaces.Box(-LIMIT, LIMIT, (observation_size(h),), np.float32),
            spaces.Box(-1.0, 1.0, (h,), np.float32),
        )

    def reset(self) -> NDArray[np.float32]:
        """Begins the next episode: new tasks for all."""
        first = self.episode * self._groups
        self._running = [self._family.sample(self._group_size, self._seed, first + i) for i in range(self._groups)]
        self.episode += 1
        started = [group.training.start(group.start, group.seeds) for group in self._running]
        adaptive = np.concatenate([group.training.adaptive for group in self._running])
        self._controller = ScheduleController(self._hyperparameters, self.decisions, adaptive)
        names = [each.name for each in self._hyperparameters]
        self._starts = [np.stack([group.start[name] for name in names], axis=1) for group in self._running]
        self._controller.begin(np.concatenate(self._starts), Interval.concatenate(started).val_loss)
        self._returns = np.zeros(self.num_envs)
        return self._controller.observation()

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Takes the adjustments, shape (n, h)."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Trains all for one interval."""
        references = [self._reference_of(i) for i in range(self._groups)]
        self._controller.follow(np.concatenate([reference[0] for reference in references]))
        self._controller.adjust(self._actions)
        # Groups differ in interval, so each has its own number of reference rows; one row stands for all of them.
        longest = max(len(reference) for reference in references)
        padded = [np.concatenate([r, np.repeat(r[-1:], longest - len(r), axis=0)]) for r in references]
        values = self._controller.values(np.concatenate(padded, axis=1))
        snapshots = [group.training.snapshot() for group in self._running]
        intervals = []
        for i, group in enumerate(self._running):
            mine = values[: len(references[i]), self._slice(i)]
            named = {each.name: mine[..., j] for j, each in enumerate(self._hyperparameters)}
            intervals.append(
                group.training.advance({k: v if len(v) > 1 else v[0] for k, v in named.items()}, group.interval)
            )
        rewards, diverged = self._controller.observe(Interval.concatenate(intervals))
        for i, group in enumerate(self._running):
            if diverged[self._slice(i)].any():
                group.training.restore(snapshots[i], diverged[self._slice(i)])
        self._returns += rewards
        return self._finish_step(rewards.astype(np.float32))

    def close(self) -> None:
        """Holds nothing that needs closing."""

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, once for each environment: they share all of them."""
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not possible: the environments are one object."""
        raise AttributeError(f"cannot set {attr_name!r} on single environments of a batch")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Not possible: the environments are one object."""
        raise AttributeError(f"cannot call {method_name!r} on single environments of a batch")

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """No environment of a batch is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _slice(self, group: int) -> slice:
        return slice(group * self._group_size, (group + 1) * self._group_size)

    def _reference_of(self, i: int) -> NDArray[np.float64]:
        interval, done = self._running[i].interval, self._controller.decision
        return reference_values(
            self._reference,
            self._starts[i],
            self._hyperparameters,
            done * interval,
            interval,
            self.decisions * interval,
        )

    def _finish_step(self, rewards: NDArray[np.float32]) -> VecEnvStepReturn:
        observation, infos = self._controller.observation(), [{} for _ in range(self.num_envs)]  # type: ignore[var-annotated]
        done = self._controller.decision >= self.decisions
        if done:
            # The keys are stable-baselines3's: its Monitor and its bootstrapping read them.
            for i, info in enumerate(infos):
                info["terminal_observation"] = observation[i]
                info["val_loss"] = float(self._controller.val_loss[i])
                info["episode"] = {"r": float(self._returns[i]), "l": self.decisions, "t": 0.0}
            observation = self.reset()
        return observation, rewards, np.full(self.num_envs, done), infos
