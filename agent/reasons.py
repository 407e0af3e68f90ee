"""Why a search does what it does next, in words: what the chosen move promises, and who says so.

Words follow from the figures that the choice was made by, see `envs.search_state`, in units of the distance from the
best to the median configuration. What a new configuration is foretold to gain over the median one of those that were
offered is the sum of two parts: what past tasks expect (the surrogate's mean function), and what the surrogate has
learnt here, how past tasks differ among it. The larger one names the reason. Where the sum is not above zero, it was
not chosen for its mean, but because it might be better than that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..envs.search_state import FEATURES, Moves

_GAIN_UNIT = 0.3  # of the feature `mean_gain`


class Kind(StrEnum):
    """Who says so."""

    GIVEN = "given"
    CHANCE = "chance"
    DESIGN = "design"
    PRIOR = "prior"
    SURROGATE = "surrogate"
    ADJUSTMENT = "adjustment"
    EXPLORATION = "exploration"
    CONTINUATION = "continuation"


@dataclass(frozen=True)
class Reason:
    """Why a trial was proposed.

    Attributes:
        kind: Who says so.
        words: For people.
    """

    kind: Kind
    words: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.words}"


UNKNOWN = Reason(Kind.CHANCE, "the search space is not known before a trial has ended, so it is drawn at random")
GIVEN = Reason(Kind.GIVEN, "it was asked for, or is done again because it was cut off")
CHANCE = Reason(Kind.CHANCE, "the budget pays for no move that the policy knows of, so it is drawn at random")


def reason_of(moves: Moves, chosen: int, *, designs: bool, believes: bool, knows: bool) -> Reason:
    """Why a move is made.

    Args:
        moves: All that might be.
        chosen: Which one is.
        designs: Whether it is too early to be clever.
        believes: Whether past tasks have a say.
        knows: Whether a value has been seen here.
    """
    if moves.trials[chosen] >= 0:
        return Reason(Kind.CONTINUATION, f"trial {moves.trials[chosen]} promises most for what its next units cost")
    if designs:
        return Reason(Kind.DESIGN, "too little is known yet: the middle of the ranges, or a point at random")
    if not knows:
        return Reason(Kind.PRIOR, "past tasks agree on it, and nothing is known of this one")
    starts = moves.possible[: len(moves.trials)] & (moves.trials < 0)
    features = moves.features[: len(moves.trials)]
    gains = _GAIN_UNIT * features[:, FEATURES.index("mean_gain")].astype(float)
    std = _GAIN_UNIT * float(np.exp(features[chosen, FEATURES.index("std")]))
    foretold = f"expected to be {'better' if gains[chosen] > 0 else 'worse'} than the best by {abs(gains[chosen]):.2f}"
    uncertain = f"uncertain by {std:.2f}"
    if features[chosen, FEATURES.index("adjusts")] > 0.5:
        return Reason(Kind.ADJUSTMENT, f"close to one of the best trials; {foretold}, {uncertain}")
    ahead = _advantage(gains, starts, chosen)
    if ahead <= 0:
        return Reason(Kind.EXPLORATION, f"it may be much better than it looks; {foretold}, {uncertain}")
    prior = (
        _advantage(-moves.expected[..., -1].mean(0), starts, chosen) if believes and moves.expected is not None else 0.0
    )
    here = ahead - prior
    parts = f"over the median candidate {prior:+.2f} by past tasks and {here:+.2f} by this one's trials"
    return Reason(Kind.PRIOR if prior > here else Kind.SURROGATE, f"{foretold}, {uncertain}; {parts}")


def _advantage(values: NDArray[np.float64], starts: NDArray[np.bool_], chosen: int) -> float:
    """Over the median of the new configurations that were offered."""
    return float(values[chosen] - np.median(values[starts]))
