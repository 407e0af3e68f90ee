"""Strategies: each trains a task from every start and returns the final losses."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from metatuner.agent.guard import Guard
from metatuner.agent.policy import Policy
from metatuner.envs import references
from metatuner.envs.families import TaskGroup
from metatuner.envs.schedule_vec_env import ScheduleVecEnv
from metatuner.envs.update_rules import BatchedOptimizer
from stacked_optimizers import Hypergradient, StackedNetworks
from tasks import MOMENTUM, SEARCHED, STARTS, WEIGHT_DECAY, Array, Task
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

INTERVALS = 30
"""How often the rivals that look at validation losses may look."""
WARMUP = 0.05
"""Share of the steps in which a rate rises linearly, where a strategy warms up."""

_CHUNK = 500
"""Steps that are prepared at a time."""
_STATISTICS_BATCHES = 50
_NOT_COPIED = ("samplers", "randomness")


@dataclass(frozen=True)
class Outcome:
    """Final losses, each of shape (starts,); what diverged counts as its loss before the first step.

    Attributes:
        val: On the validation rows.
        test: On the test rows, measured once, when all is done.
    """

    val: Array
    test: Array


def _outcome(task: Task, first: Array, last: Array, weights: Tensor, buffers: Mapping[str, Tensor]) -> Outcome:
    """From validation losses before and after, and what the networks are in the end, a row each."""
    untrained, places = task.model.fresh(task.seed), [buffers[name] for name in task.model.buffers]
    test = task.test_losses(weights, [[place[i] for place in places] for i in range(len(weights))])
    worse = ~(last < first)
    untrained_test = task.test_losses([untrained[0]], [untrained[1]])
    return Outcome(np.where(worse, first, last), np.where(worse | ~np.isfinite(test), untrained_test, test))


def _outcome_of(task: Task, group: TaskGroup, first: Array, last: Array) -> Outcome:
    state = group.training.snapshot()
    return _outcome(task, first, last, state["weights"], {name: state[f"buffer {name}"] for name in task.model.buffers})


def policy(task: Task, chosen: Policy, adjust: tuple[str, ...], decisions: int, guarded: bool) -> Outcome:
    """One adaptive run from every start."""
    if task.steps % decisions:
        raise SystemExit(f"--decisions {decisions} must divide the {task.steps} steps of {task.name}")
    family = _Alone(task)
    env = ScheduleVecEnv(
        family, groups=1, group_size=len(STARTS), adjust=adjust, decisions=decisions,
        reference=chosen.reference,
    )  # fmt: skip
    observation, state = env.reset(), chosen.first_state(len(STARTS))
    group = family.groups[0]
    first = group.training.validate().double().numpy()
    guard = Guard(chosen.signal_ranges, len(STARTS), len(adjust))
    env.controller.unlearns = guarded and chosen.unlearns
    for _ in range(decisions):
        action, state = chosen.decide(observation, state)
        if guarded:
            action, _ = guard.overrule(env.controller, action)
        observation, _, _, infos = env.step(action)  # type: ignore[assignment, arg-type]
    # The environment has begun a new episode, with another group.
    return _outcome_of(task, group, first, np.array([info["val_loss"] for info in infos]))


class _Alone:
    """A task family of one task, which remembers what it handed out."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.groups: list[TaskGroup] = []

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        del size, seed, index
        self.groups.append(self._task.group(STARTS))
        return self.groups[-1]

    def cost(self, seed: int, index: int) -> float:
        del seed, index
        return 1.0


def constant(task: Task) -> Outcome:
    """The starting rate throughout."""
    return _fixed(task, STARTS, lambda step: np.ones_like(step))


def stable_decay(task: Task) -> Outcome:
    """The starting rate, and over the last part of the training linearly to zero: what the policy adjusts."""
    return _fixed(task, STARTS, lambda step: references.stable_decay(step / task.steps))


def cosine(task: Task) -> Outcome:
    """A linear warmup, then a cosine to zero, from all the rates of the search: every other one is a start."""
    warm = max(round(WARMUP * task.steps), 1)

    def factor(step: Array) -> Array:
        falling = 0.5 * (1 + np.cos(np.pi * (step - warm) / (task.steps - warm)))
        return np.where(step < warm, (step + 1) / warm, falling)

    return _fixed(task, SEARCHED, factor)


def _fixed(task: Task, rates: Array, factor: Callable[[Array], Array]) -> Outcome:
    group = task.group(rates)
    first = last = group.training.start(group.start, group.seeds).val_loss
    factors = factor(np.arange(task.steps, dtype=np.float64))
    for done in range(0, task.steps, _CHUNK):
        now = factors[done : done + _CHUNK]
        last = group.training.advance({"lr": now[:, None] * group.start["lr"]}, len(now)).val_loss
    return _outcome_of(task, group, first, last)


def plateau(task: Task) -> Outcome:
    """Torch's ReduceLROnPlateau, told the validation loss of every interval: to 0.3 after two without progress."""
    group = task.group(STARTS)
    first = last = group.training.start(group.start, group.seeds).val_loss
    optimizers = [torch.optim.SGD([torch.zeros(1)], lr=float(lr)) for lr in group.start["lr"]]
    schedulers = [ReduceLROnPlateau(optimizer, factor=0.3, patience=2) for optimizer in optimizers]
    for steps in _interval_lengths(task):
        rates = np.array([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
        last = group.training.advance({"lr": rates}, steps).val_loss
        for scheduler, loss in zip(schedulers, last, strict=True):
            scheduler.step(float(loss))
    return _outcome_of(task, group, first, last)


def population(task: Task) -> Outcome:
    """Population based training (Jaderberg et al. 2017) of all starts together; shape (1,).

    After every interval the worst quarter copies weights, optimiser and rate of one of the best quarter each, and
    multiplies the rate by 0.8 or 1.2. What counts is the member of the best validation loss at the end.
    """
    group, rng, quarter = task.group(STARTS), np.random.default_rng(task.seed), len(STARTS) // 4
    first = last = group.training.start(group.start, group.seeds).val_loss
    rates, source = group.start["lr"], np.arange(len(STARTS))
    for steps in _interval_lengths(task):
        # The first time everyone copies itself.
        moved = source != np.arange(len(STARTS))
        state = group.training.snapshot()
        # Everyone goes on with mini-batches of its own.
        theirs = {name: part[torch.as_tensor(source)] for name, part in state.items() if name not in _NOT_COPIED}
        group.training.restore(theirs | {"samplers": state["samplers"]}, moved)
        rates = np.where(moved, rates[source] * rng.choice([0.8, 1.2], len(rates)), rates)
        last = group.training.advance({"lr": rates}, steps).val_loss
        ranked = np.argsort(np.nan_to_num(last, nan=np.inf))
        source = np.arange(len(STARTS))
        source[ranked[-quarter:]] = rng.choice(ranked[:quarter], quarter)
    everyone = _outcome_of(task, group, first, last)
    best = [int(everyone.val.argmin())]
    return Outcome(everyone.val[best], everyone.test[best])


def schedule_free(task: Task) -> Outcome:
    """Schedule-Free AdamW (Defazio et al. 2024) with 5 % warmup, whatever the task's own optimiser is."""
    from schedulefree import AdamWScheduleFree

    networks = StackedNetworks(task, len(STARTS))
    first = networks.validate()
    groups = [{"params": [row], "lr": lr} for row, lr in zip(networks.rows, STARTS.tolist(), strict=True)]
    decay, warm = WEIGHT_DECAY[BatchedOptimizer.ADAMW], round(WARMUP * task.steps)
    optimizer = AdamWScheduleFree(groups, weight_decay=decay, warmup_steps=warm)
    optimizer.train()
    networks.train(task.steps, [optimizer])
    optimizer.eval()
    # Running statistics belong to other weights than those that are evaluated; so the library's README.
    networks.settle_buffers(_STATISTICS_BATCHES)
    return _outcome(task, first, networks.validate(), networks.weights, networks.buffers)


def prodigy(task: Task) -> Outcome:
    """Prodigy (Mishchenko and Defazio 2024) as recommended: rate 1 with a cosine; one run, shape (1,)."""
    from prodigyopt import Prodigy

    networks = StackedNetworks(task, 1)
    first = networks.validate()
    decay = WEIGHT_DECAY[BatchedOptimizer.ADAMW]
    # One for each network: groups would share an estimate of the rate.
    with contextlib.redirect_stdout(None):  # It announces its weight decay.
        optimizers = [Prodigy([row], lr=1.0, weight_decay=decay) for row in networks.rows]
    schedulers = [CosineAnnealingLR(optimizer, task.steps) for optimizer in optimizers]

    def follow_schedules() -> None:
        for scheduler in schedulers:
            scheduler.step()

    networks.train(task.steps, optimizers, follow_schedules)
    return _outcome(task, first, networks.validate(), networks.weights, networks.buffers)


def hypergradient(task: Task) -> Outcome:
    """Hypergradient descent on the task's own optimiser, with the paper's rates of the rate."""
    networks = StackedNetworks(task, len(STARTS))
    first = networks.validate()
    groups = [{"params": [row], "lr": lr} for row, lr in zip(networks.rows, STARTS.tolist(), strict=True)]
    optimizer = Hypergradient(
        groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY[task.optimizer],
        adam=bool(task.optimizer.adaptive), decoupled=task.optimizer is BatchedOptimizer.ADAMW,
    )  # fmt: skip
    networks.train(task.steps, [optimizer])
    return _outcome(task, first, networks.validate(), networks.weights, networks.buffers)


def _interval_lengths(task: Task) -> list[int]:
    ends = [math.floor(task.steps * i / INTERVALS) for i in range(INTERVALS + 1)]
    return [end - begin for begin, end in pairwise(ends)]


@dataclass(frozen=True)
class Rival:
    """A strategy that needs no policy.

    Attributes:
        run: Trains.
        runs: Trainings that one result costs.
        of_optimizer: Whether the task's own optimiser plays a part.
        also_long: Whether it is run over the long horizon, too.
    """

    run: Callable[[Task], Outcome]
    runs: int = 1
    of_optimizer: bool = True
    also_long: bool = True


RIVALS: Mapping[str, Rival] = {
    "cosine": Rival(cosine),
    "constant": Rival(constant),
    "stable_decay": Rival(stable_decay),
    "plateau": Rival(plateau),
    "schedule_free": Rival(schedule_free, of_optimizer=False),
    "prodigy": Rival(prodigy, of_optimizer=False),
    "hypergradient": Rival(hypergradient, also_long=False),
    "pbt": Rival(population, runs=len(STARTS), also_long=False),
}
"""In the order in which they are run; `cosine` is also what the searches choose from."""
