"""Past tasks may mislead: two surrogates, one that believes them and one that does not, and odds between them.

Which one foretells is drawn by how likely either makes what was seen (Thompson 1933), so that past tasks are doubted
now and then before they have proved to be right or wrong, and hardly ever after. A surrogate that always believes them
would not find out: where they tell it to look is where it looks. Values tell whom to believe where past tasks foretell
differences between them, so a search does well to try something early that they do not praise.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from .surrogate import Foretold, Observed, Queried, Surrogate

_LOG_ODDS = math.log(0.1)  # that past tasks mislead, before anything was seen
_HARDLY = 0.02  # as likely as this, it is not looked at again before there are more values
_MORE = 1.3
_LEAST = 12  # values; fewer tell too little where all are of what past tasks praise
_TESTED, _LEAST_TESTED = 0.5, 3  # where past tasks foretell so large a difference, in their units, fewer are enough
_WAIT = 0.75  # full trainings: where values cost less than that, there is no hurry, and more of them tell more


class DoubtingSurrogate:
    """A surrogate with past tasks, see `Surrogate`, and another one without.

    Args:
        rungs: Fractions of a full training, ascending, the last one 1.
        scales: Of the past tasks, shape (T,).
        seed: What is random follows from it.

    Attributes:
        believes: Whether past tasks have a say, as of the last fit.
    """

    def __init__(self, rungs: tuple[float, ...], scales: NDArray[np.float64], seed: int) -> None:
        self._believing, self._doubting = Surrogate(rungs, scales, seed), Surrogate(rungs, None, seed)
        self._random = np.random.default_rng([seed, 1])
        self._due, self._least = 0, _LEAST
        self._least_tested = min(max(round(_WAIT / rungs[0]), _LEAST_TESTED), _LEAST)
        self._doubt = 0.0
        self.believes = True

    def fit(self, observed: Observed) -> None:
        """Fits to values, and draws whom to believe."""
        self._believing.fit(observed)
        n = len(observed.values)
        if observed.expected is not None and np.ptp(observed.expected.mean(0)) >= _TESTED:
            self._least = self._least_tested
        if n >= max(self._due, self._least):
            self._doubting.fit(dataclasses.replace(observed, expected=None))
            # Its values are standardised: their mean and unit are fitted to them (Schwarz 1978).
            odds = _LOG_ODDS + self._doubting.evidence - self._believing.evidence - math.log(n)
            self._doubt = 1 / (1 + math.exp(-np.clip(odds, -50, 50)))
            self._due = math.ceil(_MORE * n) if self._doubt < _HARDLY else 0
        self.believes = n < max(self._due, self._least) or self._random.random() >= self._doubt

    def foretell(self, queried: Queried) -> Foretold:
        """Foretells values after full trainings, as whoever is believed does."""
        if self.believes:
            return self._believing.foretell(queried)
        return self._doubting.foretell(dataclasses.replace(queried, expected=None))
