"""Past tasks may mislead: who believes them and who does not search in turn, by how likely either is right.

What believes past tasks looks where they tell it to, and does not find out that it is better elsewhere. So the budget
is shared: who does not believe them has as large a part of it as there is doubt (probability matching, Thompson 1933),
in stretches that are long enough to train what was started. Doubt begins with how often past tasks mislead each other,
and follows the density that is given to what is seen. Curves may be foretold rightly though the wrong configurations
are praised: so what is believed is weighed against the same curves for all configurations, too.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from .surrogate import Foretold, Observed, Queried, Surrogate

Array = NDArray[np.float64]

_TEMPER = 0.3  # power of the densities: models are wrong in detail (Grünwald 2012)
_HARDLY = 0.02  # as likely as this, doubt is not looked at again before there are more values
_MORE = 1.3
_LEAST = 3  # values; fewer tell too little
_STRETCH, _OF_BUDGET = 1.0, 1 / 8  # full trainings that doubt has at a time, and part of the budget, at most
_OWED = 0.25  # stretches that doubt has coming at the start: what is found early serves long


class DoubtingSurrogate:
    """A surrogate with past tasks, see `Surrogate`, and another one without.

    Args:
        rungs: Fractions of a full training, ascending, the last one 1.
        scales: Of the past tasks, shape (T,).
        usual: What past tasks say of the usual configuration, shape (T, R).
        doubt: How likely past tasks mislead, before anything was seen.
        budget: Full trainings that the search may spend.
        seed: What is random follows from it.

    Attributes:
        believes: Whether past tasks have a say, as of the last fit.
        doubt: How likely they mislead, as of the last fit.
    """

    def __init__(
        self, rungs: tuple[float, ...], scales: Array, usual: Array, *, doubt: float, budget: float, seed: int
    ) -> None:
        self._believing, self._doubting = Surrogate(rungs, scales, seed), Surrogate(rungs, None, seed)
        self._with_curves = Surrogate(rungs, scales, seed)
        self._usual = usual
        self._prior = math.log(doubt / (1 - doubt))
        self._stretch = max(min(_STRETCH, _OF_BUDGET * budget), rungs[0])
        self._owed = _OWED * self._stretch
        self._spent = self._until = 0.0
        self._due = _LEAST
        self.believes, self.doubt = True, doubt

    def fit(self, observed: Observed) -> None:
        """Fits to values, and settles whom to believe."""
        spent = observed.spent
        self._owed += (self.doubt - (not self.believes)) * (spent - self._spent)
        self._spent = spent
        n = len(observed.values)
        weighed = n >= self._due
        if weighed:
            self._weigh(observed)
        if spent >= self._until:
            self.believes = n < _LEAST or self._owed < self._stretch / 2
            self._until = spent if self.believes else spent + self._stretch
        if not weighed:
            self._fit(self.believes, observed)

    def foretell(self, queried: Queried) -> Foretold:
        """Foretells values after full trainings, as whoever is believed does."""
        if self.believes:
            return self._believing.foretell(queried)
        return self._doubting.foretell(dataclasses.replace(queried, expected=None))

    def foretell_ends(self, queried: Queried) -> tuple[Array, Array]:
        """Foretells values after full trainings alone, as whoever is believed does."""
        if self.believes:
            return self._believing.foretell_ends(queried)
        return self._doubting.foretell_ends(dataclasses.replace(queried, expected=None))

    def _weigh(self, observed: Observed) -> None:
        n = len(observed.values)
        self._fit(True, observed)
        self._fit(False, observed)
        self._with_curves.fit(dataclasses.replace(observed, expected=self._usual[:, observed.rungs]))
        odds = self._prior + _TEMPER * (self._with_curves.evidence - self._believing.evidence)
        self.doubt = 1 / (1 + math.exp(-np.clip(odds, -50, 50)))
        self._due = math.ceil(_MORE * n) if self.doubt < _HARDLY else n + 1

    def _fit(self, believing: bool, observed: Observed) -> None:
        if believing:
            self._believing.fit(observed)
        else:
            self._doubting.fit(dataclasses.replace(observed, expected=None))
