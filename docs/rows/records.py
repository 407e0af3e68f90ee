"""Rows of the experiments with the record, with faults and with workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .row import NAMES, Measured, Row, against, ought


def recording(data: Any) -> Iterator[Row]:
    """Of tracking_cost."""
    for store, name in (("sqlite", "SQLite"), ("http", "a server")):
        of_store = data["results"][store]
        rivals = {
            "optuna-integration's MLflowCallback": of_store["optuna_mlflow_callback_ms"],
            "MLflow's storage for Optuna": of_store["mlflow_optuna_storage_ms"],
        }
        yield against(f"ms a trial that the tuner is held up, {name}", of_store["held_up_ms"]["median"], rivals, 1)
        figure = f"ms a trial in the background, {name} (no rival sends curves and a file)"
        yield against(figure, of_store["shipping_ms"], rivals, 1)
        ours = Measured(of_store["shipping_to_bare"], *of_store["shipping_to_bare_lowest_and_highest"])
        yield against(f"time in the background over the least there can be, {name}", ours, {"bare calls": 1.0}, 2)


def killed(data: Any) -> Iterator[Row]:
    """Of tracking_faults."""
    trials = data["settings"]["trials"]
    for what, each in data["results"].items():
        where = f"{each[f'{what[:-1]}_kills']} kills of {what}"
        sound = each["nothing_lost_nothing_twice"]
        done, points = each["trials_finished"], each["points"]
        yield ought(f"trials finished, each once, {where}", f"{done} of {trials}", "all", sound and done == trials)
        expected = each["points_expected"]
        yield ought(f"points recorded, {where}", f"{points:,} of {expected:,}", "all", sound and points == expected)


def dying_nodes(data: Any) -> Iterator[Row]:
    """Of ray_population, whose nodes are killed."""
    trials, recorded = data["different configurations"], data["in MLflow"]
    sound = data["errors"] == recorded["finished more than once"] == 0 and recorded["same losses as in Ray"]
    for where, finished in (("Ray", data["finished in Ray"]), ("MLflow", recorded["finished, each once"])):
        figure = f"trials finished, each once, {data['nodes killed']} nodes killed, in {where}"
        yield ought(figure, f"{finished} of {trials}", "all", finished == trials and sound)


def throughput(data: Any) -> Iterator[Row]:
    """Of workers, how fast they are."""
    over = data["median of Optuna's"]
    for arm in [each for each in over if each != "optuna"]:
        figure = f"trials a second over Optuna's, 8 workers, {NAMES.get(arm, arm)}"
        yield against(figure, over[arm], {"Optuna, TPE": over["optuna"]}, 2, best=max)
    grid = data["grid"]
    tried = f"{grid['different']:,} of {grid['configurations']:,}"
    kept = grid["different"] == grid["configurations"] == grid["trials"]
    yield ought("configurations tried, each once, 8 workers on a grid", tried, "all", kept)


def faults(data: Any, *, what: str) -> Iterator[Row]:
    """Of workers that are killed or cut off."""
    for run in data["runs"]:
        for where in ("in the storage", "in MLflow"):
            found = run[where]
            done = found.get("finished") or found["finished, each once"]
            count, _, trials = done.partition(" of ")
            recorded = run["in MLflow"]
            sound = not (recorded["finished more than once"] or recorded["still running"])
            sound = sound and not recorded["params or values other than in the storage"]
            figure = f"trials finished, each once, {what}, seed {run['seed']}, {where}"
            yield ought(figure, done, "all", sound and count == trials)


def clocks_disks_memory(data: Any) -> Iterator[Row]:
    """Of workers on machines that are out of order."""
    runs = {"wrong clocks": data["clocks"]}
    runs |= {f"full disk, {each['storage']}": each for each in data["full disks"]}
    for what, run in runs.items():
        yield from faults({"runs": [{**run, "seed": 0}]}, what=what)
    late = max(data["clocks"]["was noticed after, seconds"])
    yield ought("seconds until a dead worker is noticed, wrong clocks", f"{late:.0f}", "10 to 16", late <= 16)
    for case in data["memory"]:
        figure = f"greedy trials that failed alone, {case['case']}"
        alone = case["failed"] == 2 and not case["failed with other configurations than greedy ones"]
        yield ought(figure, f"{case['failed']} of 2; {case['finished']} others finished", "all", alone)


def scale(data: Any) -> Iterator[Row]:
    """Of workers, what their database is asked for."""
    arms = data["statements and commits of a trial"]
    for arm in [each for each in arms if each != "optuna"]:
        for key in ("statements", "commits"):
            figure = f"{key} of a trial in the database, {NAMES.get(arm, arm)}"
            yield against(figure, arms[arm][key], {"Optuna, TPE": arms["optuna"][key]}, 1)


def fuzzed(data: Any) -> Iterator[Row]:
    """Of fuzzing."""
    inputs, failed = (sum(each[key] for each in data["readers"].values()) for key in ("inputs", "failed"))
    figure = "altered and random inputs that were neither taken nor refused"
    yield ought(figure, f"{failed:,} of {inputs:,}", "0", not failed)
