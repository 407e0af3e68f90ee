"""Ways to learn that the product does not have: they are tried here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from metatuner.agent.actor_critic import ScheduleActorCritic
from metatuner.agent.evaluation import evaluate
from metatuner.agent.meta_training import DECISIONS, MetaTrainingSettings, environment, learner
from metatuner.agent.paired_ppo import PairedPPO
from metatuner.agent.policy import Policy
from metatuner.envs.families import Architecture, Split, SyntheticTasks, TaskGroup
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

Float32 = NDArray[np.float32]


class GrowingTasks:
    """Tasks whose longest horizon grows from the shortest, over the first half of a run."""

    def __init__(self, settings: MetaTrainingSettings) -> None:
        self._settings = settings
        low, high = settings.decisions
        decisions = (high - low) / np.log(high / low) if high > low else low
        self._grown = settings.steps / decisions / settings.group_size / 2

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """As for `SyntheticTasks`."""
        return self._at(index).sample(size, seed, index)

    def cost(self, seed: int, index: int) -> float:
        """As for `SyntheticTasks`."""
        return self._at(index).cost(seed, index)

    def _at(self, index: int) -> SyntheticTasks:
        low, high = self._settings.horizon
        longest = round(low * (high / low) ** min(1.0, (index + 1) / self._grown))
        return SyntheticTasks(Split.TRAIN, (low, longest), self._settings.copies)


class PairedReference(VecEnvWrapper):
    """The first copy of each task follows the reference; the rewards of the others are relative to its rewards."""

    def __init__(self, env: object, copies: int) -> None:
        super().__init__(env)  # type: ignore[arg-type]
        self._copies = copies

    def reset(self) -> Float32:
        """Begins the next episode."""
        return self.venv.reset()  # type: ignore[return-value]

    def step_async(self, actions: Float32) -> None:
        """Takes the adjustments, of which the first copies' do not count."""
        actions = actions.copy()
        actions[:: self._copies] = 0.0
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Trains all for one interval."""
        seen, rewards, dones, infos = self.venv.step_wait()
        return seen, rewards - rewards[:: self._copies].repeat(self._copies), dones, infos


class ReferencePPO(PairedPPO):
    """PPO that does not learn from those who follow the reference."""

    def _relative(self, advantages: Float32) -> Float32:
        copies, self._copies = self._copies, 1
        advantages = super()._relative(advantages)
        self._copies = copies
        advantages[:, ::copies] = 0.0
        return advantages


class _Snapshots(BaseCallback):
    """Keeps the actor of the last decisions, at five points."""

    def __init__(self, settings: MetaTrainingSettings) -> None:
        super().__init__()
        self._at = [share * settings.steps for share in (0.6, 0.7, 0.8, 0.9)]
        self.kept: list[Policy] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self._at and self.num_timesteps >= self._at[0]:
            self._at.pop(0)
            self.keep()

    def keep(self) -> None:
        """Keeps the actor as it is now."""
        policy = self.model.policy
        assert isinstance(policy, ScheduleActorCritic)
        self.kept.append(Policy("snapshot", policy.learnt_actor().eval(), DECISIONS))


def horizons_grow(settings: MetaTrainingSettings, out: Path) -> None:
    """Trains on horizons that grow."""
    with contextlib.closing(environment(settings, GrowingTasks(settings))) as env:
        model = learner(settings, env)
        model.learn(settings.steps)
        _save(model.policy, out)


def rewards_relative_to_the_reference(settings: MetaTrainingSettings, out: Path) -> None:
    """Trains on the difference to a run of the reference on the same task, from the same weights."""
    family = SyntheticTasks(Split.TRAIN, settings.horizon, settings.copies)
    with contextlib.closing(environment(settings, family)) as env:
        model = learner(settings, PairedReference(env, settings.copies), ReferencePPO)
        model.learn(settings.steps)
        _save(model.policy, out)


def best_of_five_checkpoints(settings: MetaTrainingSettings, out: Path) -> None:
    """Takes, of the policies at 60, 70, 80, 90 and 100 % of the training, the one that is best on validation tasks."""
    family = SyntheticTasks(Split.TRAIN, settings.horizon, settings.copies)
    with contextlib.closing(environment(settings, family)) as env:
        model, snapshots = learner(settings, env), _Snapshots(settings)
        model.learn(settings.steps, callback=snapshots)
    snapshots.keep()
    # Other validation tasks than those that the table is made of.
    tasks = {str(each): SyntheticTasks(Split.VALIDATION, settings.horizon, mix={each: 1.0}) for each in Architecture}
    scores = [evaluate(each, tasks, seed=99)["median_ratio_to_best_of_12_cosines"] for each in snapshots.kept]
    replace(snapshots.kept[int(np.argmin(scores))], card={"scores": scores}).save(out)


def _save(policy: object, out: Path) -> None:
    assert isinstance(policy, ScheduleActorCritic)
    Policy("variant", policy.learnt_actor().eval(), DECISIONS).save(out)


VARIANTS: Mapping[str, Callable[[MetaTrainingSettings, Path], None]] = {
    "horizons grow": horizons_grow,
    "rewards relative to a run of the reference": rewards_relative_to_the_reference,
    "best of five checkpoints": best_of_five_checkpoints,
}
"""Each trains a policy into a folder."""
