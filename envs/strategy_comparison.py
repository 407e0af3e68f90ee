"""What came of several strategies on one objective, each with the same budget and several times: plain data.

Who runs them and who draws them do not know each other; this is what passes between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .records import TrialState

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ComparedTrial:
    """A trial of a run.

    Attributes:
        spent: Full trainings that the run had spent when it ended.
        state: How it ended.
        value: Its value, where it finished and is allowed.
        training_s: Seconds in the objective.
        proposing_s: Seconds that everything else took: the strategy, the study's storage and the record.
        to_best: Distance of its configuration to the best one before it (`exploration.proposal_distances`); None where
            there is none, or it goes on with a training that was paused.
        to_nearest: The same to the nearest one before it.
        message: Why it failed.
    """

    spent: float
    state: TrialState
    value: float | None
    training_s: float
    proposing_s: float
    to_best: float | None = None
    to_nearest: float | None = None
    message: str = ""


@dataclass(frozen=True)
class ComparedRun:
    """One study of one strategy.

    Attributes:
        strategy: Who proposed.
        repeat: Which time, from 0.
        seed: What proposals follow from: the same for all strategies of a repeat.
        trials: What was tried, in order.
    """

    strategy: str
    repeat: int
    seed: int
    trials: tuple[ComparedTrial, ...]

    @property
    def failed(self) -> int:
        """How many trials failed."""
        return sum(trial.state is TrialState.FAILED for trial in self.trials)

    @property
    def training_s(self) -> float:
        """Seconds in the objective."""
        return math.fsum(trial.training_s for trial in self.trials)

    @property
    def proposing_s(self) -> float:
        """Seconds in everything else."""
        return math.fsum(trial.proposing_s for trial in self.trials)

    @property
    def wall_s(self) -> Array:
        """Seconds from the run's beginning to the end of each trial, without the times when it was interrupted."""
        return np.cumsum([trial.training_s + trial.proposing_s for trial in self.trials], dtype=np.float64)


@dataclass(frozen=True)
class StrategyComparison:
    """Runs of several strategies, as many of each.

    Losses are values such that less is better: those of a direction "maximize" have the other sign. A run without a
    value has an infinite one.

    Attributes:
        name: The comparison's name.
        objective: The objective's.
        metric: What values are called.
        direction: "minimize" or "maximize".
        budget: Full trainings that each run might spend.
        units: Values that a full training yields; None where every trial cost a full one.
        strategies: Names, in the order that was asked for.
        repeats: Runs of each.
        runs: All runs.
        over: How many of them were there already, of an earlier call.
    """

    name: str
    objective: str
    metric: str
    direction: str
    budget: int
    units: int | None
    strategies: tuple[str, ...]
    repeats: int
    runs: tuple[ComparedRun, ...]
    over: int = 0

    @property
    def sign(self) -> float:
        """What values are multiplied by to be losses."""
        return -1.0 if self.direction == "maximize" else 1.0

    def of(self, strategy: str) -> list[ComparedRun]:
        """A strategy's runs, by repeat."""
        return sorted((run for run in self.runs if run.strategy == strategy), key=lambda run: run.repeat)

    @cached_property
    def finals(self) -> Array:
        """Losses of the best trial of each run, shape (repeats, strategies).

        Within the budget: a training that is begun with the last of it may cost more.
        """
        end = np.array([float(self.budget)])
        return np.concatenate([self.by_spent(strategy, end) for strategy in self.strategies], axis=1)

    def by_spent(self, strategy: str, at: Array) -> Array:
        """The best loss after so many full trainings, shape (repeats, len(at)); `at` has them in ascending order."""
        return np.stack(
            [_steps([trial.spent for trial in run.trials], self._losses(run), at) for run in self.of(strategy)]
        )

    def by_wall(self, strategy: str, at: Array) -> Array:
        """The best loss after so many seconds, shape (repeats, len(at)). A run that is over keeps its last one."""
        return np.stack([_steps(run.wall_s, self._losses(run), at) for run in self.of(strategy)])

    def _losses(self, run: ComparedRun) -> Array:
        """The best loss after each trial."""
        losses = [math.inf if trial.value is None else self.sign * trial.value for trial in run.trials]
        return np.minimum.accumulate(np.array(losses, dtype=np.float64))


def _steps(places: Sequence[float] | Array, heights: Array, at: Array) -> Array:
    """A step function that is infinite before its first place."""
    found = np.searchsorted(np.asarray(places, dtype=np.float64), at + 1e-9, side="right")
    steps: Array = np.concatenate([[math.inf], heights])[found]
    return steps
