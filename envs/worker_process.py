"""A process that holds objects and calls their methods: only arguments and answers go through its pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

from .errors import TrainingError


class WorkerProcess:
    """A process of one thread, which lasts until it is closed or its parent is gone.

    Args:
        objects: What it holds; they are pickled once, on their way there.
    """

    def __init__(self, objects: Sequence[object]) -> None:
        # Spawned, not forked: a fork of a process that has used torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other, list(objects)), daemon=True)
        self._process.start()
        other.close()

    def send(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> None:
        """Asks for a call of a method of each object whose place has arguments.

        Raises:
            TrainingError: The process has ended.
        """
        try:
            self._connection.send((method, dict(arguments)))
        except OSError as error:
            raise self._died() from error

    def receive(self) -> dict[int, Any]:
        """The answers to what was asked last, by the objects' places.

        Raises:
            TrainingError: The process has ended.
            Exception: What a call raised there.
        """
        try:
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if isinstance(answer, BaseException):
            raise answer
        results: dict[int, Any] = answer
        return results

    def close(self) -> None:
        """Ends the process. Safe to call twice."""
        self._connection.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _died(self) -> TrainingError:
        self._process.join(timeout=5)
        return TrainingError(
            f"a process of meta-training ended with exit code {self._process.exitcode} before it was told to: if "
            "memory was short, take fewer workers or smaller groups, then resume"
        )


class Crew:
    """Processes that share work: each holds a copy of the same object.

    Args:
        holder: The object; it is pickled where there is more than one worker.
        workers: Processes; 0 or 1 works in this one.
    """

    def __init__(self, holder: object, workers: int) -> None:
        self._here = _Sharer(holder)
        self._workers = [WorkerProcess([self._here]) for _ in range(workers if workers > 1 else 0)]

    def call(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        """Calls a method once with each argument; the answers are in the arguments' order."""
        if not self._workers:
            return self._here.each(method, arguments)
        n, found = len(self._workers), [None] * len(arguments)
        for i, worker in enumerate(self._workers):
            worker.send("each", {0: (method, arguments[i::n])})
        for i, worker in enumerate(self._workers):
            found[i::n] = worker.receive()[0]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in self._workers:
            worker.close()


class _Sharer:
    """Calls a method of what it holds many times."""

    def __init__(self, holder: object) -> None:
        self._holder = holder

    def each(self, method: str, arguments: Sequence[Any]) -> list[Any]:
        return [getattr(self._holder, method)(each) for each in arguments]


def _work(connection: Connection, objects: Sequence[object]) -> None:
    # Ctrl-C is for the parent, which ends its workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    # When the parent closes its end, or is gone, there is nobody left to work for.
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, arguments = connection.recv()
            try:
                answer: Any = {place: getattr(objects[place], method)(*args) for place, args in arguments.items()}
            except Exception as error:
                answer = error
            connection.send(answer)
