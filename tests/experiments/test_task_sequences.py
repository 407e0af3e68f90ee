"""What the examples' figures stand or fall with: trainings that take turns, splits, accounts, and the arithmetic."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import pytest
from metatuner.tracking.history import read_history
from optuna.distributions import FloatDistribution

FOLDER = Path(__file__).parents[2] / "experiments" / "task_sequences"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in {path.stem for path in FOLDER.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


PERCEPTRON = {"lr": 0.01, "weight_decay": 0.01, "beta1": 0.9, "dropout": 0.4, "width": 16, "batch_size": 100}
BOOSTING = {"learning_rate": 0.1, "max_depth": 2, "min_samples_leaf": 5, "subsample": 0.5, "max_features": 0.5}


@pytest.mark.parametrize(("name", "config"), [("perceptron", PERCEPTRON), ("boosting", BOOSTING)])
def test_trainings_that_take_turns_are_what_they_are_alone(name: str, config: Mapping[str, float]) -> None:
    train = __import__(name).tasks(3)[-1].train
    alone = list(islice(train(config), 3))
    assert len(set(alone)) == 3
    for one, other, expected in zip(train(config), train({**config, **other_than(config)}), alone, strict=False):
        assert one == expected != other


def other_than(config: Mapping[str, float]) -> dict[str, float]:
    name = next(iter(config))
    return {name: config[name] / 2}


@pytest.mark.parametrize("name", ["perceptron", "boosting"])
def test_parts_share_no_rows(name: str) -> None:
    module = __import__(name)
    load = module.LOADERS["diabetes" if name == "boosting" else "breast cancer"]
    parts = module.split(*(load(0) if name == "boosting" else (load,)), 0)
    rows = np.concatenate([np.asarray(inputs) for inputs, _ in parts.values()])
    assert [len(inputs) for inputs, _ in parts.values()] == pytest.approx(np.array([0.4, 0.4, 0.2]) * len(rows), abs=2)
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_the_next_task_begins_where_the_one_before_was_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sequence

    monkeypatch.setattr(sequence, "BUDGET", 3)
    tried: dict[str, list[float]] = {"first": [], "second": []}

    def train(config: Mapping[str, Any], name: str) -> Iterator[float]:
        tried[name].append(config["x"])
        for unit in range(sequence.UNITS):
            yield (config["x"] - 0.8) ** 2 + 1 / (1 + unit)

    tasks = [sequence.Task(name, functools.partial(train, name=name), lambda config: config["x"], 0) for name in tried]
    example = sequence.Example("example", {"x": FloatDistribution(0, 1)}, lambda seed: tasks, "")
    uri = f"sqlite:///{tmp_path}/runs.db"
    recorder = functools.partial(mt.MLflowRecorder, uri, "example", plots=False, journal=tmp_path)
    first, second = sequence.tuned_in_turn(
        example, tasks, tracking_uri=uri, experiment="example", with_prior=True, recorder=recorder
    )
    assert abs(tried["second"][0] - 0.8) < 0.1 < abs(tried["first"][0] - 0.8)
    assert first.account.spent == second.account.spent == sequence.BUDGET * sequence.UNITS
    # A full training, and what it costs to put the past to the test.
    reached = second.account.reached(first.account.best + 0.01)
    assert reached is not None and sequence.UNITS < reached <= 1.25 * sequence.UNITS
    assert second.account.reached(0.0) is None
    assert {trial.study for trial in read_history("example", tracking_uri=uri)} == {"first", "second"}


def test_the_table_tells_what_was_never_reached() -> None:
    import sequence

    good, bad = (
        sequence.Outcome("a", sequence.Account(finished=[(32, loss), (48, loss / 2)]), 0.7) for loss in (1.0, 4.0)
    )
    cells = sequence.report([good], [bad]).splitlines()[-1].split()
    assert cells == ["a", "0", "tasks", "0.5000", "2.0000", "3.0", "over", "8", "0.7000", "0.7000"]
    assert " 2.0  " in sequence.report([bad], [good])


def test_scores_of_made_up_runs() -> None:
    import scoring

    def run(strategy: str, place: int, finished: list[tuple[int, float]]) -> dict[str, Any]:
        return {
            "strategy": strategy,
            "place": place,
            "task": "a",
            "seed": 0,
            "begun": [0, 2, 9],
            "finished": finished,
            "test": 2.0,
        }

    alone = run("policy", 1, [(10, 3.0), (16, 1.0)])
    others = [run(strategy, place, [(4, 4.0)]) for strategy, place in scoring.ARMS.values() if place == 1]
    told = [run("policy", place, [(6, 2.0), (8, 0.5)]) for place in (2, 3, 4)]
    runs = [alone, *[each for each in others if each["strategy"] != "policy"], *told, run("portfolio", 4, [(4, 4.0)])]
    scores = scoring.Scores.of(runs, budget=2, units=10)
    prior, none = scores.arms["policy, prior from 3 tasks"], scores.arms["policy, no prior"]
    assert (prior.costs[0], none.costs[0]) == (0.8, 1.6)
    assert (prior.begun[0], none.begun[0], prior.losses[0], prior.tests[0]) == (2, 3, 0.5, 1.0)
    assert math.isinf(scores.arms["TPE"].costs[0])
    faultless = [{**run, "finished": [(6, 0.0)], "test": 0.0} for run in runs]
    scored = scoring.Scores.of([*faultless[:1], *runs[1:]], budget=2, units=10).arms["policy, prior from 3 tasks"]
    assert math.isinf(scored.losses[0]) and math.isinf(scored.tests[0])
    assert scoring.Scores.of(faultless, budget=2, units=10).arms["TPE"].losses[0] == 1.0
    assert prior.curves[0, [4, 5, 7, 19]].tolist() == [np.inf, 2.0, 0.5, 0.5]
    assert "| TPE | never (never to never) |" in scores.table()
    assert scoring.median(np.array([1.0, 2.0, np.inf, np.inf])) == 2.0


def test_with_less_a_search_that_knows_its_budget_is_another_one() -> None:
    import scoring

    def run(strategy: str, place: int, budget: int, finished: list[tuple[int, float]], seed: int = 0) -> dict[str, Any]:
        names = ("strategy", "place", "budget", "finished", "seed")
        return {"task": "a", **dict(zip(names, (strategy, place, budget, finished, seed), strict=True))}

    whole = [run("random", 1, 4, [(10, 8.0), (40, 2.0), (50, 1.0)]), run("policy", 1, 4, [(40, 0.1)])]
    found = [
        run("policy", 4, 1, [(10, 3.0)]),
        run("policy", 4, 4, [(10, 9.0), (40, 1.0)]),
        run("random", 1, 4, [(10, 6.0), (40, 4.0)]),
        run("random", 1, 4, [(10, 10.0), (30, 2.0)]),
    ]
    header, _, prior, random = scoring.by_budget(whole, found, (1, 4), 10).splitlines()
    assert "random search's with 4 | B = 1 | B = 4 |" in header
    assert prior == "| policy, prior from 3 tasks | 1.50 (1.50 to 1.50), 0 of 1 | 0.50 (0.50 to 0.50), 1 of 1 |"
    assert random == "| random search | 3.00 (3.00 to 3.00), 0 of 2 | 1.00 (1.00 to 1.00), 1 of 2 |"
