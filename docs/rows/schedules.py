"""Rows of the experiments with schedules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .row import SINGLE_RUNS, Measured, Row, against, ought


def perceptrons(data: Any, *, policy: str = "") -> Iterator[Row]:
    """Of perceptron_search."""
    tasks, ratio = data["tasks"], "loss over the best of 24 cosines"
    arms = ["policy", "tuned_cosine", *(name for name in SINGLE_RUNS if name in data["median_over_tasks"])]
    scores = {name: np.array([each[name]["median_ratio"] for each in tasks.values()]) for name in arms}
    where = f"{len(tasks)} tasks of {'scikit-learn' if data['settings']['data'] == 'scikit-learn' else 'PMLB'}"
    where += f", {policy}" if policy else ""
    single = {name: float(np.median(scores[name])) for name in arms if name in SINGLE_RUNS}
    figure = f"{ratio}, median over {where}; single runs from a random start"
    yield against(figure, float(np.median(scores["policy"])), single, 2)
    for how, over in (("median over", np.median), ("geometric mean over", _geometric_mean), ("worst of", np.max)):
        ours, theirs = float(over(scores["policy"])), float(over(scores["tuned_cosine"]))
        figure = f"{ratio}, {how} {where}; a rate that was searched for"
        yield against(figure, ours, {"tuned_cosine": theirs}, 2)
    worst = float(scores["policy"].max())
    yield against(f"{ratio}, worst of {where}; the search itself", worst, {"best_of_24": 1.0}, 2)


def transfer(data: Any, *, where: str) -> Iterator[Row]:
    """Of schedule_transfer."""
    summary, ratio = data["summary"], "loss over the best of 24 cosines"
    where = f"{summary['policy']['tasks']} tasks, {where}"

    def score(name: str, key: str) -> Measured:
        return Measured(summary[name][key], *summary[name].get(f"{key}_95", ()))

    for key, starts in (("iqm", "all starts"), ("iqm_sensible", "sensible starts")):
        single = {name: score(name, key) for name in SINGLE_RUNS if name in summary}
        yield against(f"{ratio}, {starts}, {where}; single runs", score("policy", key), single, 2)
    key = "iqm_sensible_test"
    single = {name: score(name, key) for name in SINGLE_RUNS if name in summary}
    yield against(f"test {ratio}, sensible starts, {where}; single runs", score("policy", key), single, 2)
    for rival, runs in ((name, runs) for name, runs in (("best_of_5", 5), ("pbt", 12)) if name in summary):
        figure = f"{ratio}, all starts, {where}; {runs} runs instead of one"
        yield against(figure, score("policy", "iqm"), {rival: score(rival, "iqm")}, 2)
    beside = data["policy_against_its_reference"]
    spoilt = max(beside["median"].values())
    yield against(f"loss over that of the schedule it adjusts, worst of {where}", spoilt, {beside["reference"]: 1.0}, 2)


def ablations(lines: Any) -> Iterator[Row]:
    """Of schedule_ablations."""
    found: dict[str, dict[str, float]] = {}
    for line in lines:
        *_, adjusted, split = line["key"].split(" | ")
        values = np.sort(np.ravel(line["ratios"]))
        quarter = len(values) // 4
        found.setdefault(split.replace("_", " "), {})[adjusted] = float(values[quarter:-quarter].mean())
    for split, of_subset in found.items():
        figure = f"loss over the best of 12 cosines, all seven hyperparameters, {split} tasks"
        ours = of_subset.pop("all seven")
        fewer = {f"only {name.replace('_', ' ')}": each for name, each in of_subset.items()}
        yield against(f"{figure}; fewer of them", ours, fewer, 3)
        yield against(figure, ours, {"best of 12 cosines": 1.0}, 3)


def population(data: Any) -> Iterator[Row]:
    """Of ray_population."""
    runs = data["runs"]
    seeds = len({run["seed"] for run in runs})
    rivals = {"Ray's PBT": "pbt", "Ray's PB2": "pb2", "random search": "none"}

    def over_seeds(strategy: str, key: str) -> float:
        middle = np.mean if key == "test_accuracy" else np.median
        return float(middle([run[key] for run in runs if run["strategy"] == strategy]))

    for ours, key, figure, digits, best in (
        ("policy", "val_loss", "loss of the best of 8 trials, median", 3, min),
        ("policy", "median_val_loss", "loss of the median trial of 8, median", 3, min),
        ("policy", "test_accuracy", "test accuracy of the best of 8 trials, mean", 3, max),
        ("policy", "wall_s", "seconds a run, median", 0, min),
        ("blind", "val_loss", "loss of the best of 8 trials without a `TrialProbe`, median", 3, min),
    ):
        others = {name: over_seeds(strategy, key) for name, strategy in rivals.items()}
        yield against(f"{figure} of {seeds} seeds, Ray Tune", over_seeds(ours, key), others, digits, best=best)


def other_frameworks(data: Any) -> Iterator[Row]:
    """Of other_frameworks."""
    starts = len(next(iter(data["settings"]["starts"].values())))
    for model, parts in data["summary"].items():
        for part, figures in parts.items():
            ours = Measured(*figures["policy"])
            single = {name: Measured(*figures[name]) for name in ("constant", "cosine", "invscaling")}
            figure = f"{part} loss over the best of {starts} constants, {model}"
            yield against(f"{figure}; single runs from the same starts", ours, single, 2)
            several = {f"best of {starts}, {name}": Measured(*figures[f"best of {starts}, {name}"]) for name in single}
            yield against(f"{figure}; {starts} runs instead of one", ours, several, 2)


def overhead(data: Any, where: str = "") -> Iterator[Row]:
    """Of schedule_overhead."""
    for case in data["cases"]:
        cost = Measured(case["overhead_percent"], *case["quartiles_percent"]).shown(2)
        figure = f"% more time{where}, {case['model']}, {case['optimizer']}, {case['interval']} steps between decisions"
        yield ought(f"{figure}, {case['on_divergence']}", cost, "at most 1", case["overhead_percent"] <= 1)


def environment(data: Any) -> Iterator[Row]:
    """Of environment_speed."""
    for networks, each in data["results"].items():
        alone = {"one network at a time": each["single_decisions_a_second"]}
        yield against(f"decisions a second, {networks}", each["decisions_a_second"], alone, 0, best=max)


def workers_in_meta_training(data: Any) -> Iterator[Row]:
    """Of meta_training_speed."""
    for what, over in data["over 1, same round, median"].items():
        for workers in [each for each in over if each != "1"]:
            figure = f"decisions a second over those of one worker, {workers} workers, {what}"
            yield against(figure, over[workers], {"one worker": over["1"]}, 2, best=max)


def _geometric_mean(ratios: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(ratios).mean()))
