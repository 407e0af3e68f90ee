"""Why a search does what it does next, in words: what the chosen move promises, and who says so.

Words follow from the figures that the choice was made by, see `envs.search_moves`, in units of the distance from the
best to the median configuration. What a new configuration is foretold to gain over the median one of those that were
offered is the sum of two parts: what past tasks expect (the surrogate's mean function), and what the surrogate has
learnt here, how past tasks differ among it. The larger one names the reason. Where the sum is not above zero, it was
not chosen for its mean, but because it might be better than that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.search_moves import FEATURES, Moves

_NAMED = 2
"""Past tasks that a reason names at most."""


class Source(StrEnum):
    """Who says so."""

    GIVEN = "given"
    CHANCE = "chance"
    DESIGN = "design"
    TEST = "test"
    PRIOR = "prior"
    SURROGATE = "surrogate"
    ADJUSTMENT = "adjustment"
    EXPLORATION = "exploration"
    CONTINUATION = "continuation"


@dataclass(frozen=True)
class Reason:
    """Why a trial was proposed.

    Attributes:
        source: Who says so.
        words: For people.
        foretold: The figures that it was chosen by, in units of the distance from the best to the median configuration:
            `gain` over the best one and its `uncertainty` (a standard deviation), where they are known, and how much
            of the gain over the median candidate is `by_past` and how much `by_trials` of this study.
    """

    source: Source
    words: str
    foretold: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.source}: {self.words}"

    def as_dict(self) -> dict[str, Any]:
        """For storages, as `envs.records.WHY_ATTRIBUTE` is."""
        return {"source": str(self.source), "words": self.words, "foretold": dict(self.foretold)}


UNKNOWN = Reason(Source.CHANCE, "the search space is not known before a trial has ended, so it is drawn at random")
GIVEN = Reason(Source.GIVEN, "it was asked for, or is done again because it was cut off")
EXHAUSTED = Reason(Source.CHANCE, "every configuration has been tried, so one is drawn at random")
CHANCE = Reason(Source.CHANCE, "the budget pays for no move that the policy knows of, so it is drawn at random")


def reason_of(
    moves: Moves,
    chosen: int,
    *,
    designs: bool,
    tests: bool,
    believes: bool,
    knows: bool,
    names: Sequence[str] = (),
) -> Reason:
    """Why a move is made, and whether past tasks were left out of it.

    Args:
        moves: All that might be.
        chosen: Which one is.
        designs: Whether it is too early to be clever.
        tests: Whether past tasks are put to the test.
        believes: Whether past tasks have a say.
        knows: Whether a value has been seen here.
        names: Names of the past tasks, as `moves.expected` has them; empty where a task has none.
    """
    why = _reason_of(moves, chosen, designs, tests, believes, knows, names)
    return why if believes or tests else replace(why, words=f"{why.words}; past tasks, which may mislead, had no say")


def _reason_of(
    moves: Moves, chosen: int, designs: bool, tests: bool, believes: bool, knows: bool, names: Sequence[str]
) -> Reason:
    foretold = _figures(moves, chosen, believes=believes)
    if moves.trials[chosen] >= 0:
        words = f"trial {moves.trials[chosen]} promises most for what its next units cost"
        return Reason(Source.CONTINUATION, words, foretold)
    if designs:
        return Reason(Source.DESIGN, "too little is known yet: the middle of the ranges, or a point at random")
    if tests:
        return Reason(Source.TEST, "are past tasks right? the middle of the ranges, where one would begin without them")
    if not knows:
        words = f"past tasks agree on it{_named(moves, chosen, names)}, and nothing is known of this one"
        return Reason(Source.PRIOR, words, foretold)
    gain = foretold["gain"]
    expected = f"expected to be {'better' if gain > 0 else 'worse'} than the best by {abs(gain):.2f}"
    expected += f", uncertain by {foretold['uncertainty']:.2f}"
    if moves.features[chosen, FEATURES.index("adjusts")] > 0.5:
        return Reason(Source.ADJUSTMENT, f"close to one of the best trials; {expected}", foretold)
    prior, here = foretold["by_past"], foretold["by_trials"]
    if prior + here <= 0:
        return Reason(Source.EXPLORATION, f"it may be much better than it looks; {expected}", foretold)
    if not believes:
        return Reason(Source.SURROGATE, f"{expected}; {here:+.2f} over the median candidate", foretold)
    most = _named(moves, chosen, names) if prior > 0 else ""
    parts = f"over the median candidate {prior:+.2f} by past tasks{most} and {here:+.2f} by this one's trials"
    return Reason(Source.PRIOR if prior > here else Source.SURROGATE, f"{expected}; {parts}", foretold)


def _figures(moves: Moves, chosen: int, *, believes: bool) -> dict[str, float]:
    gains, starts = moves.foretold[:, 0], moves.trials < 0
    if np.isnan(gains[chosen]):
        return {}
    found = {"gain": float(gains[chosen]), "uncertainty": float(moves.foretold[chosen, 1])}
    if starts[chosen]:
        past = moves.expected if believes else None
        prior = 0.0 if past is None else _advantage(-past[..., -1].mean(0), starts, chosen)
        found |= {"by_past": prior, "by_trials": _advantage(gains, starts, chosen) - prior}
    return found


def _named(moves: Moves, chosen: int, names: Sequence[str]) -> str:
    """Those past tasks that speak for a new configuration most, in brackets; nothing where none does."""
    if moves.expected is None or not names:
        return ""
    gains = [_advantage(-expected[:, -1], moves.trials < 0, chosen) for expected in moves.expected]
    most = sorted(range(len(names)), key=lambda task: -gains[task])[:_NAMED]
    told = [f"{names[task]} {gains[task]:+.2f}" for task in most if names[task] and gains[task] > 0]
    return f" (most by {' and '.join(told)})" if told else ""


def _advantage(values: NDArray[np.float64], starts: NDArray[np.bool_], chosen: int) -> float:
    """Over the median of the new configurations that were offered."""
    return float(values[chosen] - np.median(values[starts]))
