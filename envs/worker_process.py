"""A process that holds objects and calls their methods: only arguments and answers go through its pipe."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

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
