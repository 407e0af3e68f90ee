"""The batched form of `metatuner/Schedule-v0`: hundreds of trainings in lockstep, as a stable-baselines3 VecEnv."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from .adjustments import adjustables
from .controller import ScheduleController, observation_size
from .errors import ConfigurationError
from .group_runner import GroupStarted, Runners, TaskFamily
from .references import constant, reference_named, reference_values
from .signals import LIMIT, Interval

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Variation:
    """How episodes differ, apart from their tasks: what a policy must cope with in other people's trainings.

    Each is drawn for a whole task group.

    Attributes:
        subsets: Whether only some of the hyperparameters are adjusted: the learning rate alone, the optimiser's, or any
            that include it or not.
        horizon_hidden: How often the policy is not told how many decisions there are.
        validation_missing: How often a validation loss comes only at every second to fifth decision (and the last).
        noise: Standard deviation of noise on the observations, in half of the groups.
    """

    subsets: bool = False
    horizon_hidden: float = 0.0
    validation_missing: float = 0.0
    noise: float = 0.0


class ScheduleVecEnv(VecEnv):
    """groups x group_size trainings side by side; every episode trains new tasks.

    Spaces, reward and rollback are those of `envs.schedule.ScheduleEnv`. All episodes end together, and an episode
    follows from (seed, its number) alone, so a run can be resumed at any episode.

    Args:
        family: Where tasks come from.
        groups: Task groups at a time, each of one shape.
        group_size: Trainings a group.
        adjust: The hyperparameters to adjust, in those groups that have them.
        decisions: Decisions an episode: a number, or the least and the most of a log-uniform choice for each episode.
        reference: What zero adjustment reproduces, by its name in `envs.references.REFERENCES`. It is constant where
            the policy is not told how many decisions there are, as in a training without a known end.
        variation: How episodes differ apart from their tasks.
        seed: The tasks follow from it.
        workers: Processes that train, of one thread each; 0 or 1 trains in this one. With one thread the numbers are
            the same.
    """

    def __init__(
        self,
        family: TaskFamily,
        *,
        groups: int = 4,
        group_size: int = 64,
        adjust: Sequence[str] = ("lr", "weight_decay", "momentum"),
        decisions: int | tuple[int, int] = 25,
        reference: str = "constant",
        variation: Variation = Variation(),
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self._groups, self._group_size, self._seed = groups, group_size, seed
        self._hyperparameters = adjustables(adjust)
        self._range = decisions if isinstance(decisions, tuple) else (decisions, decisions)
        if not all(isinstance(each, int | np.integer) for each in self._range) or not (
            1 <= self._range[0] <= self._range[1]
        ):
            raise ConfigurationError(f"decisions must be at least 1, the least before the most, got {decisions}")
        for name, value in (("groups", groups), ("group_size", group_size)):
            if not isinstance(value, int | np.integer) or value < 1:
                raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
        self._reference, self._variation = reference_named(reference), variation
        self.decisions = self._range[0]
        """Decisions of the running episode."""
        self.episode = 0
        """Number of the episode that the next reset begins."""
        h = len(self._hyperparameters)
        super().__init__(
            groups * group_size,
            spaces.Box(-LIMIT, LIMIT, (observation_size(h),), np.float32),
            spaces.Box(-1.0, 1.0, (h,), np.float32),
        )
        self._runners = Runners(family, groups, group_size, seed, workers)

    def reset(self) -> NDArray[np.float32]:
        """Begins the next episode: new tasks for all."""
        first = self.episode * self._groups
        self._rng = np.random.default_rng([self._seed, self.episode])
        self.episode += 1
        low, high = np.log(self._range)
        self.decisions = round(float(np.exp(self._rng.uniform(low, high))))
        self._running: list[GroupStarted] = self._runners.begin(first)
        self._intervals = [max(group.steps // self.decisions, 1) for group in self._running]
        self._vary()
        self._controller = ScheduleController(
            self._hyperparameters,
            self.decisions,
            np.concatenate([group.adaptive for group in self._running]),
            adjusted=self._adjusted.repeat(self._group_size, axis=0),
            horizon_known=self._horizon_known.repeat(self._group_size),
        )
        self._starts = [self._start_of(group) for group in self._running]
        self._controller.begin(
            np.concatenate(self._starts), Interval.concatenate([group.measured for group in self._running])
        )
        self._returns = np.zeros(self.num_envs)
        return self._observation()

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Takes the adjustments, shape (n, h).

        Raises:
            ConfigurationError: They have another shape, or are not finite; or no episode has begun.
        """
        wanted = (self.num_envs, *(self.action_space.shape or ()))
        if np.shape(actions) != wanted or not np.isfinite(actions).all():
            raise ConfigurationError(f"expected finite actions of shape {wanted}, got shape {np.shape(actions)}")
        if not self.episode:
            raise ConfigurationError("no episode has begun: call reset() first")
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
        mine = [values[: len(reference), self._slice(i)] for i, reference in enumerate(references)]
        intervals = self._runners.advance([self._named(i, v) for i, v in enumerate(mine)], self._intervals)
        measured = Interval.concatenate([self._validated(i, interval) for i, interval in enumerate(intervals)])
        rewards, back = self._controller.observe(measured)
        self._runners.take_back([back[self._slice(i)] for i in range(self._groups)])
        self._returns += rewards
        return self._finish_step(rewards.astype(np.float32))

    @property
    def controller(self) -> ScheduleController:
        """The schedules of the running episode."""
        return self._controller

    def close(self) -> None:
        """Ends the processes that train."""
        self._runners.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, once for each environment: they share all of them."""
        found = None if attr_name == "render_mode" else getattr(self, attr_name)  # there is nothing to see
        return [found for _ in self._get_indices(indices)]

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

    def _vary(self) -> None:
        """Draws for each group which hyperparameters are adjusted and what the policy hears."""
        names, variation, rng = [each.name for each in self._hyperparameters], self._variation, self._rng
        there = np.array([[name in group.start for name in names] for group in self._running])
        chosen = [_subset(names, rng) if variation.subsets else np.ones(len(names), bool) for _ in self._running]
        # Whoever adjusts nothing that is there adjusts everything that is.
        self._adjusted = np.array([t & c if (t & c).any() else t for t, c in zip(there, chosen, strict=True)])
        self._horizon_known = rng.random(self._groups) >= variation.horizon_hidden
        seldom = rng.random(self._groups) < variation.validation_missing
        self._validation_every = np.where(seldom, rng.integers(2, 6, self._groups), 1)
        self._noise = variation.noise * (rng.random(self._groups) < 0.5).repeat(self._group_size)

    def _start_of(self, group: GroupStarted) -> Array:
        """Starting values, shape (n, h); what a group does not have is never adjusted and never used."""
        lows = ((each.name, np.full(self._group_size, each.distribution.low)) for each in self._hyperparameters)
        return np.stack([group.start.get(name, low) for name, low in lows], axis=1)

    def _named(self, i: int, values: Array) -> dict[str, Array]:
        """Values of a group by name: shape (n,), or (steps, n) where they change within the interval."""
        values = values if len(values) > 1 else values[0]
        names = enumerate(each.name for each in self._hyperparameters)
        return {name: values[..., j] for j, name in names if name in self._running[i].start}

    def _validated(self, i: int, interval: Interval) -> Interval:
        """The interval as the policy hears of it."""
        done = self._controller.decision + 1
        if done % self._validation_every[i] == 0 or done == self.decisions:
            return interval
        return replace(interval, val_loss=np.full_like(interval.val_loss, np.nan))

    def _observation(self) -> NDArray[np.float32]:
        seen = self._controller.observation()
        if not self._noise.any():
            return seen
        noise = self._rng.normal(size=seen.shape) * self._noise[:, None] * (seen != 0)
        noisy: NDArray[np.float32] = np.clip(seen + noise, -LIMIT, LIMIT).astype(np.float32)
        return noisy

    def _reference_of(self, i: int) -> Array:
        interval, done = self._intervals[i], self._controller.decision
        return reference_values(
            self._reference if self._horizon_known[i] else constant,
            self._starts[i],
            self._hyperparameters,
            done * interval,
            interval,
            self.decisions * interval,
        )

    def _finish_step(self, rewards: NDArray[np.float32]) -> VecEnvStepReturn:
        observation, infos = self._observation(), [{} for _ in range(self.num_envs)]  # type: ignore[var-annotated]
        done = self._controller.decision >= self.decisions
        if done:
            # The keys are stable-baselines3's: its Monitor and its bootstrapping read them.
            for i, info in enumerate(infos):
                info["terminal_observation"] = observation[i]
                info["val_loss"] = float(self._controller.val_loss[i])
                info["episode"] = {"r": float(self._returns[i]), "l": self.decisions, "t": 0.0}
            observation = self.reset()
        return observation, rewards, np.full(self.num_envs, done), infos


def _subset(names: Sequence[str], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The learning rate alone, or those of the optimiser, or all, or any."""
    kind = rng.choice(["rate", "optimizer", "all", "any"], p=[0.3, 0.25, 0.2, 0.25])
    if kind == "rate":
        return np.array([name == "lr" for name in names])
    if kind == "optimizer":
        return np.array([name in ("lr", "weight_decay", "momentum") for name in names])
    if kind == "all":
        return np.ones(len(names), dtype=bool)
    return rng.random(len(names)) < np.array([0.9 if name == "lr" else 0.5 for name in names])
