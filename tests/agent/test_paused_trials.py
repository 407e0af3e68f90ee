"""Trainings that wait: there is room for so many, and what was trained the furthest is not what has to go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import metatuner as mt
import pytest
from metatuner.agent.paused_trials import PausedTraining, PausedTrials
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState


def training(curve: list[float], ended: list[list[float]]) -> PausedTraining:
    """One whose generator says when it is ended."""

    def objective() -> Iterator[float]:
        try:
            yield from curve
            yield 0.0
        finally:
            ended.append(curve)

    generator = objective()
    for _ in curve:
        next(generator)
    return PausedTraining(generator, curve)


@pytest.mark.parametrize(("maximize", "worst"), [(False, 9.0), (True, 1.0)])
def test_the_worst_of_those_that_were_trained_least_ends(maximize: bool, worst: float) -> None:
    ended: list[list[float]] = []
    kept = PausedTrials(3, maximize=maximize)
    for number, curve in enumerate([[9.5, 9.5], [0.5, 0.5], [1.0], [9.0]]):
        kept.keep(number, training(curve, ended))
    assert ended == [[worst]]
    assert [number in kept for number in range(4)] == [True, True, maximize is False, maximize is True]
    kept.keep(4, training([math.nan], ended))
    assert math.isnan(ended[-1][0]) and 4 not in kept
    kept.close()
    assert len(ended) == 5


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_search_with_more_trials_than_can_wait_finishes_its_best(direction: str) -> None:
    sign = 1 if direction == "minimize" else -1

    def train(config: Mapping[str, Any]) -> Iterator[float]:
        # The later, the worse: whatever comes first is the best there will be.
        order.append(config["x"])
        distance = len(order) + config["x"]
        alive.add(distance)
        try:
            for unit in range(1, 17):
                most.append(len(alive))
                yield sign * (distance - unit / 100)
        finally:
            alive.remove(distance)

    for seed in range(3):
        order: list[float] = []
        alive: set[float] = set()
        most: list[int] = []
        result = mt.tune(
            train,
            {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)},
            budget=3,
            units=16,
            seed=seed,
            direction=direction,
            most_paused=4,
            recorder=NullRecorder(),
        )
        finished = [trial for trial in result.trials if trial.state is TrialState.COMPLETE]
        assert len(order) > 4 and finished
        assert max(most) == 5 and not alive  # one is trained while the others wait
        assert result.best_config["x"] == order[0]
