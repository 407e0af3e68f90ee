"""Past trials against today's search space: in part, in other ranges, damaged, and very many."""

from __future__ import annotations

import functools
import logging
import math
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metatuner as mt
import pytest
from metatuner.envs.errors import StoreError
from metatuner.envs.prior import Prior
from metatuner.envs.records import NullRecorder, TrialState
from metatuner.tracking.matching import matched
from metatuner.tracking.past_studies import past_studies
from metatuner.tracking.table_export import write_table
from metatuner.tracking.task_sample import BEST, OTHERS
from metatuner.tracking.told_trials import ToldTrial, told_runs
from mlflow import MlflowClient
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState as OptunaState

SPACE = {
    "lr": FloatDistribution(1e-5, 1.0, log=True),
    "depth": IntDistribution(2, 10, step=2),
    "kind": CategoricalDistribution(["a", "b"]),
    "fixed": IntDistribution(7, 7),
}


def match(trials: list[ToldTrial], **options: Any) -> Prior:
    return matched(trials, SPACE, "table:x", metric="loss", **options)


def task(name: str, n: int = 5, **params: str) -> list[ToldTrial]:
    """Trials of several learning rates, the smallest of which is the best."""
    return [ToldTrial(name, {"lr": str(10.0 ** -(i % 5)), **params}, 5 - i % 5 + i / 100) for i in range(n)]


def test_it_says_what_it_matched() -> None:
    prior = match(
        [
            *task("whole", depth="3", kind="a", fixed="7", width="9"),
            *task("part", depth="4", seed="1"),
            *task("thin", 3),
            *task("strange", width="5"),
            *[ToldTrial("same", {"lr": "0.1"}, float(i)) for i in range(6)],
            ToldTrial("part", {"lr": "0.5"}, 1.0),
            ToldTrial("part", {"lr": "2"}, 1.0),
            ToldTrial("part", {"lr": "fast"}, 1.0),
            ToldTrial("whole", {"lr": "0.1", "depth": "3", "kind": "a", "fixed": "8"}, 1.0),
            ToldTrial("other", {"width": "9"}, 1.0),
            ToldTrial("part", {"lr": "0.1", "depth": "4"}, None),
        ]
    )
    assert prior.match.lines() == [
        "prior table:x: 10 trials of 30 count, of 2 past tasks",
        "  known by every task: lr, depth",
        "  known by some tasks: kind (by 1 of 2)",
        "  no longer here: width, seed",
        "  trials left out: 3 out of today's ranges, 1 without what others of their task have, "
        "1 without any hyperparameter of this space, 1 without a value",
        "  tasks left out: 2 with too few trials, or all at one point, 1 with less than half of the hyperparameters",
    ]
    params = {study.study_name: {key for trial in study.trials for key in trial.params} for study in prior.studies}
    assert params["whole"] == set(SPACE) and params["part"] == {"lr", "depth"}
    assert match(task("t", depth="4")).match.lines()[2] == "  new here: kind"


def test_choices_are_matched_by_text_and_numbers_by_value() -> None:
    space = {"rate": CategoricalDistribution([0.001, "auto", True]), "n": IntDistribution(1, 9)}
    texts = ["1e-3", "auto", "True", "0.0010", "1", "0.002"]
    trials = [ToldTrial("t", {"rate": text, "n": str(i + 1)}, 1.0) for i, text in enumerate(texts)]
    (study,) = matched(trials, space, "table:x", metric="loss").studies
    assert [trial.params["rate"] for trial in study.trials] == [0.001, "auto", True, 0.001]


def test_a_text_that_means_two_choices_counts_for_neither() -> None:
    trials = [ToldTrial("t", {"c": text, "n": str(i)}, 1.0) for i, text in enumerate(["1", "1", "b", "b", "b"])]
    space = {"c": CategoricalDistribution([1, "1", "b"]), "n": IntDistribution(0, 9)}
    prior = matched(trials, space, "table:x", metric="loss")
    assert [trial.params["c"] for trial in prior.studies[0].trials] == ["b"] * 3
    assert prior.match.out_of_range == 2


def test_failures_and_values_that_are_no_numbers_tell_of_failure() -> None:
    trials, bad = task("t", 8, depth="4"), {"lr": "0.9", "depth": "4"}
    trials += [ToldTrial("t", bad, value) for value in (math.nan, math.inf, -math.inf, 1.7976931348623157e308)]
    trials += [ToldTrial("t", bad, 3.0, {}, TrialState.FAILED), ToldTrial("t", bad, None)] * 4
    trials += trials  # every run twice
    (study,) = match(trials).studies
    states = [trial.state for trial in study.trials]
    assert states.count(OptunaState.FAIL) == 16 and states.count(OptunaState.COMPLETE) == 16
    found = mt.tune(lambda config: config["lr"], SPACE, 2, past=[study], recorder=NullRecorder())
    assert found.best_value < 0.01


def test_one_run_is_no_reason_to_stop() -> None:
    prior = match(task("t", 1))
    assert prior.match.tasks == 0 and prior.match.thin_tasks == 1
    assert len(mt.tune(lambda config: config["lr"], SPACE, 2, past=prior.studies, recorder=NullRecorder()).trials) == 2
    with pytest.raises(
        StoreError, match=r"none of the 1 past runs of 'table:x'.*: 1 without any of lr, depth, kind, but with width"
    ):
        match([ToldTrial("t", {"width": "1"}, 1.0)])


def test_of_very_many_trials_the_best_and_a_sample_are_kept() -> None:
    n, drawn = 9_000, random.Random(1)
    values = [drawn.random() for _ in range(n)]
    trials = [ToldTrial("t", {"lr": "0.1", "depth": str(2 + i % 9)}, value) for i, value in enumerate(values)]
    for direction, best in (("minimize", sorted(values)), ("maximize", sorted(values, reverse=True))):
        prior = match(trials, direction=direction)
        kept = [trial.value for trial in prior.studies[0].trials]
        assert len(kept) == BEST + OTHERS and prior.match.spare == n - len(kept)
        assert sorted(kept, reverse=direction == "maximize")[:BEST] == best[:BEST]
        others = sorted(kept, reverse=direction == "maximize")[BEST:]
        assert abs(sum(others) / len(others) - sum(best[BEST:]) / len(best[BEST:])) < 0.03
        assert [values.index(value) for value in kept] == sorted(values.index(value) for value in kept)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_what_went_the_other_way_is_turned_round(direction: str) -> None:
    other = {"minimize": "maximize", "maximize": "minimize"}[direction]
    trials = [
        ToldTrial(name, {"lr": str(10.0 ** -(i + 1))}, float(i), {1: float(i)}, direction=told)
        for name, told in (("this", direction), ("other", other), ("unsaid", None))
        for i in range(5)
    ]
    prior = match(trials, direction=direction)
    assert prior.match.lines()[-1].endswith("what was good there were values at the other end: 1 task")
    best = {study.study_name: study.best_trial for study in prior.studies}
    high, low = (4.0, 0.0) if direction == "maximize" else (0.0, 4.0)
    assert [(best[name].value, best[name].intermediate_values) for name in ("this", "unsaid", "other")] == [
        (high, {1: high}),
        (high, {1: high}),
        (-low, {1: -low}),
    ]
    assert "turned" not in " ".join(match(trials[:5], direction=direction).match.lines())


def test_of_a_curve_the_rungs_are_kept() -> None:
    curve = {step: 1 / step for step in range(1, 101)}
    (study,) = match([ToldTrial("t", {"lr": "0.1"}, 0.01, curve)], units=64).studies
    assert list(study.trials[0].intermediate_values) == [4, 8, 16, 32, 64, 100]
    (study,) = match([ToldTrial("t", {"lr": "0.1"}, 0.01, curve)]).studies
    assert study.trials[0].intermediate_values == curve


def train(config: dict[str, Any]) -> Iterator[float]:
    for epoch in range(1, 5):
        if config["lr"] > 0.5:
            raise FloatingPointError("diverged")
        yield abs(math.log10(config["lr"]) + 2) + abs(config.get("depth", 6) - 4) + 1 / epoch


def proposals(**options: Any) -> list[dict[str, Any]]:
    trials = mt.tune(train, SPACE, 3, name="now", units=4, seed=5, recorder=NullRecorder(), **options).trials
    return [trial.params for trial in trials]


def test_a_table_proposes_what_the_store_did(uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wider = {"lr": FloatDistribution(1e-6, 1.0), "kind": SPACE["kind"], "width": IntDistribution(1, 9)}
    for name, space, seed in (("whole", SPACE, 0), ("part", wider, 1), ("now", SPACE, 2)):
        mt.tune(train, space, 6, name=name, strategy="asha", units=4, seed=seed, tracking_uri=uri, experiment="e")
    written = write_table(tmp_path / "past.csv", told_runs("e", metric="objective", tracking_uri=uri))
    assert written.tasks == 3
    with caplog.at_level(logging.INFO, "metatuner.agent.priors"):
        from_store = proposals(prior="mlflow:e", tracking_uri=uri, experiment="e")
    assert "known by every task: lr, kind" in caplog.text and "known by some tasks: depth (by 1 of 2)" in caplog.text
    table = f"table:{tmp_path / 'past.csv'}"
    assert proposals(prior=table) == proposals(prior=[table]) == from_store != proposals()
    portfolio = proposals(prior=table, strategy="portfolio")
    assert portfolio == proposals(prior="mlflow:e", tracking_uri=uri, experiment="e", strategy="portfolio")
    match = past_studies("e", SPACE, tracking_uri=uri, own=("now", "e")).match
    assert match.own == 15 and "15 of a study with this one's name" in "\n".join(match.lines())
    assert match.gone == ("width",) and match.tasks == 2


def test_studies_of_one_name_are_as_many_tasks(uri: str) -> None:
    """Their name is the function's, where none is given."""
    space = {"lr": SPACE["lr"]}
    for experiment, best in (("a", -4), ("b", -1), ("b", -2)):
        objective = functools.partial(lambda config, best: (math.log10(config["lr"]) - best) ** 2 + best, best=best)
        mt.tune(objective, space, 8, name="train", tracking_uri=uri, experiment=experiment)
    told = list(told_runs("[ab]", metric="objective", tracking_uri=uri))
    assert Counter(trial.task for trial in told) == {"train": 8, "train (2)": 8, "train (3)": 8}
    assert min(trial.value for trial in told if trial.task == "train (3)") == pytest.approx(-2, abs=0.5)  # type: ignore[type-var]
    match = past_studies("[ab]", space, tracking_uri=uri, own=("train", "b")).match
    assert (match.tasks, match.own) == (1, 16)
    assert past_studies("[ab]", space, tracking_uri=uri, own=("train", "now")).match.tasks == 3
    with pytest.raises(StoreError, match=r"none of the 8 past runs.*: 8 of this very study; give it another name"):
        past_studies("a", space, tracking_uri=uri, own=("train", "a"))


def test_an_accuracy_tells_where_an_error_is_low(uri: str, tmp_path: Path) -> None:
    def train(config: dict[str, Any], sign: int) -> float:
        return sign * (math.log10(config["lr"]) + 4) ** 2

    space = {"lr": SPACE["lr"]}
    options: dict[str, Any] = {"tracking_uri": uri, "experiment": "e"}
    mt.tune(functools.partial(train, sign=-1), space, 12, name="accuracy", direction="maximize", **options)
    write_table(tmp_path / "past.csv", told_runs("e", metric="objective", tracking_uri=uri))
    for prior in ("mlflow:e", f"table:{tmp_path / 'past.csv'}"):
        error = functools.partial(train, sign=1)
        told = mt.tune(error, space, 2, name="error", prior=prior, tracking_uri=uri, recorder=NullRecorder())
        assert abs(math.log10(told.trials[0].params["lr"]) + 4) < 0.5


def test_the_study_tells_its_prior(uri: str, tmp_path: Path) -> None:
    write_table(tmp_path / "past.csv", task("t", 8, depth="4", width="3"))
    address = f"table:{tmp_path / 'past.csv'}"
    result = mt.tune(train, SPACE, 1, name="now", units=4, tracking_uri=uri, experiment="e", prior=address)
    tags = MlflowClient(uri).get_run(result.run_id).data.tags
    assert tags["metatuner.prior"].splitlines() == [
        f"prior {address}: 8 trials of 8 count, of 1 past task",
        "  known by every task: lr, depth",
        "  new here: kind",
        "  no longer here: width",
    ]
