"""A policy from the beginning of a training to its end, whatever it is that trains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import Env
from numpy.typing import NDArray

from ..envs.errors import ConfigurationError
from ..envs.records import (
    Artifact,
    Decision,
    Metrics,
    NullRecorder,
    Recorder,
    TrialFinished,
    TrialStarted,
    TrialState,
    next_trial,
)
from ..envs.schedule import ScheduleEnv
from .guard import Guard
from .policy import DEFAULT_POLICY, Policy


@dataclass(frozen=True)
class ScheduleRun:
    """How a schedule went: what `run_schedule` returns.

    Example:
        >>> import metatuner as mt
        >>> env = mt.ScheduleEnv("iris", adjust=("lr",), start={"lr": 0.01}, decisions=3, interval=5)
        >>> run = mt.run_schedule(env, "zero")
        >>> run.values, len(run.decisions), run.val_loss < run.start_loss
        ({'lr': 0.01}, 3, True)

    Attributes:
        start_loss: Validation loss before the first step.
        val_loss: Validation loss at the end.
        values: The hyperparameters of the last interval, by name.
        decisions: All decisions, with what the policy saw.
    """

    start_loss: float
    val_loss: float
    values: dict[str, float]
    decisions: tuple[Decision, ...]


def run_schedule(
    env: Env[NDArray[np.float32], NDArray[np.float32]],
    policy: str | Path | Policy = DEFAULT_POLICY,
    *,
    seed: int = 0,
    recorder: Recorder | None = None,
    trial: int | None = None,
    name: str | None = None,
    guard: bool = True,
) -> ScheduleRun:
    """Lets a policy adjust one training from its beginning to its end.

    The training, with the model in it, is left as it ends; `env.close()` lets go of it.

    Example:
        >>> import metatuner as mt
        >>> env = mt.ScheduleEnv("wine", start={"lr": 1e-4, "weight_decay": 1e-4, "momentum": 0.9}, decisions=10)
        >>> run = mt.run_schedule(env, "schedule-default", seed=0)  # recorder=mt.MLflowRecorder(...) records it
        >>> run.val_loss < run.start_loss
        True
        >>> max(decision.values["lr"] for decision in run.decisions) > 1e-3
        True

    Args:
        env: A `ScheduleEnv`; where it leaves the reference open, it is the policy's.
        policy: A policy, its name, or its folder. "zero" follows the environment's reference, as a rule a constant one.
        seed: The training, and starting values that are drawn, follow from it.
        recorder: Takes decisions and losses.
        trial: The trial's number in the recorder's study; None takes the next one.
        name: The trial's name in the recorder's study.
        guard: Whether `agent.guard.Guard` may overrule the policy.

    Raises:
        ConfigurationError: The environment is of another kind.
        PolicyError: The policy cannot be loaded.
        TrainingError: What is to be trained cannot be trained.
    """
    bare = env.unwrapped if isinstance(env, Env) else env
    if not isinstance(bare, ScheduleEnv):
        raise ConfigurationError(
            f"expected a ScheduleEnv, got {type(bare).__name__}: what is to be trained is its task, as in "
            "ScheduleEnv('wine')"
        )
    chosen = policy if isinstance(policy, Policy) else Policy.load(policy)
    recorder = NullRecorder() if recorder is None else recorder
    trial = next_trial(recorder) if trial is None else trial
    unlearns = guard and chosen.unlearns
    options = {"seed": seed, "reference": chosen.reference, "unlearns": unlearns}
    observation, info = env.reset(seed=seed, options=options)
    _announce(recorder, trial, name, chosen, info)
    start_loss, decisions, terminated, reward = info["val_loss"], [], False, math.nan
    guards = Guard(chosen.signal_ranges, 1, bare.controller.offset.shape[1]) if guard and chosen.actor else None
    remembered = chosen.first_state(1)
    with _recorded(recorder, trial):
        while not terminated:
            action, remembered = chosen.decide(observation[None], remembered)
            note = next((f"{why}: rolled back" for why in ("diverged", "overfitted") if info.get(why)), "")
            if guards is not None:
                action, (why,) = guards.overrule(bare.controller, action)
                note = "; ".join(filter(None, [note, why]))
            before, number = info, bare.controller.decision
            observation, earned, terminated, _, info = env.step(action[0].astype(np.float32))
            decisions.append(
                Decision(
                    trial=trial,
                    number=number,
                    step=before["steps"],
                    signals=before["signals"],
                    adjustments=dict(zip(info["hyperparameters"], action[0].tolist(), strict=True)),
                    values=info["hyperparameters"],
                    reward=reward,
                    note=note,
                )
            )
            recorder.record(decisions[-1])
            reward = float(earned)
            losses = {"train/loss": info["train_loss"], "val/loss": info["val_loss"]}
            recorder.record(Metrics(trial=trial, step=info["steps"], values=losses))
        recorder.record(Metrics(trial=trial, step=info["steps"], values={"reward": reward}))
    return ScheduleRun(start_loss, float(bare.controller.val_loss[0]), info["hyperparameters"], tuple(decisions))


def _announce(recorder: Recorder, trial: int, name: str | None, policy: Policy, info: Mapping[str, Any]) -> None:
    config = info["config"]
    shown = " ".join([policy.name, *(f"lr={value:.3g}" for key, value in config.items() if key == "lr")])
    params = {**config, "policy": policy.name, "seed": info["seed"]}
    tags = {"metatuner.strategy": policy.name}
    recorder.record(TrialStarted(trial=trial, name=name or shown, params=params, tags=tags))
    if policy.card:
        recorder.record(Artifact(trial=trial, path="policy/card.json", text=policy.card_json()))
    recorder.record(Metrics(trial=trial, step=0, values={"val/loss": info["val_loss"]}))


@contextmanager
def _recorded(recorder: Recorder, trial: int) -> Iterator[None]:
    """Tells the recorder how the trial ended."""
    try:
        yield
    except BaseException as error:
        state = TrialState.FAILED if isinstance(error, Exception) else TrialState.KILLED
        recorder.record(TrialFinished(trial=trial, state=state, message=f"{type(error).__name__}: {error}"))
        raise
    recorder.record(TrialFinished(trial=trial))
