"""What a reader is, and the list of all of them.

A reader is made for a folder of its own. It gives a `Fuzzed`: inputs, and a function that reads one and uses what came
of it, so that what was accepted in error is noticed too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-6, 1.0, log=True),
    "depth": IntDistribution(1, 9),
    "kind": CategoricalDistribution(("a", "b")),
}


@dataclass(frozen=True)
class Fuzzed:
    """A reader that is ready.

    Attributes:
        inputs: What it is given.
        read: Reads one input, and uses what came of it.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]


Reader = Callable[[Path], contextlib.AbstractContextManager[Fuzzed]]

READERS: dict[str, Reader] = {}
"""The readers by name."""


def reader(name: str) -> Callable[[Callable[[Path], Iterator[Fuzzed]]], None]:
    """Notes what is made by the decorated function under a name."""

    def note(made: Callable[[Path], Iterator[Fuzzed]]) -> None:
        READERS[name] = contextlib.contextmanager(made)

    return note
