"""Trainings keep to themselves what they change for their whole thread.

A generator that yields within `torch.no_grad()` leaves gradients off in its thread: the next training would not learn.
And whoever proposes the next configuration works with arrays, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np


def with_own_grad_mode(training: Generator[Any, Any, Any]) -> Generator[Any, None, None]:
    """The same training; whether gradients are on is its own where it goes on, and its surroundings' where it pauses.

    Args:
        training: An objective that yields. It need not use torch, which is not imported for it.
    """
    mode = _GradMode()
    try:
        while True:
            with mode.restored():
                try:
                    value = next(training)
                except StopIteration:
                    return
            yield value
    finally:
        with mode.restored():
            training.close()


def undisturbed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; what it changes of torch's gradient mode and of NumPy's handling of errors ends with it."""

    def call(*arguments: object) -> Any:
        with np.errstate(), _GradMode().restored():
            return function(*arguments)

    return call


@dataclass
class _GradMode:
    """Whether gradients are on in a training; None before it has begun."""

    on: bool | None = None

    @contextmanager
    def restored(self) -> Iterator[None]:
        around = _is_on()
        if self.on is not None:
            _turn(self.on)
        try:
            yield
        finally:
            self.on = _is_on()
            _turn(around)


def _is_on() -> bool:
    """Whether gradients are on, as they are wherever torch is not loaded yet."""
    torch = sys.modules.get("torch")
    return torch is None or bool(torch.is_grad_enabled())


def _turn(on: bool) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_grad_enabled(on)
