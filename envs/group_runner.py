"""Runs the trainings of task groups, here or in other processes.

A group's networks never leave the process that trains them: only hyperparameters go in, and measurements come out.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import TrainingError
from .families import TaskGroup
from .signals import Interval

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
        self._workers = [_Worker(runners) for _ in range(min(workers, groups) if workers > 1 else 0)]
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
            worker.send((method, mine))
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


class _Worker:
    """A process that holds some runners."""

    def __init__(self, runners: Sequence[GroupRunner]) -> None:
        # Spawned, not forked: a fork of a process that has used torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, list(runners)), daemon=True)
        self._process.start()
        other.close()

    def send(self, request: tuple[str, Any]) -> None:
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._died() from error

    def receive(self) -> dict[int, Any]:
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, BaseException):
            raise answer
        results: dict[int, Any] = answer
        return results

    def close(self) -> None:
        self._connection.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _died(self) -> TrainingError:
        self._process.join(timeout=5)
        return TrainingError(
            f"a process that trains task groups ended with exit code {self._process.exitcode} before it was told to: "
            "if memory was short, take fewer workers or smaller groups, then resume"
        )


def _work(connection: Connection, runners: Sequence[GroupRunner]) -> None:
    # Ctrl-C is for the parent, which ends its workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # When the parent closes its end, or is gone, there is nobody left to work for.
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = connection.recv()
            try:
                answer: Any = {group: _call(runners[group], method, args) for group, args in arguments.items()}
            except Exception as error:
                answer = error
            connection.send(answer)


def _call(runner: GroupRunner, method: str, arguments: tuple[Any, ...] | None) -> Any:
    return None if arguments is None else getattr(runner, method)(*arguments)
