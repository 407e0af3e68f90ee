"""Does each tuned task make the next one cheaper? LCBench's data sets one after another, out of one MLflow store.

Every data set is tuned with a budget of four full trainings. With the prior, all that is known is what the tasks before
have left in the store; without it, every task begins anew, and once more so by nothing but the rule that the policy's
learning began from. Each order of the tasks begins with an empty store. The orders are rotations of one that is
shuffled: after 17 of them each task has been at each place once, and what differs between places is not which tasks are
there.

    python experiments/search_stream/run.py --bench FOLDER [--orders 17]

FOLDER holds the benchmark's `load.py`, as for search_transfer.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import metatuner as mt
import numpy as np
import torch
from matplotlib.figure import Figure
from metatuner.agent.search_policy import SearchPolicy
from numpy.typing import NDArray

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "search_transfer"))
from tasks import TableTask, tasks_of  # noqa: E402 - its folder has just been put on the path

BUDGET, WORST = 4, 2.0
PRIOR, NONE, RULE = "with prior", "without", "without, the rule alone"
COLOURS = {PRIOR: "#0072B2", NONE: "#D55E00", RULE: "#999999"}
EXPERIMENT = "stream"
DRAWS = 10_000


def main() -> None:
    """Runs the orders that are not there yet, then scores all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="the folder with the benchmark's load.py")
    parser.add_argument("--orders", type=int, default=17, help="rotations of the order (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(args.bench, "lcbench")
    path = args.out / "regrets.json"
    regrets: dict[str, dict[str, list[float]]] = json.loads(path.read_text()) if path.exists() else {}
    for order in range(args.orders):
        chosen = [tasks[i] for i in _places(order, len(tasks))]
        for arm in COLOURS:
            of_order = regrets.setdefault(arm, {})
            if str(order) not in of_order:
                of_order[str(order)] = stream(chosen, order, arm)
                path.write_text(json.dumps(regrets, indent=1))
                print(f"order {order}, {arm}: {np.round(of_order[str(order)], 3)}", flush=True)
    found = {name: np.array(list(of_order.values())) for name, of_order in regrets.items()}
    for name, values in found.items():
        print(name, summary(values))
    print("learnt over the rule alone, without a prior", over_the_rule(found[NONE], found[RULE]))
    plot(found, args.out / "regrets.png")


def stream(tasks: list[TableTask], seed: int, arm: str) -> list[float]:
    """Regrets of the tasks, tuned one after another, in their order."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for place, task in enumerate(tasks):
            searched = task.fresh()
            with mt.MLflowRecorder(f"sqlite:///{folder}/runs.db", EXPERIMENT, plots=False, journal=folder) as recorder:
                result = mt.tune(
                    searched.train,
                    searched.space,
                    BUDGET,
                    units=searched.units,
                    recorder=recorder,
                    tracking_uri=f"sqlite:///{folder}/runs.db",
                    name=task.name,
                    seed=seed,
                    prior=f"mlflow:{EXPERIMENT}" if arm == PRIOR and place else None,
                    strategy=f"policy:{_rule(Path(folder) / 'rule')}" if arm == RULE else "policy",
                )
            found.append(round(min(task.regret(result.best_config), WORST), 5))
    return found


def _rule(folder: Path) -> Path:
    """The shipped policy, but for what it has learnt."""
    if not folder.exists():
        policy = SearchPolicy.load("search-default")
        policy.actor.trust.zero_()
        policy.save(folder)
    return folder


def _places(order: int, tasks: int) -> NDArray[np.int64]:
    """Which task is at each place."""
    return np.roll(np.random.default_rng(0).permutation(tasks), -order)


def summary(regrets: NDArray[np.float64]) -> str:
    """The first third of the stream against the last: means, and the ratio with a bootstrap over tasks."""
    n = regrets.shape[1]
    of_task, third = _by_task(regrets), n // 3
    first, last = np.nanmean(of_task[:, :third], 1), np.nanmean(of_task[:, -third:], 1)
    low, high = _interval(last, first)
    first_mean, last_mean = regrets[:, :third].mean(), regrets[:, -third:].mean()
    return (
        f"first third {first_mean:.3f}, last third {last_mean:.3f}: {last_mean / first_mean:.2f} ({low:.2f} to "
        f"{high:.2f}); all places but the first {regrets[:, 1:].mean():.3f}"
    )


def over_the_rule(learnt: NDArray[np.float64], rule: NDArray[np.float64]) -> str:
    """Means over all places, and the ratio with a bootstrap over tasks."""
    low, high = _interval(*(np.nanmean(_by_task(regrets), 1) for regrets in (learnt, rule)))
    means = learnt.mean(), rule.mean()
    return f"{means[0]:.3f} and {means[1]:.3f}: {means[0] / means[1]:.2f} ({low:.2f} to {high:.2f})"


def _by_task(regrets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Regrets (orders, places) as (tasks, places); NaN where a task has not been at a place."""
    orders, n = regrets.shape
    of_task = np.full((n, n), np.nan)
    for order in range(orders):
        of_task[_places(order, n), np.arange(n)] = regrets[order]
    return of_task


def _interval(above: NDArray[np.float64], below: NDArray[np.float64]) -> tuple[float, float]:
    """95 % of a ratio of means over tasks, by a bootstrap."""
    drawn = np.random.default_rng(0).integers(len(above), size=(DRAWS, len(above)))
    low, high = np.nanquantile(np.nanmean(above[drawn], 1) / np.nanmean(below[drawn], 1), [0.025, 0.975])
    return float(low), float(high)


def plot(found: dict[str, NDArray[np.float64]], path: Path) -> None:
    """Regret by place in the stream."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.subplots()
    for name, values in found.items():
        places = np.arange(1, values.shape[1] + 1)
        axis.plot(places, values.mean(0), "o-", color=COLOURS[name], label=name)
        spread = values.std(0) / np.sqrt(len(values))
        axis.fill_between(
            places, values.mean(0) - spread, values.mean(0) + spread, color=COLOURS[name], alpha=0.2, lw=0
        )
    axis.set(xlabel="place in the stream", ylabel=f"regret after {BUDGET} full trainings", ylim=(0, None))
    axis.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
