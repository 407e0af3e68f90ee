"""A search space read off past trials, where nobody gives one: what was varied, within the range in which it was.

A hyperparameter counts where at least half of the tasks have varied it, and have it in nearly all of their trials: what
tells tasks apart, such as a data set's size, is none, and neither is what only some configurations have. Numbers have
the range that was seen, whole ones as integers, and a logarithmic scale where that spans two decades or more; texts are
choices. What has more texts than anybody would choose from, such as paths and ids, is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..envs.errors import StoreError
from .told_trials import ToldTrial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_MOST_CHOICES = 32
_NEARLY_ALL = 0.9
_DECADES = 100.0  # the greatest value over the least from which a scale is logarithmic


def told_space(trials: Iterable[ToldTrial], address: str) -> dict[str, BaseDistribution]:
    """The search space of trials, which are read once: Optuna's distributions by name.

    Args:
        trials: The past trials; those that tell nothing do not count.
        address: Where they come from, for messages.

    Raises:
        StoreError: No hyperparameter was varied.
    """
    values: dict[str, _Values] = {}
    tasks: Counter[str] = Counter()
    read = 0
    for trial in trials:
        read += 1
        if trial.says_something:
            tasks[trial.task] += 1
            for name, text in trial.params.items():
                values.setdefault(name, _Values()).add(trial.task, text)
    if read and not tasks:
        raise StoreError(f"none of the {read} past trials of {address!r} tells a value: name another metric")
    told = {name: each.distribution() for name, each in values.items() if 2 * each.varied_in(tasks) >= len(tasks)}
    space = {name: each for name, each in told.items() if each is not None and not each.single()}
    if not space:
        raise StoreError(
            f"no hyperparameter of {address!r} was varied in at least half of its {len(tasks)} tasks: name another "
            "experiment or table, or give the search space"
        )
    return space


@dataclass(slots=True)
class _Values:
    told: Counter[str] = field(default_factory=Counter)  # trials that tell it, by their task
    first: dict[str, str] = field(default_factory=dict)  # of each task
    varied: set[str] = field(default_factory=set)  # tasks that have another one, too
    low: float = math.inf
    high: float = -math.inf
    whole: bool = True
    numeric: bool = True
    texts: dict[str, None] = field(default_factory=dict)

    def add(self, task: str, text: str) -> None:
        self.told[task] += 1
        if self.first.setdefault(task, text) != text:
            self.varied.add(task)
        if len(self.texts) <= _MOST_CHOICES:
            self.texts[text] = None
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            self.numeric = False
            return
        self.low, self.high = min(self.low, number), max(self.high, number)
        self.whole = self.whole and number.is_integer() and abs(number) < 2**53

    def varied_in(self, tasks: Mapping[str, int]) -> int:
        """In how many of the tasks, whose trials are counted, it was varied."""
        return sum(self.told[task] >= _NEARLY_ALL * tasks[task] for task in self.varied)

    def distribution(self) -> BaseDistribution | None:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if not self.numeric:
            return CategoricalDistribution(list(self.texts)) if len(self.texts) <= _MOST_CHOICES else None
        log = self.low > 0 and self.high / self.low >= _DECADES
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=log)
        return FloatDistribution(self.low, self.high, log=log)
