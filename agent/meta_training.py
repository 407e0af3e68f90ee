"""Meta-training of a schedule policy: an algorithm of stable-baselines3 on the batched environment.

A run follows from its settings, bit for bit on one machine, and goes on from its last checkpoint as if it had never
stopped. Rewards are undiscounted over whole trainings: a short horizon teaches learning rates that are far too low
(Wu et al. 2018, Understanding short-horizon bias in stochastic meta-optimization).
"""

from __future__ import annotations

import contextlib
import json
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.vec_env import VecEnv

from ..envs.controller import HYPERPARAMETER_SIGNALS
from ..envs.errors import CheckpointError, ConfigurationError
from ..envs.families import Architecture, Split, SyntheticTasks
from ..envs.group_runner import TaskFamily
from ..envs.records import Artifact, Metrics, NullRecorder, Recorder
from ..envs.schedule_vec_env import ScheduleVecEnv, Variation
from ..envs.signals import GLOBAL_SIGNALS
from .actor import Actor, ActorShape, Committee
from .actor_critic import RecurrentScheduleActorCritic, ScheduleActorCritic
from .evaluation import evaluate
from .meta_checkpoint import MetaCheckpoint
from .paired_ppo import PairedPPO, PairedRecurrentPPO
from .policy import MOST_MEMBERS, MOST_OPTIMISM, Policy
from .policy_files import CARD
from .run_folder import CHECKPOINT, clear, member_folder, require_own
from .soft_actor_critic import ScheduleSAC, SoftScheduleActorCritic


class Algorithm(StrEnum):
    """What learns a policy."""

    PPO = "ppo"
    RECURRENT_PPO = "recurrent-ppo"
    SAC = "sac"


OF_OPTIMIZERS = ("lr", "weight_decay", "momentum")

DECISIONS = 30
"""Decisions a training where nobody says otherwise: the middle of what policies are trained for."""

REPLAYED = 200_000
"""Decisions that SAC learns from at any time, the latest."""

VARIATION = Variation(subsets=True, horizon_hidden=0.1, validation_missing=0.25, noise=0.01)
"""How episodes differ in meta-training."""


Progress = Callable[[int, int, float], None]
"""Told after every iteration: decisions done, decisions in all, mean return of the last episodes."""


@dataclass(frozen=True)
class MetaTrainingSettings:
    """What a meta-training run follows from.

    Attributes:
        algorithm: Which one learns.
        steps: Decisions to train on, in all trainings together; the last iteration may exceed them.
        seed: Tasks, initial weights and exploration follow from it.
        decisions: Least and most decisions a training; drawn for each iteration, log-uniform between.
        horizon: Least and most optimiser steps a training; drawn for each task group, log-uniform between.
        adjust: The hyperparameters to adjust, in those tasks that have them.
        groups: Task groups at a time.
        group_size: Trainings a group.
        copies: Trainings of the same task, which differ in exploration alone: PPO judges them against each other.
        learning_rate: The algorithm's at the start; it falls linearly to a hundredth.
        epochs: PPO's passes over each iteration's decisions; SAC's gradient steps after each decision.
        exploration: Log standard deviation of the adjustments at the start.
        memory: Units of what recurrent PPO remembers.
        reference: The schedule that the policy learns to adjust, by its name in `envs.references.REFERENCES`.
        members: How many learn, apart from each other, see `agent.actor.Committee`: `steps` are those of each.
        optimism: How much more than their mean they move a learning rate up where they disagree, see there.
        unlearns: Whether the guard takes back intervals in which a training begins to overfit: for a policy that would
            train on for too long. It learns without a guard in any case.
        clear: Whether the task groups with much data have data whose losses fall far, see `SyntheticTasks`.
        scaled: Whether PPO's advantages are scaled within each task group.
        varied: Whether episodes differ in which hyperparameters are adjusted and in what the policy hears, see
            `VARIATION`.
    """

    algorithm: Algorithm = Algorithm.PPO
    steps: int = 600_000
    seed: int = 0
    decisions: tuple[int, int] = (10, 60)
    horizon: tuple[int, int] = (50, 400)
    adjust: tuple[str, ...] = (*OF_OPTIMIZERS, "dropout", "augmentation", "label_smoothing", "clip_norm")
    groups: int = 12
    group_size: int = 16
    copies: int = 4
    learning_rate: float = 1e-3
    epochs: int = 8
    exploration: float = -0.7
    memory: int = 32
    reference: str = "constant"
    members: int = 1
    optimism: float = 0.0
    unlearns: bool = False
    clear: bool = False
    scaled: bool = True
    varied: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "groups", "group_size", "copies", "epochs", "memory", "members"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("decisions", "horizon"):
            least, most = getattr(self, name)
            if not 1 <= least <= most:
                raise ConfigurationError(
                    f"{name} must be at least 1, the least before the most, got {least} and {most}"
                )
        if self.members > (most := 1 if self.algorithm is Algorithm.RECURRENT_PPO else MOST_MEMBERS):
            raise ConfigurationError(f"members of {self.algorithm} must be at most {most}, got {self.members}")
        if not 0.0 <= self.optimism <= MOST_OPTIMISM or (self.optimism and self.members == 1):
            raise ConfigurationError(
                f"optimism must be from 0 to {MOST_OPTIMISM:g}, and 0 for a single member, got {self.optimism} for "
                f"{self.members}"
            )
        if self.members * (self.seed + 1) > 2**32:
            raise ConfigurationError(
                f"{self.members} members have seeds of their own, up to {self.members} times the given one, and below "
                f"2**32: expected one below {2**32 // self.members}, got {self.seed}"
            )
        if self.group_size % self.copies:
            raise ConfigurationError(
                f"group_size must be a multiple of copies, got {self.group_size} and {self.copies}"
            )

    def of_members(self) -> list[MetaTrainingSettings]:
        """The settings of each member; other seeds of the whole run share none of theirs."""
        seeds = range(self.members * self.seed, self.members * (self.seed + 1))
        return [replace(self, seed=seed, members=1, optimism=0.0, unlearns=False) for seed in seeds]

    @property
    def command(self) -> str:
        """The command that makes this run, for whatever it has an option."""
        options = {
            "algorithm": self.algorithm,
            "steps": self.steps,
            "seed": self.seed,
            "decisions": "{} {}".format(*self.decisions),
            "horizon": "{} {}".format(*self.horizon),
            "groups": self.groups,
            "group-size": self.group_size,
            "copies": self.copies,
            "reference": self.reference,
            "members": self.members,
            "optimism": self.optimism,
        }
        flags = [f"--{flag}" for flag, on in (("unlearn", self.unlearns), ("clear", self.clear)) if on]
        return " ".join(["metatuner train schedule", *(f"--{k} {v}" for k, v in options.items()), *flags, "--out DIR"])


def train_schedule_policy(
    settings: MetaTrainingSettings,
    out: str | Path,
    *,
    name: str = "schedule",
    resume: bool = True,
    checkpoint_every: int = 10,
    evaluation_groups: int = 4,
    recorder: Recorder | None = None,
    trial: int = 0,
    progress: Progress | None = None,
    workers: int = 0,
    device: str = "cpu",
) -> Policy:
    """Trains a policy and saves it, with its card, into a folder.

    Args:
        settings: What the run follows from.
        out: The policy's folder; checkpoints lie in it while the run lasts.
        name: The policy's name on its card.
        resume: Go on from a checkpoint found in `out`; otherwise begin afresh.
        checkpoint_every: Iterations between checkpoints.
        evaluation_groups: Task groups of each architecture of the validation split, and of the held-out one, to
            evaluate the result on; 0 skips the evaluation.
        recorder: Takes the learning curve, as metrics of `trial`.
        trial: The trial's number in the recorder's study.
        progress: Told after every iteration.
        workers: Processes that train the networks, see `ScheduleVecEnv`.
        device: Where the networks are trained.

    Returns:
        The trained policy.

    Raises:
        CheckpointError: The checkpoint in `out` belongs to other settings.
        ConfigurationError: There is no such device.
    """
    _require_device(device)
    out = Path(out)
    if not resume:
        clear(out)
    require_own(out, settings.members)
    recorder = recorder or NullRecorder()
    learnt: list[Policy] = []
    for number, each in enumerate(settings.of_members()):
        alone, before = settings.members == 1, number * settings.steps
        folder = out if alone else member_folder(out, number)
        if resume and not alone and (folder / CARD).is_file():
            learnt.append(_finished(folder, each))
            continue
        member = _member(
            each,
            folder,
            name=name,
            resume=resume,
            checkpoint_every=checkpoint_every,
            output=RecorderOutput(recorder, trial, before),
            progress=_counted(progress, before, settings),
            workers=workers,
            device=device,
        )
        if not alone:
            # Where a run that is resumed finds it; one that is the whole policy has its card when it is evaluated.
            member.save(folder)
        learnt.append(member)
    policy = _joined(learnt, settings)
    if evaluation_groups:
        evaluation = {
            f"{split} {figure}": value
            for split in (Split.VALIDATION, Split.HELD_OUT)
            for figure, value in evaluate(policy, _by_architecture(split, settings), groups=evaluation_groups).items()
        }
        policy = replace(policy, card={**policy.card, "evaluation": evaluation})
        figures = {f"evaluation/{key}": float(value) for key, value in evaluation.items()}
        recorder.record(Metrics(trial=trial, step=settings.members * settings.steps, values=figures))
    policy.save(out)
    recorder.record(Artifact(trial=trial, path="card.json", text=(out / "card.json").read_text(encoding="utf-8")))
    clear(out)
    return policy


def _member(
    settings: MetaTrainingSettings,
    out: Path,
    *,
    name: str,
    resume: bool,
    checkpoint_every: int,
    output: RecorderOutput,
    progress: Progress | None,
    workers: int,
    device: str,
) -> Policy:
    """Trains one member; its checkpoint stays in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    family = SyntheticTasks(Split.TRAIN, settings.horizon, settings.copies, settings.clear, device=device)
    env = environment(settings, family, workers)
    # The processes that train end with the run, however it ends.
    with contextlib.closing(env):
        model = learner(settings, env)
        checkpoint = MetaCheckpoint(out / CHECKPOINT, json.dumps(asdict(settings)))
        if resume and checkpoint.exists():
            checkpoint.load(model, env)
        model.set_logger(Logger(folder=None, output_formats=[output]))
        if model.num_timesteps < settings.steps:
            callback = _AfterIteration(env, checkpoint, checkpoint_every, settings, progress)
            model.learn(
                settings.steps - model.num_timesteps,
                callback=callback,
                # PPO counts iterations, SAC episodes: either way once all trainings have ended.
                log_interval=env.num_envs if isinstance(model, ScheduleSAC) else 1,
                reset_num_timesteps=False,
            )
            checkpoint.save(model, env)
    # The three kinds of policy have nothing else in common.
    learnt = cast(ScheduleActorCritic, model.policy)
    card = {**_card(settings), "signal_ranges": _signal_ranges(learnt)}
    return Policy(name, learnt.learnt_actor().eval(), DECISIONS, card)


def _finished(folder: Path, settings: MetaTrainingSettings) -> Policy:
    """A member that an earlier run has finished."""
    member = Policy.load(folder)
    # As JSON tells it: with lists for tuples.
    if member.card.get("meta_training") != json.loads(json.dumps(asdict(settings))):
        raise CheckpointError(
            f"{folder} holds a policy of other settings than those of this run: give another folder, the settings that "
            "it was begun with, or begin afresh"
        )
    return member


def _joined(members: Sequence[Policy], settings: MetaTrainingSettings) -> Policy:
    """One policy out of its members."""
    first, *others = members
    if not others:
        return first
    ranges = {
        name: [float(end(limits)) for end, limits in zip((min, max), zip(*every, strict=True), strict=True)]
        for name in first.signal_ranges
        if (every := [each.signal_ranges[name] for each in members])
    }
    actors = [each.actor for each in members if isinstance(each.actor, Actor)]
    card = {**_card(settings), "signal_ranges": ranges}
    return replace(first, actor=Committee(actors, settings.optimism).eval(), card=card)


def _counted(progress: Progress | None, before: int, settings: MetaTrainingSettings) -> Progress | None:
    """Progress of one member as that of the whole run."""
    if progress is None:
        return None
    return lambda done, _, returns: progress(before + done, settings.members * settings.steps, returns)


def environment(settings: MetaTrainingSettings, family: TaskFamily, workers: int = 0) -> ScheduleVecEnv:
    """The environment that a run learns in.

    Args:
        settings: What the run follows from.
        family: The tasks, in as many copies as the settings tell.
        workers: Processes that train the networks.
    """
    return ScheduleVecEnv(
        family,
        groups=settings.groups,
        group_size=settings.group_size,
        adjust=settings.adjust,
        decisions=settings.decisions,
        reference=settings.reference,
        variation=VARIATION if settings.varied else Variation(),
        seed=settings.seed,
        workers=workers,
    )


def learner(settings: MetaTrainingSettings, env: VecEnv, ppo: type[PairedPPO] = PairedPPO) -> BaseAlgorithm:
    """The algorithm of the settings, at the beginning of its run.

    Args:
        settings: What the run follows from.
        env: `environment`, or a wrapper around it.
        ppo: The class to use where the algorithm is PPO.
    """
    shape = ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS))
    match settings.algorithm:
        case Algorithm.PPO:
            return ppo(ScheduleActorCritic, env, **_of_ppo(settings, env, shape))
        case Algorithm.RECURRENT_PPO:
            shape = replace(shape, memory=settings.memory)
            return PairedRecurrentPPO(RecurrentScheduleActorCritic, env, **_of_ppo(settings, env, shape))
        case Algorithm.SAC:
            return ScheduleSAC(
                SoftScheduleActorCritic,
                env,
                learning_starts=0,
                buffer_size=REPLAYED,
                batch_size=1024,
                train_freq=1,
                gradient_steps=settings.epochs,
                **_common(settings, env, replace(shape, squashed=True)),
            )


class RecorderOutput(KVWriter):
    """A stable-baselines3 logger output that hands every logged number to a recorder."""

    def __init__(self, recorder: Recorder, trial: int, before: int = 0) -> None:
        self._recorder, self._trial, self._before = recorder, trial, before

    def write(self, key_values: dict[str, object], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Records the numbers among the values."""
        del key_excluded
        numbers = {k: float(v) for k, v in key_values.items() if isinstance(v, int | float | np.number)}
        self._recorder.record(Metrics(trial=self._trial, step=self._before + step, values=numbers))

    def close(self) -> None:
        """The recorder outlives the logger."""


class _AfterIteration(BaseCallback):
    """Checkpoints and progress, when an iteration's update is done: that is when the next rollout begins."""

    def __init__(
        self,
        env: ScheduleVecEnv,
        checkpoint: MetaCheckpoint,
        every: int,
        settings: MetaTrainingSettings,
        progress: Progress | None,
    ) -> None:
        super().__init__()
        self._env, self._checkpoint, self._every = env, checkpoint, every
        self._settings, self._progress = settings, progress

    def _on_step(self) -> bool:
        if self.locals["dones"].all() and self._progress is not None:
            returns = [info["episode"]["r"] for info in self.locals["infos"]]
            self._progress(self.num_timesteps, self._settings.steps, float(np.mean(returns)))
        return True

    def _on_rollout_start(self) -> None:
        # A resumed run goes on with the numbers of the one that stopped.
        done = self._env.episode - 1
        if done and done % self._every == 0 and self._env.controller.decision == 0:
            self._checkpoint.save(self.model, self._env)


def _require_device(device: str) -> None:
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(f"expected a device that torch can use, got {device!r} ({reason}): try cpu") from error


def _by_architecture(split: Split, settings: MetaTrainingSettings) -> dict[str, SyntheticTasks]:
    return {str(each): SyntheticTasks(split, settings.horizon, mix={each: 1.0}) for each in Architecture}


def _of_ppo(settings: MetaTrainingSettings, env: VecEnv, shape: ActorShape) -> dict[str, Any]:
    return {
        "group_size": settings.group_size,
        "copies": settings.copies,
        "scaled": settings.scaled,
        # Both follow from the episode, whose length varies.
        "n_steps": settings.decisions[0],
        "batch_size": settings.decisions[0] * env.num_envs,
        "n_epochs": settings.epochs,
        "gae_lambda": 0.95,
        **_common(settings, env, shape),
    }


def _common(settings: MetaTrainingSettings, env: VecEnv, shape: ActorShape) -> dict[str, Any]:
    peak = settings.learning_rate
    return {
        "learning_rate": lambda left: peak * (0.01 + 0.99 * max(left, 0.0)),
        "gamma": 1.0,
        "policy_kwargs": {"shape": shape, "log_std_init": settings.exploration},
        "stats_window_size": env.num_envs,
        "seed": settings.seed,
        "device": "cpu",
    }


def _signal_ranges(policy: ScheduleActorCritic) -> dict[str, list[float]]:
    """The least and the greatest value of each signal in the whole run."""
    ends = zip(policy.standardiser.signals_low.tolist(), policy.standardiser.signals_high.tolist(), strict=True)
    return {
        name: [float(f"{low:.4g}"), float(f"{high:.4g}")]
        for name, (low, high) in zip(GLOBAL_SIGNALS, ends, strict=True)
    }


_ALGORITHMS = {
    Algorithm.PPO: "PPO (Schulman et al. 2017), stable-baselines3",
    Algorithm.RECURRENT_PPO: "PPO (Schulman et al. 2017) with a memory, sb3-contrib",
    Algorithm.SAC: "SAC (Haarnoja et al. 2018), stable-baselines3",
}


def _card(settings: MetaTrainingSettings) -> dict[str, object]:
    return {
        "algorithm": _ALGORITHMS[settings.algorithm],
        "task_family": "SyntheticTasks, split train: no real data",
        "reference": settings.reference,
        "unlearns": settings.unlearns,
        "adjust": list(settings.adjust),
        "meta_training": asdict(settings),
        "command": settings.command,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy")},
            "platform": sys.platform,
        },
    }
