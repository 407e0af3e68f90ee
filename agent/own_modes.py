"""Trainings keep to themselves what they change for their whole thread.

A generator that yields within `torch.no_grad()` leaves gradients off in its thread: the next training would not learn.
The same is true of inference mode, autocast, NumPy's handling of errors, and of the MLflow run that the objective has
begun: the next training would log to it. And whoever proposes the next configuration works with arrays, too.
"""

from __future__ import annotations

import contextvars
import sys
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import numpy as np

_AUTOCAST = ("cpu", "cuda")


def with_own_modes(training: Generator[Any, Any, Any]) -> Generator[Any, None, None]:
    """The same training; its modes are its own where it goes on, and its surroundings' where it pauses.

    Args:
        training: An objective that yields. It need not use torch, which is not imported for it.
    """
    modes = _Modes()
    try:
        while True:
            with modes.restored():
                try:
                    value = modes.variables.run(next, training)
                except StopIteration as end:
                    _warn_of_returned(end.value)
                    return
            yield value
    finally:
        with modes.restored():
            modes.variables.run(training.close)


def undisturbed(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function; what it changes of such modes ends with it."""

    def call(*arguments: object) -> Any:
        with np.errstate(), _Modes().restored():
            return function(*arguments)

    return call


def _warn_of_returned(value: object) -> None:
    if isinstance(value, Real):
        warnings.warn(
            f"the objective returns {value!r} after it has yielded, which does not count: yield it as the last value",
            stacklevel=2,
        )


@dataclass
class _Modes:
    """What is set in a training; None before it has begun.

    Attributes:
        variables: Python's context variables, of which NumPy's handling of errors is one.
    """

    variables: contextvars.Context = field(default_factory=contextvars.copy_context)
    gradients: bool | None = None
    autocast: list[tuple[bool, Any]] | None = None
    runs: list[Any] | None = None
    _outside: Any = None  # while it is paused in inference mode: what keeps the surroundings out of it

    @contextmanager
    def restored(self) -> Iterator[None]:
        torch = _loaded("torch")
        around = None if torch is None else (torch.is_grad_enabled(), _autocast(torch))
        runs_around = _runs()
        self._enter(torch)
        try:
            yield
        finally:
            self._leave(_loaded("torch"), around, runs_around)

    def _enter(self, torch: Any) -> None:
        if self._outside is not None:
            self._outside.__exit__(None, None, None)
            self._outside = None
        if torch is not None and self.gradients is not None:
            torch.set_grad_enabled(self.gradients)
        if torch is not None and self.autocast is not None:
            _set_autocast(torch, self.autocast)
        if self.runs is not None:
            _set_runs(self.runs)

    def _leave(self, torch: Any, around: tuple[bool, list[tuple[bool, Any]]] | None, runs_around: list[Any]) -> None:
        self.runs = _runs()
        _set_runs(runs_around)
        if torch is None:
            return
        self.gradients, self.autocast = torch.is_grad_enabled(), _autocast(torch)
        if torch.is_inference_mode_enabled():
            self._outside = torch.inference_mode(False)
            self._outside.__enter__()
        # Where torch was loaded only now, everything was as it is by itself.
        gradients, autocast = (True, [(False, each[1]) for each in self.autocast]) if around is None else around
        torch.set_grad_enabled(gradients)
        _set_autocast(torch, autocast)


def _loaded(module: str) -> Any:
    return sys.modules.get(module)


def _autocast(torch: Any) -> list[tuple[bool, Any]]:
    return [(torch.is_autocast_enabled(each), torch.get_autocast_dtype(each)) for each in _AUTOCAST]


def _set_autocast(torch: Any, modes: list[tuple[bool, Any]]) -> None:
    for device, (on, dtype) in zip(_AUTOCAST, modes, strict=True):
        torch.set_autocast_enabled(device, on)
        torch.set_autocast_dtype(device, dtype)


def _runs() -> list[Any]:
    """The MLflow runs that are active in this thread, if anybody has loaded MLflow."""
    stack = getattr(_loaded("mlflow.tracking.fluent"), "_active_run_stack", None)
    return [] if stack is None else list(stack.get())


def _set_runs(runs: list[Any]) -> None:
    stack = getattr(_loaded("mlflow.tracking.fluent"), "_active_run_stack", None)
    if stack is not None and stack.get() != runs:
        stack.set(list(runs))
