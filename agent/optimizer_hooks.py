"""Gets a schedule between a loop and its optimiser, whatever way the loop steps it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from ..envs.errors import ConfigurationError

_LATEST: weakref.WeakKeyDictionary[Optimizer, OptimizerHooks] = weakref.WeakKeyDictionary()


class OptimizerHooks:
    """Calls a schedule around each `optimizer.step(*args, **kwargs)`.

    The schedule is not kept alive: one that is dropped without `remove` is called no more.

    Args:
        optimizer: The optimiser.
        before: A method, called before each step. It returns whether the gradients at hand are of no use any more: they
            are dropped then, and without a closure the step does nothing.
        gradients_ready: A method, called once a step when its gradients are known: at once, or when a closure has
            computed them for the first time. Not called for gradients that were dropped.
        after: A method, called after each step; None where nothing is to be done.
        replaced: A method; where it is given, it is called when another schedule with one takes this one's place: an
            optimiser has one schedule that adjusts it, the latest, as where a notebook's cell is run again.

    Raises:
        ConfigurationError: The optimiser cannot be hooked.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        before: Callable[[], bool],
        gradients_ready: Callable[[], None],
        after: Callable[[], None] | None,
        *,
        replaced: Callable[[], None] | None = None,
    ) -> None:
        self._before, self._gradients_ready = weakref.WeakMethod(before), weakref.WeakMethod(gradients_ready)
        try:
            self._handles = [optimizer.register_step_pre_hook(self._before_step)]
        except AttributeError as error:
            raise ConfigurationError(
                f"{type(optimizer).__name__} never called Optimizer.__init__, so its steps have no hooks ({error}): "
                "call that, or give the optimiser that it wraps"
            ) from error
        if after is not None:
            self._after = weakref.WeakMethod(after)
            self._handles.append(optimizer.register_step_post_hook(self._after_step))
        if replaced is not None:
            self._replaced = weakref.WeakMethod(replaced)
            if (earlier := _LATEST.get(optimizer)) is not None and not earlier.removed:
                earlier.remove()
                if (tell := earlier._replaced()) is not None:
                    tell()
            _LATEST[optimizer] = self

    def remove(self) -> None:
        """Leaves the optimiser alone from here on."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @property
    def removed(self) -> bool:
        """Whether it has left the optimiser alone, or another has taken its place."""
        return not self._handles

    # Compiled with the optimiser's step, what a schedule does would be compiled anew for each of its decisions.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """`args` begins with the optimiser; what is returned takes the place of both."""
        if (before := self._before()) is None:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        stale = before()
        if stale:
            optimizer.zero_grad(set_to_none=True)
        if closure is not None:
            others = {name: value for name, value in kwargs.items() if name != "closure"}
            return (args[0], self._telling(closure), *args[2:]), others
        if not stale:
            self._tell()
        return None

    def _telling(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure that tells when it has computed gradients for the first time in this step."""
        told = False

        def telling() -> Any:
            nonlocal told
            loss = closure()
            if not told:
                self._tell()
            told = True
            return loss

        return telling

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _tell(self) -> None:
        if (gradients_ready := self._gradients_ready()) is not None:
            gradients_ready()

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_step(self, *_: object) -> None:
        if (after := self._after()) is not None:
            after()
