"""Trainings that were stopped early and can go on: objectives that yield keep all they know, as generators."""

from __future__ import annotations

import math
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

MOST = 100
"""Trainings that are kept, at most, where nothing else is told: each holds a model in memory."""


@dataclass
class PausedTraining:
    """A training that can go on.

    Attributes:
        generator: The objective, in the middle.
        curve: Its values so far, one a unit.
    """

    generator: Generator[Any, Any, Any]
    curve: list[float] = field(default_factory=list)


class PausedTrials:
    """By the number of the trial that began them. Several threads may use it.

    Args:
        most: Trainings that are kept, at most.
        maximize: Whether high values are good.
    """

    def __init__(self, most: int = MOST, *, maximize: bool = False) -> None:
        self._most, self._maximize = most, maximize
        self._trainings: dict[int, PausedTraining] = {}
        self._lock = threading.Lock()

    def __contains__(self, trial: int) -> bool:
        with self._lock:
            return trial in self._trainings

    def keep(self, trial: int, training: PausedTraining) -> None:
        """Keeps a training; where there are too many, the worst of those that were trained least ends.

        It is the one that is the least likely to go on, and costs the least if it had to begin again.
        """
        with self._lock:
            self._trainings[trial] = training
            ended = [self._trainings.pop(self._least())] if len(self._trainings) > self._most else []
        for each in ended:
            _end(each)

    def _least(self) -> int:
        def worth(trial: int) -> tuple[int, float]:
            curve = self._trainings[trial].curve
            value = curve[-1] if curve else math.nan
            return len(curve), -math.inf if math.isnan(value) else value if self._maximize else -value

        return min(self._trainings, key=worth)

    def take(self, trial: int) -> PausedTraining | None:
        """Hands a training over, to whoever goes on with it; None where it is not kept."""
        with self._lock:
            return self._trainings.pop(trial, None)

    def close(self) -> None:
        """Ends them all."""
        with self._lock:
            ended, self._trainings = list(self._trainings.values()), {}
        for each in ended:
            _end(each)


def _end(training: PausedTraining) -> None:
    try:
        training.generator.close()
    except KeyboardInterrupt:
        raise
    except BaseException:
        pass  # whatever the objective raises at its end: its trial was recorded when it was stopped
