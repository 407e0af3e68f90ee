"""Rows of the experiments with searches, and with what past tasks bring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .row import Measured, Row, against, ought

_OURS = ("policy", "portfolio", "rule")  # and what is told of past tasks as the policy is


def replayed(lines: Any, *, where: str) -> Iterator[Row]:
    """Of search_transfer."""
    strategies = list(dict.fromkeys(strategy for _, strategy, _, _ in lines))
    found: dict[tuple[str, str], list[Sequence[float]]] = {}
    for task, strategy, _, regrets in lines:
        found.setdefault((task, strategy), []).append(regrets)
    told = [name for name in strategies if name.startswith("portfolio")]
    for ours, rivals, past in (
        ("policy", told, "with past tasks"),
        ("rule, no past", [name for name in strategies if not name.startswith(_OURS)], "no past"),
    ):
        # Only tasks that all of these have met can be compared.
        all_of = [ours, *rivals]
        tasks = [task for task in dict.fromkeys(task for task, _ in found) if all((task, s) in found for s in all_of)]
        means = {s: np.mean([np.mean(found[task, s], axis=0) for task in tasks], axis=0) for s in all_of}
        for place, budget in enumerate((1, 4, 10, 25)):
            others = {name: float(means[name][place]) for name in rivals}
            figure = f"regret at B = {budget}, {past}, {where}, {len(tasks)} tasks"
            yield against(figure, float(means[ours][place]), others, 3)


def compared(data: Any, *, run: str) -> Iterator[Row]:
    """Of compare."""
    arms = {each["strategy"]: each for each in data["strategies"]}
    ours = arms.pop("policy")
    for key, figure, digits in (
        ("median", "best loss", 4),
        ("mean_rank", f"mean rank of {len(arms) + 1}", 2),
        ("proposing_s", "seconds a run outside of trainings", 2),
    ):
        ends = ("low", "high") if key == "median" else ()
        values = {name: Measured(each[key], *(each[end] for end in ends)) for name, each in arms.items()}
        mine = Measured(ours[key], *(ours[end] for end in ends))
        yield against(f"{figure}, {run}, {data['repeats']} repeats, no past", mine, values, digits)


def proposals(data: Any) -> Iterator[Row]:
    """Of suggest_time."""
    times = data["median milliseconds"]
    for trials in times["policy"]:
        ours = times["policy"][trials]
        models = {name: times[name][trials] for name in ("tpe", "gp") if trials in times[name]}
        yield against(f"ms a proposal, {int(trials):,} trials; those that fit a model", ours, models, 1)
        others = {name: each[trials] for name, each in times.items() if name not in ("policy", "tpe", "gp")}
        yield against(f"ms a proposal, {int(trials):,} trials; those that fit none", ours, others, 1)


def stream(data: Any) -> Iterator[Row]:
    """Of search_stream."""
    told, alone = (np.array(list(data[name].values())) for name in ("with prior", "without"))
    third = told.shape[1] // 3
    for figure, part in (("all places but the first", slice(1, None)), ("the last third", slice(-third, None))):
        rival = {"alone": float(alone[:, part].mean())}
        yield against(f"regret at B = 4 in a stream of tasks, {figure}", float(told[:, part].mean()), rival, 3)
    rule = np.array(list(data["without, the rule alone"].values()))
    yield against("regret at B = 4, each task by itself", float(alone.mean()), {"rule": float(rule.mean())}, 3)
    ratio = float(told[:, -third:].mean() / told[:, :third].mean())
    yield ought("regret of the last third of the stream over the first", f"{ratio:.2f}", "at most 0.50", ratio <= 0.5)


def sequences(data: Any, *, seeds: str) -> Iterator[Row]:
    """Of task_sequences."""
    for model, runs in data.items():
        arms = _fourth_tasks(runs)
        told, alone = arms.pop("told"), arms["alone"]
        others = {name: each for name, each in arms.items() if name != "alone"}
        where = f"fourth task, {model}, {seeds}"
        for place, level in ((0, "random search"), (1, "the search without a prior")):
            figure = f"trainings until as good as {level}, {where}"
            yield against(figure, told[place], {"alone": alone[place]}, 1)
            yield against(figure, told[place], {name: each[place] for name, each in others.items()}, 1)
        for place, loss in ((2, "validation"), (3, "test")):
            figure = f"{loss} loss over that without a prior, {where}"
            yield against(figure, told[place], {name: each[place] for name, each in arms.items()}, 2)


def sequences_by_budget(data: Any) -> Iterator[Row]:
    """Of the searches of task_sequences that are told how much they may spend."""
    for model, runs in data.items():
        for budget in (1, 2, 4, 8):
            arms = {
                name: _found_within(runs, strategy, place, budget)
                for name, (strategy, place) in {
                    "told": ("policy", 4),
                    "alone": ("policy", 1),
                    "portfolio": ("portfolio", 4),
                    "random": ("random", 1),
                }.items()
            }
            alone = arms["alone"]
            over = {
                name: float(np.median([_over(loss, other) for loss, other in zip(found, alone, strict=True)]))
                for name, found in arms.items()
            }
            ours = over.pop("told")
            yield against(f"validation loss with B = {budget}, over that without a prior, {model}", ours, over, 2)


def _found_within(runs: Any, strategy: str, place: int, budget: int, units: int = 16) -> list[float]:
    """Losses of a strategy's searches with so many trainings, or of the first so many of the only ones."""
    found = [run for run in runs if (run["strategy"], run["place"]) == (strategy, place)]
    least = min(run["budget"] for run in found if run["budget"] >= budget)
    # The order is that of tasks, seeds and searches, for all strategies the same.
    return [
        min((loss for spent, loss in run["finished"] if spent <= budget * units), default=np.inf)
        for run in found
        if run["budget"] == least
    ]


def _fourth_tasks(runs: Any, budget: int = 8, units: int = 16) -> dict[str, list[float]]:
    """Of each way to search: trainings until as good as random search, and as the policy alone; losses over its own."""
    found: dict[tuple[str, int], dict[tuple[str, int], tuple[list[list[float]], float]]] = {}
    for run in runs:
        finished = [each for each in run["finished"] if each[0] <= budget * units]
        found.setdefault((run["strategy"], run["place"]), {})[run["task"], run["seed"]] = finished, run["test"]
    alone, random = found["policy", 1], found["random", 1]
    arms = {}
    told = {"told": ("policy", 4), "alone": ("policy", 1), "portfolio": ("portfolio", 4)}
    for name, arm in {**told, **{name: (name, 1) for name in ("random", "tpe", "hyperband")}}.items():
        pairs = sorted(found[arm])
        of_pairs = [
            [_reached(found[arm][pair][0], _best(level[pair][0])) / units for pair in pairs]
            for level in (random, alone)
        ]
        of_pairs.append([_over(_best(found[arm][pair][0]), _best(alone[pair][0])) for pair in pairs])
        of_pairs.append([_over(found[arm][pair][1], alone[pair][1]) for pair in pairs])
        # The lower median may be infinite.
        arms[name] = [float(np.quantile(each, 0.5, method="inverted_cdf")) for each in of_pairs]
    return arms


def _over(loss: float, other: float) -> float:
    if loss == other:
        return 1.0  # where classes can be told apart without error, both may be 0
    return loss / other if other else np.inf


def _best(finished: list[list[float]]) -> float:
    return min(loss for _, loss in finished)


def _reached(finished: list[list[float]], level: float) -> float:
    return next((spent for spent, loss in finished if loss <= level), np.inf)


def matrix(data: Any) -> Iterator[Row]:
    """Of transfer_matrix."""
    searches = {(each["searcher"], each["past"]): each for each in data["curves"]}
    average = {which: Measured(*each["average"].values()) for which, each in searches.items()}
    last = {which: Measured(*each["regrets"][-1].values()) for which, each in searches.items()}
    most = max(past for _, past in average)
    for when, of in (("over all", average), (f"after {data['trials']}", last)):
        figure = f"regret, {when} trials, {len(data['tasks'])} data sets of LCBench"
        yield against(f"{figure}, {most} as past", of["policy", most], {"rule": of["rule", most]}, 3)
        rivals = {name: of[name, 0] for name in ("rule", "tpe", "random")}
        yield against(f"{figure}, no past", of["policy", 0], rivals, 3)
        yield against(f"{figure}, {most} as past, beside none", of["policy", most], {"alone": of["policy", 0]}, 3)
    for past, of_past in (("one other", data["pairs"]), (f"all {most} others", data["together"])):
        harmed = sum(each["significant"] and each["gain"]["mean"] < 0 for each in of_past)
        yield ought(f"significant harm by {past} as the past", f"{harmed} of {len(of_past)}", "0", not harmed)


def adversarial(data: Any) -> Iterator[Row]:
    """Of adversarial_history."""
    results = data["results"]
    for kind in [each for each in results if each != "no past"]:
        for budget, of_kind in results[kind].items():
            figure = f"regret at B = {budget}, {data['tasks']} generated tasks, past: {kind.replace('_', ' ')}"
            yield against(figure, of_kind["mean"], {"no past": results["no past"][budget]["mean"]}, 3)


def learnt(data: Any) -> Iterator[Row]:
    """Of learn_from_history."""
    for champion, each in data.items():
        figure = f"regret of what was learnt from a history, {len(each['tasks'])} tasks"
        yield against(figure, each["candidate"], {f"`{champion}`, the champion": each["champion"]}, 3)
