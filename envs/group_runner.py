"""Runs the trainings of task groups, here or in other processes.

A group's networks never leave the process that trains them: only hyperparameters go in, and measurements come out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .families import TaskGroup
from .signals import Interval
from .worker_process import WorkerProcess

Array = NDArray[np.float64]


class TaskFamily(Protocol):
    """A seeded generator of task groups."""

    def sample(self, size: int, seed: int, index: int) -> TaskGroup:
        """Group number `index` of a seed: `size` tasks, the same ones each time it is asked for."""

    def cost(self, seed: int, index: int) -> float:
        """About how long that group takes compared with others, in any unit."""


@dataclass(frozen=True)
class GroupStarted:
    """What is known of a group when its trainings begin.

    Attributes:
        start: Starting values by hyperparameter, each of shape (n,).
        measured: What was measured before the first step.
        adaptive: Whether the optimiser normalises its steps, shape (n,).
        steps: Optimiser steps of the whole training.
        name: What the tasks are.
    """

    start: Mapping[str, Array]
    measured: Interval
    adaptive: Array
    steps: int
    name: str


class GroupRunner:
    """Trains one group after the other.

    Args:
        family: Where groups come from.
        size: Trainings a group.
        seed: The groups follow from it.
    """

    def __init__(self, family: TaskFamily, size: int, seed: int) -> None:
        self._family, self._size, self._seed = family, size, seed
        self._group: TaskGroup | None = None
        self._snapshot: dict[str, Any] = {}

    def begin(self, index: int) -> GroupStarted:
        """Begins group number `index`; the last one is forgotten."""
        self._group = group = self._family.sample(self._size, self._seed, index)
        measured = group.training.start(group.start, group.seeds)
        return GroupStarted(group.start, measured, group.training.adaptive, group.steps, group.name)

    def advance(self, hyperparameters: Mapping[str, Array], steps: int) -> Interval:
        """Trains all on; values as for `BatchedTraining.advance`."""
        assert self._group is not None, "advance comes after begin"
        self._snapshot = self._group.training.snapshot()
        return self._group.training.advance(hyperparameters, steps)

    def take_back(self, where: NDArray[np.bool_]) -> None:
        """Returns some trainings, where `where` (shape (n,)) is true, to before the last `advance`."""
        assert self._group is not None, "take_back comes after advance"
        self._group.training.restore(self._snapshot, where)


class Runners:
    """Runs several groups side by side: in this process, or spread over others.

    Args:
        family: Where groups come from.
        groups: How many.
        size: Trainings a group.
        seed: The groups follow from it.
        workers: Processes, of one thread each; 0 or 1 trains in this one. With one thread the numbers are the same.
    """

    def __init__(self, family: TaskFamily, groups: int, size: int, seed: int, workers: int = 0) -> None:
        self._family, self._groups, self._seed = family, groups, seed
        # Every process could run every group; which one does is decided when groups begin.
        runners = [GroupRunner(family, size, seed) for _ in range(groups)]
        self._workers = [WorkerProcess(runners) for _ in range(min(workers, groups) if workers > 1 else 0)]
        self._here = runners
        self._places = [0] * groups

    def begin(self, first: int) -> list[GroupStarted]:
        """Begins groups number first, first + 1, ... ; those that were running are forgotten."""
        indices = range(first, first + self._groups)
        if self._workers:
            costs = [self._family.cost(self._seed, index) for index in indices]
            self._places = _shared_out(costs, len(self._workers))
        return self._call("begin", [(index,) for index in indices])

    def advance(self, hyperparameters: Sequence[Mapping[str, Array]], steps: Sequence[int]) -> list[Interval]:
        """Trains all groups on; of each group as for `BatchedTraining.advance`."""
        return self._call("advance", list(zip(hyperparameters, steps, strict=True)))

    def take_back(self, where: Sequence[NDArray[np.bool_]]) -> None:
        """Returns the trainings of each group where `where` is true to before the last `advance`."""
        self._call("take_back", [(mine,) if mine.any() else None for mine in where])

    def close(self) -> None:
        """Ends the processes. Safe to call twice."""
        for worker in self._workers:
            worker.close()

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...] | None]) -> list[Any]:
        """Calls a method of every runner with its own arguments; None leaves one out."""
        if not self._workers:
            return [_call(runner, method, args) for runner, args in zip(self._here, arguments, strict=True)]
        for i, worker in enumerate(self._workers):
            mine = {
                group: args for group, args in enumerate(arguments) if self._places[group] == i and args is not None
            }
            worker.send(method, mine)
        results: dict[int, Any] = {}
        for worker in self._workers:
            results |= worker.receive()
        return [results.get(group) for group in range(self._groups)]


def _shared_out(costs: Sequence[float], workers: int) -> list[int]:
    """Who runs what, so that all are done at about the same time: the longest first, to whoever has least to do."""
    load, places = [0.0] * workers, [0] * len(costs)
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        places[i] = int(np.argmin(load))
        load[places[i]] += costs[i]
    return places


def _call(runner: GroupRunner, method: str, arguments: tuple[Any, ...] | None) -> Any:
    return None if arguments is None else getattr(runner, method)(*arguments)
