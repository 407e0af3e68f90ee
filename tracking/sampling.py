"""When a trial that runs long is looked at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SamplingDistances:
    """Samples at growing distances: a trial of any length gets at most a few hundred, a short one none.

    With the defaults that are 20 in three minutes, 60 in an hour, 140 in a day and 250 in a year.

    Attributes:
        first_s: How long a trial has run when its first sample is due.
        growth: By which part of the time it has run until then the next sample comes later.
        least_s: The least distance between two samples.
    """

    first_s: float = 10.0
    growth: float = 0.05
    least_s: float = 10.0

    def next_after(self, elapsed_s: float) -> float:
        """How long a trial will have run when it is due for a sample again, having had one now."""
        return elapsed_s + max(self.growth * elapsed_s, self.least_s)


DEFAULT_DISTANCES = SamplingDistances()
