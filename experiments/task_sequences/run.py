"""Is the fourth task cheaper than it would be without the three before? Both examples, every order in turn, five seeds.

    OMP_NUM_THREADS=1 python experiments/task_sequences/run.py [--seeds 5] [--out FOLDER]

The four tasks are rotated, so that each is first, second, third and fourth once a seed; each order begins with an
empty MLflow store. Its first task knows nothing yet: that is the search without a prior, on the same splits and seeds.
What is in `results.json` is not run again.
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

import boosting
import metatuner as mt
import perceptron
import scoring
import torch
from metatuner.cli.console import say
from metatuner.envs.records import NullRecorder
from sequence import BUDGET, UNITS, Account, Example, Outcome, Task, tuned_in_turn

HERE = Path(__file__).parent
EXAMPLES = (perceptron.EXAMPLE, boosting.EXAMPLE)
RIVALS = ("random", "tpe", "hyperband")
"""Strategies that know of no other task."""


def main() -> None:
    """Runs the orders that are not there yet, then scores all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="splits, weights and searches (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    parser.add_argument("--same-seed", action="store_true", help="one seed for the searches of all tasks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    kind = "_same_seed" if args.same_seed else ""
    path = args.out / f"results{kind}.json"
    runs: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    for example in EXAMPLES:
        of_example = runs.setdefault(example.name, [])
        for seed in range(args.seeds):
            tasks = example.tasks(seed)
            tasks = [replace(task, seed=seed) for task in tasks] if args.same_seed else tasks
            for last in range(4):
                if not any((run["seed"], run["last"]) == (seed, last) for run in of_example):
                    of_example += [{"seed": seed, "last": last, **run} for run in order(example, tasks, last)]
                    path.write_text(compact(runs))
                    say(f"{example.name}, seed {seed}, order {last + 1} of 4")
    found = {name: scoring.Scores.of(of_example, BUDGET, UNITS) for name, of_example in runs.items()}
    for name, scores in found.items():
        say(f"\n{name}\n{scores.table()}")
    scoring.plot(found, args.out / f"costs{kind}.png")


def order(example: Example, tasks: list[Task], last: int) -> Iterator[dict[str, Any]]:
    """One order of the tasks, out of an empty store; then rivals on its last task."""
    tasks = [*tasks[last + 1 :], *tasks[: last + 1]]
    with tempfile.TemporaryDirectory() as folder:
        uri, experiment = f"sqlite:///{folder}/runs.db", example.name
        recorder = functools.partial(mt.MLflowRecorder, uri, experiment, plots=False, journal=folder)
        outcomes = tuned_in_turn(
            example, tasks, tracking_uri=uri, experiment=experiment, with_prior=True, recorder=recorder
        )
        for place, outcome in enumerate(outcomes, start=1):
            yield _run("policy", place, outcome)
        for rival in RIVALS:
            yield _run(rival, 1, searched(example, tasks[-1], rival))
        # The same three past tasks, but a fixed list in the place of a search. A study is never told of its own name.
        portfolio = searched(example, tasks[-1], "portfolio", prior=f"mlflow:{experiment}", tracking_uri=uri)
        yield _run("portfolio", 4, portfolio)


def searched(example: Example, task: Task, strategy: str, budget: int = BUDGET, **prior: str) -> Outcome:
    """A task tuned by another strategy, without a record."""
    account = Account()
    result = mt.tune(
        account.kept(task.train),
        example.space,
        budget,
        units=UNITS,
        strategy=strategy,
        name=task.name,
        seed=task.seed,
        recorder=NullRecorder(),
        **prior,
    )
    return Outcome(task.name, account, task.test(result.best_config))


def _run(strategy: str, place: int, outcome: Outcome) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "place": place,
        "task": outcome.task,
        "begun": outcome.account.begun,
        "finished": [[spent, rounded(loss)] for spent, loss in outcome.account.finished],
        "test": rounded(outcome.test),
    }


def rounded(loss: float) -> float:
    """Six digits are enough."""
    return float(f"{loss:.6g}")


def compact(runs: dict[str, list[dict[str, Any]]]) -> str:
    """JSON with a run a line."""
    blocks = [f"{json.dumps(name)}: [\n" + ",\n".join(map(json.dumps, each)) + "\n]" for name, each in runs.items()]
    return "{\n" + ",\n".join(blocks) + "\n}\n"


if __name__ == "__main__":
    main()
