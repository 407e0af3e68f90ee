"""How good a schedule policy is on a task family, beside fixed schedules on the same tasks and initial weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..envs.adjustments import adjustables
from ..envs.families import TaskGroup
from ..envs.group_runner import TaskFamily
from ..envs.references import Reference, constant, cosine, reference_values
from ..envs.schedule_vec_env import ScheduleVecEnv
from ..envs.signals import LOSS_FLOOR
from .guard import Guard
from .policy import Policy

Array = NDArray[np.float64]

SEARCHED_RATES = np.geomspace(1e-5, 1.0, 12)
"""The learning rates of the search that the policy is compared with."""

RIVALS = ("constant", "cosine", "best_of_12_cosines")


def evaluate(
    policy: Policy, families: Mapping[str, TaskFamily], *, groups: int = 4, group_size: int = 16, seed: int = 0
) -> dict[str, float | int]:
    """Final validation losses of one adaptive run a task, from a random start, beside fixed schedules.

    Args:
        policy: What to evaluate; it adjusts the optimiser's hyperparameters.
        families: Where the tasks come from, by name: tasks that the policy was not trained on.
        groups: Task groups of each family; each is one shape of network.
        group_size: Tasks a group.
        seed: Which tasks.

    Returns:
        Medians over tasks of the ratio of the policy's final validation loss to that of: the constant and the cosine
        schedule from the same start, and the best of twelve cosine runs (a learning-rate search); over all families
        together and for each by name; and `tasks`.
    """
    ratios = {
        name: np.concatenate([_ratios(policy, family, seed, index, group_size) for index in range(groups)], axis=1)
        for name, family in families.items()
    }
    figures: dict[str, float | int] = _medians(np.concatenate(list(ratios.values()), axis=1))
    for name, of_family in ratios.items():
        figures |= {f"{figure} {name}": value for figure, value in _medians(of_family).items()}
    return {**figures, "tasks": len(families) * groups * group_size}


def _ratios(policy: Policy, family: TaskFamily, seed: int, index: int, size: int) -> Array:
    """Ratios to the rivals on one group, shape (rivals, size)."""
    ours = final_losses(policy, family, seed, index, size)
    group = family.sample(size, seed, index)
    searched = [train_fixed(group, cosine, policy.decisions, lr) for lr in SEARCHED_RATES]
    rivals = [
        train_fixed(group, constant, policy.decisions),
        train_fixed(group, cosine, policy.decisions),
        np.min(searched, axis=0),
    ]
    ratio: Array = np.maximum(ours, LOSS_FLOOR) / np.maximum(rivals, LOSS_FLOOR)
    return ratio


def _medians(ratios: Array) -> dict[str, float | int]:
    medians = np.median(ratios, axis=1)
    return {f"median_ratio_to_{rival}": float(median) for rival, median in zip(RIVALS, medians, strict=True)}


def final_losses(
    policy: Policy,
    family: TaskFamily,
    seed: int,
    index: int,
    size: int,
    adjust: Sequence[str] = ("lr", "weight_decay", "momentum"),
    *,
    guarded: bool = False,
) -> Array:
    """The policy's final validation losses on one task group, shape (size,); `guarded` by `agent.guard` or not."""
    env = ScheduleVecEnv(
        family,
        groups=1,
        group_size=size,
        adjust=adjust,
        decisions=policy.decisions,
        reference=policy.reference,
        seed=seed,
    )
    env.episode = index
    observation, state = env.reset(), policy.first_state(size)
    guard = Guard(policy.signal_ranges, size, len(adjust))
    guarded = guarded and policy.actor is not None
    env.controller.unlearns = guarded and policy.unlearns
    for _ in range(policy.decisions):
        action, state = policy.decide(observation, state)
        if guarded:
            action, _ = guard.overrule(env.controller, action)
        observation, _, _, infos = env.step(action)  # type: ignore[assignment]
    return np.array([info["val_loss"] for info in infos])


def train_fixed(group: TaskGroup, reference: Reference, decisions: int, lr: float | None = None) -> Array:
    """Final validation losses of a fixed schedule, shape (size,); what diverged counts as its starting loss.

    Args:
        group: The tasks.
        reference: The schedule.
        decisions: The training lasts as many intervals.
        lr: The learning rate of all; None takes each task's own start.
    """
    start = group.start if lr is None else {**group.start, "lr": np.full(len(group.seeds), lr)}
    hyperparameters = adjustables(["lr"])
    first = group.training.start(start, group.seeds).val_loss
    steps = decisions * max(group.steps // decisions, 1)
    values = reference_values(reference, np.asarray(start["lr"])[:, None], hyperparameters, 0, steps, steps)[..., 0]
    last = group.training.advance({"lr": values if len(values) > 1 else values[0]}, steps).val_loss
    return np.where(np.isfinite(last), np.minimum(last, first), first)
