"""The table of all results, read out of the experiments' JSON files: a reader for each file, or the reason why none.

A figure stands beside the strongest rival of the same experiment, or beside what ought to be. Whatever a reader
compares, it compares in all files of its kind, whether we are ahead there or behind.

Whoever adds an experiment adds its files to `READERS`, or to `WITHOUT_ROWS`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BETTER, LEVEL, WORSE, KEPT, MISSED = "better", "level", "**worse**", "kept", "**missed**"

SINGLE_RUNS = ("constant", "stable_decay", "cosine", "plateau", "schedule_free", "prodigy", "hypergradient")
NAMES = {
    "alone": "policy, no prior",
    "asha": "ASHA",
    "best_of_24": "best of 24 cosines",
    "best_of_5": "best of 5 cosines",
    "best of 5, constant": "best of 5 constants",
    "best of 5, cosine": "best of 5 cosines",
    "best of 5, invscaling": "best of 5 of 1 / sqrt(t)",
    "cmaes": "CMA-ES",
    "de": "differential evolution",
    "ga": "genetic algorithm",
    "gp": "Gaussian process",
    "hyperband": "Hyperband",
    "hypergradient": "hypergradient descent",
    "invscaling": "1 / sqrt(t)",
    "median": "median rule",
    "none": "random search",
    "nsga2": "NSGA-II",
    "pb2": "Ray's PB2",
    "pbt": "population based training of 12",
    "portfolio": "static portfolio",
    "portfolio, halving": "portfolio, then halving",
    "stable_decay": "constant, then down to 0",
    "prodigy": "Prodigy",
    "random": "random search",
    "rule": "surrogate alone",
    "schedule_free": "Schedule-Free AdamW",
    "tpe": "TPE",
    "tuned_cosine": "cosine tuned on other seeds",
}


@dataclass(frozen=True)
class Measured:
    """A figure, with the ends of its interval where it has one."""

    value: float
    low: float | None = None
    high: float | None = None

    def shown(self, digits: int) -> str:
        """As text."""
        ends = "" if self.low is None else f" ({_number(self.low, digits)} to {_number(self.high, digits)})"
        return _number(self.value, digits) + ends


@dataclass(frozen=True)
class Row:
    """One figure beside another."""

    figure: str
    ours: str
    rival: str
    theirs: str
    verdict: str


Reader = Callable[[Any], Iterable[Row]]


def _number(value: float | None, digits: int) -> str:
    return "never" if value is None or not np.isfinite(value) else f"{value:,.{digits}f}"


def _against(
    figure: str, ours: Measured | float, rivals: Mapping[str, Measured | float], digits: int, *, best: Any = min
) -> Row:
    """A figure beside the best of its rivals; all of those who share it are named. Level is what looks the same."""
    mine = ours if isinstance(ours, Measured) else Measured(ours)
    others = {name: each if isinstance(each, Measured) else Measured(each) for name, each in rivals.items()}
    top = best(each.value for each in others.values())
    names = [name for name, each in others.items() if each.value == top]
    if _number(mine.value, digits) == _number(top, digits):
        verdict = LEVEL
    else:
        verdict = BETTER if best(mine.value, top) == mine.value else WORSE
    rival = "; ".join(NAMES.get(name, name) for name in names)
    return Row(figure, mine.shown(digits), rival, others[names[0]].shown(digits), verdict)


def _ought(figure: str, ours: str, aim: str, kept: bool) -> Row:
    """A figure without a rival, beside what it ought to be."""
    return Row(figure, ours, "what ought to be", aim, KEPT if kept else MISSED)


def _perceptrons(data: Any, *, policy: str = "") -> Iterator[Row]:
    tasks, ratio = data["tasks"], "loss over the best of 24 cosines"
    arms = ["policy", "tuned_cosine", *(name for name in SINGLE_RUNS if name in data["median_over_tasks"])]
    scores = {name: np.array([each[name]["median_ratio"] for each in tasks.values()]) for name in arms}
    where = f"{len(tasks)} tasks of {'scikit-learn' if data['settings']['data'] == 'scikit-learn' else 'PMLB'}"
    where += f", {policy}" if policy else ""
    single = {name: float(np.median(scores[name])) for name in arms if name in SINGLE_RUNS}
    figure = f"{ratio}, median over {where}; single runs from a random start"
    yield _against(figure, float(np.median(scores["policy"])), single, 2)
    for how, over in (("median over", np.median), ("geometric mean over", _geometric_mean), ("worst of", np.max)):
        ours, theirs = float(over(scores["policy"])), float(over(scores["tuned_cosine"]))
        figure = f"{ratio}, {how} {where}; a rate that was searched for"
        yield _against(figure, ours, {"tuned_cosine": theirs}, 2)
    worst = float(scores["policy"].max())
    yield _against(f"{ratio}, worst of {where}; the search itself", worst, {"best_of_24": 1.0}, 2)


def _geometric_mean(ratios: NDArray[np.float64]) -> float:
    return float(np.exp(np.log(ratios).mean()))


def _transfer(data: Any, *, where: str) -> Iterator[Row]:
    summary, ratio = data["summary"], "loss over the best of 24 cosines"
    where = f"{summary['policy']['tasks']} tasks, {where}"

    def score(name: str, key: str) -> Measured:
        return Measured(summary[name][key], *summary[name].get(f"{key}_95", ()))

    for key, starts in (("iqm", "all starts"), ("iqm_sensible", "sensible starts")):
        single = {name: score(name, key) for name in SINGLE_RUNS if name in summary}
        yield _against(f"{ratio}, {starts}, {where}; single runs", score("policy", key), single, 2)
    key = "iqm_sensible_test"
    single = {name: score(name, key) for name in SINGLE_RUNS if name in summary}
    yield _against(f"test {ratio}, sensible starts, {where}; single runs", score("policy", key), single, 2)
    for rival, runs in ((name, runs) for name, runs in (("best_of_5", 5), ("pbt", 12)) if name in summary):
        figure = f"{ratio}, all starts, {where}; {runs} runs instead of one"
        yield _against(figure, score("policy", "iqm"), {rival: score(rival, "iqm")}, 2)
    against = data["policy_against_its_reference"]
    spoilt = max(against["median"].values())
    yield _against(
        f"loss over that of the schedule it adjusts, worst of {where}", spoilt, {against["reference"]: 1.0}, 2
    )


def _ablations(lines: Any) -> Iterator[Row]:
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
        yield _against(f"{figure}; fewer of them", ours, fewer, 3)
        yield _against(figure, ours, {"best of 12 cosines": 1.0}, 3)


def _overhead(data: Any, where: str = "") -> Iterator[Row]:
    for case in data["cases"]:
        cost = Measured(case["overhead_percent"], *case["quartiles_percent"]).shown(2)
        figure = f"% more time{where}, {case['model']}, {case['optimizer']}, {case['interval']} steps between decisions"
        yield _ought(f"{figure}, {case['on_divergence']}", cost, "at most 1", case["overhead_percent"] <= 1)


def _other_frameworks(data: Any) -> Iterator[Row]:
    starts = len(next(iter(data["settings"]["starts"].values())))
    for model, parts in data["summary"].items():
        for part, figures in parts.items():
            ours = Measured(*figures["policy"])
            single = {name: Measured(*figures[name]) for name in ("constant", "cosine", "invscaling")}
            figure = f"{part} loss over the best of {starts} constants, {model}"
            yield _against(f"{figure}; single runs from the same starts", ours, single, 2)
            several = {f"best of {starts}, {name}": Measured(*figures[f"best of {starts}, {name}"]) for name in single}
            yield _against(f"{figure}; {starts} runs instead of one", ours, several, 2)


def _environment(data: Any) -> Iterator[Row]:
    for networks, each in data["results"].items():
        alone = {"one network at a time": each["single_decisions_a_second"]}
        yield _against(f"decisions a second, {networks}", each["decisions_a_second"], alone, 0, best=max)


def _workers_in_meta_training(data: Any) -> Iterator[Row]:
    for what, over in data["over 1, same round, median"].items():
        for workers in [each for each in over if each != "1"]:
            figure = f"decisions a second over those of one worker, {workers} workers, {what}"
            yield _against(figure, over[workers], {"one worker": over["1"]}, 2, best=max)


_OWN = ("policy", "policy, no past", "rule, no past")


def _replayed(lines: Any, *, where: str) -> Iterator[Row]:
    strategies = list(dict.fromkeys(strategy for _, strategy, _, _ in lines))
    found: dict[tuple[str, str], list[Sequence[float]]] = {}
    for task, strategy, _, regrets in lines:
        found.setdefault((task, strategy), []).append(regrets)
    # Only tasks that every strategy has met can be compared.
    tasks = [task for task in dict.fromkeys(task for task, _ in found) if all((task, s) in found for s in strategies)]
    means = {s: np.mean([np.mean(found[task, s], axis=0) for task in tasks], axis=0) for s in strategies}
    told = [name for name in strategies if name.startswith("portfolio")]
    for ours, rivals, past in (
        ("policy", told, "with past tasks"),
        ("policy, no past", [name for name in strategies if name not in (*told, *_OWN)], "no past"),
    ):
        for place, budget in enumerate((1, 4, 10, 25)):
            others = {name: float(means[name][place]) for name in rivals}
            figure = f"regret at B = {budget}, {past}, {where}, {len(tasks)} tasks"
            yield _against(figure, float(means[ours][place]), others, 3)


def _compared(data: Any, *, run: str) -> Iterator[Row]:
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
        yield _against(f"{figure}, {run}, {data['repeats']} repeats, no past", mine, values, digits)


def _proposals(data: Any) -> Iterator[Row]:
    times = data["median milliseconds"]
    for trials in times["policy"]:
        ours = times["policy"][trials]
        models = {name: times[name][trials] for name in ("tpe", "gp") if trials in times[name]}
        yield _against(f"ms a proposal, {int(trials):,} trials; those that fit a model", ours, models, 1)
        others = {name: each[trials] for name, each in times.items() if name not in ("policy", "tpe", "gp")}
        yield _against(f"ms a proposal, {int(trials):,} trials; those that fit none", ours, others, 1)


def _stream(data: Any) -> Iterator[Row]:
    told, alone = (np.array(list(data[name].values())) for name in ("with prior", "without"))
    third = told.shape[1] // 3
    for figure, part in (("all places but the first", slice(1, None)), ("the last third", slice(-third, None))):
        rival = {"alone": float(alone[:, part].mean())}
        yield _against(f"regret at B = 4 in a stream of tasks, {figure}", float(told[:, part].mean()), rival, 3)
    ratio = float(told[:, -third:].mean() / told[:, :third].mean())
    yield _ought("regret of the last third of the stream over the first", f"{ratio:.2f}", "at most 0.50", ratio <= 0.5)


def _sequences(data: Any, *, seeds: str) -> Iterator[Row]:
    for model, runs in data.items():
        arms = _fourth_tasks(runs)
        told, alone = arms.pop("told"), arms["alone"]
        others = {name: each for name, each in arms.items() if name != "alone"}
        where = f"fourth task, {model}, {seeds}"
        for place, level in ((0, "random search"), (1, "the search without a prior")):
            figure = f"trainings until as good as {level}, {where}"
            yield _against(figure, told[place], {"alone": alone[place]}, 1)
            yield _against(figure, told[place], {name: each[place] for name, each in others.items()}, 1)
        for place, loss in ((2, "validation"), (3, "test")):
            figure = f"{loss} loss over that without a prior, {where}"
            yield _against(figure, told[place], {name: each[place] for name, each in arms.items()}, 2)


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
        of_pairs.append([_best(found[arm][pair][0]) / _best(alone[pair][0]) for pair in pairs])
        of_pairs.append([found[arm][pair][1] / alone[pair][1] for pair in pairs])
        # The lower median may be infinite.
        arms[name] = [float(np.quantile(each, 0.5, method="inverted_cdf")) for each in of_pairs]
    return arms


def _best(finished: list[list[float]]) -> float:
    return min(loss for _, loss in finished)


def _reached(finished: list[list[float]], level: float) -> float:
    return next((spent for spent, loss in finished if loss <= level), np.inf)


def _matrix(data: Any) -> Iterator[Row]:
    searches = {(each["searcher"], each["past"]): each for each in data["curves"]}
    average = {which: Measured(*each["average"].values()) for which, each in searches.items()}
    last = {which: Measured(*each["regrets"][-1].values()) for which, each in searches.items()}
    most = max(past for _, past in average)
    for when, of in (("over all", average), (f"after {data['trials']}", last)):
        figure = f"regret, {when} trials, {len(data['tasks'])} data sets of LCBench"
        yield _against(f"{figure}, {most} as past", of["policy", most], {"rule": of["rule", most]}, 3)
        rivals = {name: of[name, 0] for name in ("rule", "tpe", "random")}
        yield _against(f"{figure}, no past", of["policy", 0], rivals, 3)
        yield _against(f"{figure}, {most} as past, beside none", of["policy", most], {"alone": of["policy", 0]}, 3)
    for past, of_past in (("one other", data["pairs"]), (f"all {most} others", data["together"])):
        harmed = sum(each["significant"] and each["gain"]["mean"] < 0 for each in of_past)
        yield _ought(f"significant harm by {past} as the past", f"{harmed} of {len(of_past)}", "0", not harmed)


def _adversarial(data: Any) -> Iterator[Row]:
    results = data["results"]
    for kind in [each for each in results if each != "no past"]:
        for budget, of_kind in results[kind].items():
            figure = f"regret at B = {budget}, {data['tasks']} generated tasks, past: {kind.replace('_', ' ')}"
            yield _against(figure, of_kind["mean"], {"no past": results["no past"][budget]["mean"]}, 3)


def _learnt(data: Any) -> Iterator[Row]:
    for champion, each in data.items():
        figure = f"regret of what was learnt from a history, {len(each['tasks'])} tasks"
        yield _against(figure, each["candidate"], {f"`{champion}`, the champion": each["champion"]}, 3)


def _population(data: Any) -> Iterator[Row]:
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
        yield _against(f"{figure} of {seeds} seeds, Ray Tune", over_seeds(ours, key), others, digits, best=best)


def _dying_nodes(data: Any) -> Iterator[Row]:
    trials, recorded = data["different configurations"], data["in MLflow"]
    sound = data["errors"] == recorded["finished more than once"] == 0 and recorded["same losses as in Ray"]
    for where, finished in (("Ray", data["finished in Ray"]), ("MLflow", recorded["finished, each once"])):
        figure = f"trials finished, each once, {data['nodes killed']} nodes killed, in {where}"
        yield _ought(figure, f"{finished} of {trials}", "all", finished == trials and sound)


def _recording(data: Any) -> Iterator[Row]:
    for store, name in (("sqlite", "SQLite"), ("http", "a server")):
        of_store = data["results"][store]
        rivals = {
            "optuna-integration's MLflowCallback": of_store["optuna_mlflow_callback_ms"],
            "MLflow's storage for Optuna": of_store["mlflow_optuna_storage_ms"],
        }
        yield _against(f"ms a trial that the tuner is held up, {name}", of_store["held_up_ms"]["median"], rivals, 1)
        figure = f"ms a trial in the background, {name} (no rival sends curves and a file)"
        yield _against(figure, of_store["shipping_ms"], rivals, 1)
        ours = Measured(of_store["shipping_to_bare"], *of_store["shipping_to_bare_lowest_and_highest"])
        yield _against(f"time in the background over the least there can be, {name}", ours, {"bare calls": 1.0}, 2)


def _killed(data: Any) -> Iterator[Row]:
    trials = data["settings"]["trials"]
    for what, each in data["results"].items():
        where = f"{each[f'{what[:-1]}_kills']} kills of {what}"
        sound = each["nothing_lost_nothing_twice"]
        done, points = each["trials_finished"], each["points"]
        yield _ought(f"trials finished, each once, {where}", f"{done} of {trials}", "all", sound and done == trials)
        expected = each["points_expected"]
        yield _ought(f"points recorded, {where}", f"{points:,} of {expected:,}", "all", sound and points == expected)


def _fuzzed(data: Any) -> Iterator[Row]:
    inputs, failed = (sum(each[key] for each in data["readers"].values()) for key in ("inputs", "failed"))
    figure = "altered and random inputs that were neither taken nor refused"
    yield _ought(figure, f"{failed:,} of {inputs:,}", "0", not failed)


def _throughput(data: Any) -> Iterator[Row]:
    over = data["median of Optuna's"]
    for arm in [each for each in over if each != "optuna"]:
        figure = f"trials a second over Optuna's, 8 workers, {NAMES.get(arm, arm)}"
        yield _against(figure, over[arm], {"Optuna, TPE": over["optuna"]}, 2, best=max)
    grid = data["grid"]
    tried = f"{grid['different']:,} of {grid['configurations']:,}"
    kept = grid["different"] == grid["configurations"] == grid["trials"]
    yield _ought("configurations tried, each once, 8 workers on a grid", tried, "all", kept)


def _faults(data: Any, *, what: str) -> Iterator[Row]:
    for run in data["runs"]:
        for where in ("in the storage", "in MLflow"):
            found = run[where]
            done = found.get("finished") or found["finished, each once"]
            count, _, trials = done.partition(" of ")
            recorded = run["in MLflow"]
            sound = not (recorded["finished more than once"] or recorded["still running"])
            sound = sound and not recorded["params or values other than in the storage"]
            figure = f"trials finished, each once, {what}, seed {run['seed']}, {where}"
            yield _ought(figure, done, "all", sound and count == trials)


def _clocks_disks_memory(data: Any) -> Iterator[Row]:
    runs = {"wrong clocks": data["clocks"]}
    runs |= {f"full disk, {each['storage']}": each for each in data["full disks"]}
    for what, run in runs.items():
        yield from _faults({"runs": [{**run, "seed": 0}]}, what=what)
    late = max(data["clocks"]["was noticed after, seconds"])
    yield _ought("seconds until a dead worker is noticed, wrong clocks", f"{late:.0f}", "10 to 16", late <= 16)
    for case in data["memory"]:
        figure = f"greedy trials that failed alone, {case['case']}"
        alone = case["failed"] == 2 and not case["failed with other configurations than greedy ones"]
        yield _ought(figure, f"{case['failed']} of 2; {case['finished']} others finished", "all", alone)


def _scale(data: Any) -> Iterator[Row]:
    arms = data["statements and commits of a trial"]
    for arm in [each for each in arms if each != "optuna"]:
        for key in ("statements", "commits"):
            figure = f"{key} of a trial in the database, {NAMES.get(arm, arm)}"
            yield _against(figure, arms[arm][key], {"Optuna, TPE": arms["optuna"][key]}, 1)


READERS: Mapping[str, Mapping[str, Reader]] = {
    "Schedules": {
        "perceptron_search/results_20.json": _perceptrons,
        "perceptron_search/results_datasets_400_20.json": _perceptrons,
        "perceptron_search/bold/results_20.json": partial(_perceptrons, policy="schedule-bold"),
        "perceptron_search/bold/results_datasets_400_20.json": partial(_perceptrons, policy="schedule-bold"),
        "schedule_transfer/results_480.json": partial(_transfer, where="tables and images"),
        "schedule_transfer/text/results_480.json": partial(_transfer, where="text"),
        "schedule_transfer/bold/results_480.json": partial(_transfer, where="tables and images, schedule-bold"),
        "schedule_transfer/bold/second_seed/results_480.json": partial(
            _transfer, where="tables and images, a second seed of schedule-bold"
        ),
        "schedule_transfer/bold/text/results_480.json": partial(_transfer, where="text, schedule-bold"),
        "schedule_transfer/results_2040.json": partial(_transfer, where="five times longer"),
        "schedule_transfer/bold/results_2040.json": partial(_transfer, where="five times longer, schedule-bold"),
        "schedule_ablations/results_earlier_tasks.jsonl": _ablations,
        "ray_population/results.json": _population,
        "other_frameworks/results.json": _other_frameworks,
        "schedule_overhead/results.json": _overhead,
        "schedule_overhead/gpu/results.json": partial(_overhead, where=", on a GPU"),
        "environment_speed/results.json": _environment,
        "meta_training_speed/results.json": _workers_in_meta_training,
    },
    "Searches": {
        "search_transfer/outcomes_lcbench.jsonl": partial(_replayed, where="LCBench"),
        "search_transfer/outcomes_taskset.jsonl": partial(_replayed, where="TaskSet"),
        "search_transfer/outcomes_hpobench_mlp.jsonl": partial(_replayed, where="HPOBench's perceptrons"),
        "search_transfer/outcomes_fcnet.jsonl": partial(_replayed, where="FCNet"),
        "compare/boosting.json": partial(_compared, run="boosting"),
        "compare/earlier/boosting.json": partial(_compared, run="boosting, earlier run"),
        "compare/perceptron.json": partial(_compared, run="perceptron"),
        "compare/earlier/perceptron.json": partial(_compared, run="perceptron, earlier run"),
        "suggest_time/results.json": _proposals,
    },
    "What past tasks bring": {
        "search_stream/regrets.json": _stream,
        "task_sequences/results.json": partial(_sequences, seeds="a seed a task"),
        "task_sequences/results_same_seed.json": partial(_sequences, seeds="one seed for all"),
        "transfer_matrix/results.json": _matrix,
        "adversarial_history/results.json": _adversarial,
        "learn_from_history/results.json": _learnt,
    },
    "The record, faults and workers": {
        "tracking_cost/results.json": _recording,
        "tracking_faults/results.json": _killed,
        "ray_population/chaos.json": _dying_nodes,
        "workers/throughput.json": _throughput,
        "workers/chaos.json": partial(_faults, what="workers killed"),
        "workers/chaos_mysql.json": partial(_faults, what="workers killed, MySQL"),
        "workers/network.json": partial(_faults, what="wires cut"),
        "workers/faults.json": _clocks_disks_memory,
        "workers/scale.json": _scale,
        "fuzzing/results.json": _fuzzed,
    },
}
"""Who reads which file. One that is not there is passed over."""

WITHOUT_ROWS = {
    "schedule_transfer/rivals.jsonl": "the rivals' runs, which the results beside it are made of",
    "meta_training_speed/devices.json": "two devices, not all group sizes of both",
}
"""Files that have no rows, and why."""


def page(experiments: Path) -> str:
    """The page, as Markdown.

    Raises:
        SystemExit: A file has neither a reader nor a reason to have none, or gives no row.
    """
    there = {path.relative_to(experiments).as_posix() for path in experiments.glob("*/**/*.json*")}
    if unknown := sorted(there - {name for group in READERS.values() for name in group} - WITHOUT_ROWS.keys()):
        raise SystemExit(f"no row in docs/results_table.py for: {', '.join(unknown)}; give each a reader, or a reason")
    groups = {title: _rows(experiments, readers) for title, readers in READERS.items()}
    counts = Counter(row.verdict for group in groups.values() for _, row in group)
    lines = [
        "# All results in one table",
        "",
        "<!--- written by docs/generate.py from experiments/*/*.json: do not edit -->",
        "",
        f"{counts.total()} figures, read out of the files that the experiments wrote; each one leads to its file.",
        f"Beside the strongest rival {counts[BETTER]} are better, {counts[LEVEL]} level and **{counts[WORSE]} worse**;",
        f"of those without a rival {counts[KEPT]} are as they ought to be and **{counts[MISSED]} are not**.",
        "",
        "- Level is what looks the same in the digits shown. Many differences are no larger than chance makes them; in",
        "  brackets, where a file has them, 95 % intervals (of `% more time` the quartiles).",
        "- Figures of one experiment go together, so that counts say little.",
        "- Regret: 0 is the best configuration, 1 the median one. B is the budget in full trainings.",
        "- What was measured, and how to make it again, is on the page of each experiment, and in",
        "  [reproducing every figure](reproduce.md).",
    ]
    for title, rows in groups.items():
        lines += ["", f"## {title}"]
        for folder, mine in groupby(rows, lambda row: row[0].split("/", maxsplit=1)[0]):
            readme = experiments / folder / "README.md"
            lines += ["", f"### {_title(readme)}", "", f"[{folder}](../experiments/{folder}/README.md)", ""]
            lines += ["| figure | ours | strongest rival | verdict |", "|---" * 4 + "|"]
            lines += [_line(name, row) for name, row in mine]
    lines += ["", "## Files without a row", ""]
    lines += [f"- [{name}](../experiments/{name}): {why}." for name, why in WITHOUT_ROWS.items() if name in there]
    return "\n".join(lines) + "\n"


def _rows(experiments: Path, readers: Mapping[str, Reader]) -> list[tuple[str, Row]]:
    found = []
    for name, reader in readers.items():
        if (path := experiments / name).exists():
            rows = list(reader(_read(path)))
            if not rows:
                raise SystemExit(f"its reader in docs/results_table.py gives no row for {name}")
            found += [(name, row) for row in rows]
    return found


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _title(readme: Path) -> str:
    return readme.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _line(name: str, row: Row) -> str:
    # Four columns are what a phone is wide enough for.
    ours, rival = f"[{row.ours}](../experiments/{name})", f"{row.rival}: {row.theirs}"
    return f"| {row.figure} | {ours} | {rival} | {row.verdict} |"
