"""How many full trainings does the fourth task need? Searches that are told how many they have: 1, 2, 4 or 8.

    OMP_NUM_THREADS=1 python experiments/task_sequences/budgets.py [--seeds 5] [--searches 2] [--out FOLDER]

`run.py` gives every search eight full trainings and looks at when it had finished a good one. But a search that knows
its budget spends it to be good in the end, not soon: whoever wants few trials asks for few. Tasks, orders and past
tasks are those of `run.py`, searches of the fourth task have other seeds, two a pair of a task and a seed. What is in
`results_budgets.json` is not run again.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import metatuner as mt
import scoring
import torch
from metatuner.cli.console import say
from run import EXAMPLES, HERE, compact, rounded, searched
from sequence import BUDGET, UNITS, Example, Task, tuned_in_turn

BUDGETS = (1, 2, 4, BUDGET)
APART = 1000  # what seeds of searches differ by


def main() -> None:
    """Runs the orders that are not there yet, then scores all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="splits and weights (default: %(default)s)")
    parser.add_argument("--searches", type=int, default=2, help="of each fourth task (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / "results_budgets.json"
    runs: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    for example in EXAMPLES:
        of_example = runs.setdefault(example.name, [])
        for seed in range(args.seeds):
            for last in range(4):
                if not any((run["seed"], run["last"]) == (seed, last) for run in of_example):
                    found = fourth(example, example.tasks(seed), last, args.searches)
                    of_example += [{"seed": seed, "last": last, **run} for run in found]
                    path.write_text(compact(runs))
                    say(f"{example.name}, seed {seed}, order {last + 1} of 4")
    whole = json.loads((HERE / "results.json").read_text())
    for name, of_example in runs.items():
        say(f"\n{name}\n{scoring.by_budget(whole[name], of_example, BUDGETS, UNITS)}")


def fourth(example: Example, tasks: list[Task], last: int, searches: int) -> Iterator[dict[str, Any]]:
    """Three tasks out of an empty store; then searches of the fourth, with what they have left and without."""
    *past, task = [*tasks[last + 1 :], *tasks[: last + 1]]
    with tempfile.TemporaryDirectory() as folder:
        uri, experiment = f"sqlite:///{folder}/runs.db", example.name
        recorder = functools.partial(mt.MLflowRecorder, uri, experiment, plots=False, journal=folder)
        for _ in tuned_in_turn(
            example, past, tracking_uri=uri, experiment=experiment, with_prior=True, recorder=recorder
        ):
            pass
        told = {"prior": f"mlflow:{experiment}", "tracking_uri": uri}
        for search in range(1, searches + 1):
            again = replace(task, seed=task.seed + APART * search)
            for budget in BUDGETS:
                yield _searched(example, again, "policy", 4, budget, **told)
                yield _searched(example, again, "policy", 1, budget)
            yield _searched(example, again, "portfolio", 4, BUDGET, **told)
            yield _searched(example, again, "random", 1, BUDGET)


def _searched(example: Example, task: Task, strategy: str, place: int, budget: int, **prior: str) -> dict[str, Any]:
    account = searched(example, task, strategy, budget, **prior).account
    return {
        "strategy": strategy,
        "place": place,
        "budget": budget,
        "task": task.name,
        "finished": [[spent, rounded(loss)] for spent, loss in account.finished],
    }


if __name__ == "__main__":
    main()
