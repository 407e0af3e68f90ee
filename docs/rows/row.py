"""A row of the table of results: a figure beside the strongest rival's, or beside what ought to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

BETTER, LEVEL, WORSE, KEPT, MISSED = "better", "level", "**worse**", "kept", "**missed**"

SINGLE_RUNS = ("constant", "stable_decay", "cosine", "plateau", "schedule_free", "prodigy", "hypergradient")
NAMES = {
    "alone": "policy, no prior",
    "asha": "ASHA",
    "best_of_24": "best of 24 cosines",
    "best_of_5": "best of 5 cosines",
    "best of 5, constant": "best of 5 constants",
    "best of 5, cosine": "best of 5 cosines",
    "best of 5, invscaling": "best of 5 of 1 / sqrt(t)",
    "cmaes": "CMA-ES",
    "de": "differential evolution",
    "ga": "genetic algorithm",
    "gp": "Gaussian process",
    "hyperband": "Hyperband",
    "hypergradient": "hypergradient descent",
    "invscaling": "1 / sqrt(t)",
    "median": "median rule",
    "none": "random search",
    "nsga2": "NSGA-II",
    "pb2": "Ray's PB2",
    "pbt": "population based training of 12",
    "portfolio": "static portfolio",
    "portfolio, halving": "portfolio, then halving",
    "stable_decay": "constant, then down to 0",
    "prodigy": "Prodigy",
    "random": "random search",
    "rule": "surrogate alone",
    "schedule_free": "Schedule-Free AdamW",
    "tpe": "TPE",
    "tuned_cosine": "cosine tuned on other seeds",
}


@dataclass(frozen=True)
class Measured:
    """A figure, with the ends of its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def shown(self, digits: int) -> str:
        """As text."""
        ends = "" if self.low is None else f" ({number(self.low, digits)} to {number(self.high, digits)})"
        return number(self.value, digits) + ends


@dataclass(frozen=True)
class Row:
    """One figure beside another."""

    figure: str
    ours: str
    rival: str
    theirs: str
    verdict: str


Reader = Callable[[Any], Iterable[Row]]


def number(value: float | None, digits: int) -> str:
    """As text."""
    return "never" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def against(
    figure: str, ours: Measured | float, rivals: Mapping[str, Measured | float], digits: int, *, best: Any = min
) -> Row:
    """A figure beside the best of its rivals; all of those who share it are named. Level is what looks the same."""
    mine = ours if isinstance(ours, Measured) else Measured(ours)
    others = {name: each if isinstance(each, Measured) else Measured(each) for name, each in rivals.items()}
    top = best(each.value for each in others.values())
    names = [name for name, each in others.items() if each.value == top]
    if number(mine.value, digits) == number(top, digits):
        verdict = LEVEL
    else:
        verdict = BETTER if best(mine.value, top) == mine.value else WORSE
    rival = "; ".join(NAMES.get(name, name) for name in names)
    return Row(figure, mine.shown(digits), rival, others[names[0]].shown(digits), verdict)


def ought(figure: str, ours: str, aim: str, kept: bool) -> Row:
    """A figure without a rival, beside what it ought to be."""
    return Row(figure, ours, "what ought to be", aim, KEPT if kept else MISSED)
