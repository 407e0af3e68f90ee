"""Tasks tuned one after another: what each leaves in MLflow is all that the next one is told.

What both examples share: the loop over tasks, the account of what was spent, and the table.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import metatuner as mt
import torch
from metatuner.cli.console import say, table
from optuna.distributions import BaseDistribution

Config = Mapping[str, Any]

BUDGET = 8
"""Full trainings that each task may cost."""
UNITS = 16
"""Parts of a full training; after each there is a validation loss."""


@dataclass(frozen=True)
class Task:
    """A model and its data.

    Attributes:
        name: What it is called in MLflow.
        train: Trains a configuration, and yields the validation loss after each of `UNITS` parts of a full training.
        test: Trains a configuration anew, and gives the test loss: for the one that was chosen, at the very end.
        seed: Of searches: not the same on two tasks, or all would begin with the same configurations.
    """

    name: str
    train: Callable[[Config], Iterator[float]]
    test: Callable[[Config], float]
    seed: int


@dataclass(frozen=True)
class Example:
    """Tasks with the same search space.

    Attributes:
        name: What it is called, and its MLflow experiment too.
        space: The search space.
        tasks: Makes the tasks, one a data set; splits, trainings and searches follow from the seed.
        loss: What losses are, in words.
    """

    name: str
    space: Mapping[str, BaseDistribution]
    tasks: Callable[[int], list[Task]]
    loss: str


@dataclass
class Account:
    """What a search has spent, and on what.

    Attributes:
        spent: Units so far.
        begun: Units that were spent when each configuration began.
        finished: Units that were spent when a training came to its end, and its validation loss.
    """

    spent: int = 0
    begun: list[int] = field(default_factory=list)
    finished: list[tuple[int, float]] = field(default_factory=list)

    def kept(self, train: Callable[[Config], Iterator[float]]) -> Callable[[Config], Iterator[float]]:
        """The objective, with an account of it."""

        def objective(config: Config) -> Iterator[float]:
            self.begun.append(self.spent)
            for unit, loss in enumerate(train(config), start=1):
                self.spent += 1
                if unit == UNITS:
                    self.finished.append((self.spent, loss))
                yield loss

        return objective

    @property
    def best(self) -> float:
        """The best loss of a training that came to its end."""
        return min(loss for _, loss in self.finished)

    def reached(self, level: float) -> int | None:
        """Units that it took until a finished training was as good as the level; None where none was."""
        return next((spent for spent, loss in self.finished if loss <= level), None)


@dataclass(frozen=True)
class Outcome:
    """A tuned task.

    Attributes:
        task: Its name.
        account: What was spent.
        test: The test loss of the best configuration.
    """

    task: str
    account: Account
    test: float


def tuned_in_turn(
    example: Example,
    tasks: Iterable[Task],
    *,
    tracking_uri: str,
    experiment: str,
    with_prior: bool,
    strategy: str = "policy",
    recorder: Callable[[], mt.MLflowRecorder] | None = None,
) -> Iterator[Outcome]:
    """Tunes tasks one after another; with a prior, each is told what the ones before have left in the experiment.

    Args:
        example: What is tuned.
        tasks: On these, in this order.
        tracking_uri: The MLflow store.
        experiment: The experiment, which nobody has used yet.
        with_prior: Whether tasks are told of those before.
        strategy: Who proposes.
        recorder: Makes what records; None leaves that to `tune`.
    """
    for place, task in enumerate(tasks):
        account = Account()
        with contextlib.nullcontext() if recorder is None else recorder() as chosen:
            result = mt.tune(
                account.kept(task.train),
                example.space,
                BUDGET,
                units=UNITS,
                # Before the first task there is no experiment, and a prior that is not there is an error.
                prior=f"mlflow:{experiment}" if with_prior and place else None,
                tracking_uri=tracking_uri,
                experiment=experiment,
                name=task.name,
                seed=task.seed,
                strategy=strategy,
                recorder=chosen,
            )
        yield Outcome(task.name, account, task.test(result.best_config))


def main(example: Example, doc: str | None) -> None:
    """Runs an example: all tasks in turn, with what the ones before have taught and without."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="splits, weights and searches (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of the MLflow store (default: a new temporary one)")
    args = parser.parse_args()
    torch.set_num_threads(1)  # such small models are slower with more
    folder = (args.out or Path(tempfile.mkdtemp(prefix=f"{example.name}-"))).resolve()
    if (folder / "runs.db").exists():
        parser.error(f"{folder} has a store already, whose tasks would be told of: give another folder as --out")
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("METATUNER_JOURNAL", str(folder / "journal"))
    uri = f"sqlite:///{folder / 'runs.db'}"
    arms: list[list[Outcome]] = []
    for with_prior, experiment in ((False, f"{example.name}-each-alone"), (True, example.name)):
        arms.append([])
        tasks = example.tasks(args.seed)
        for outcome in tuned_in_turn(example, tasks, tracking_uri=uri, experiment=experiment, with_prior=with_prior):
            arms[-1].append(outcome)
            say(f"{experiment}: {outcome.task}, {outcome.account.best:.4f}")
    say()
    say(f"{example.loss}; {BUDGET} full trainings a task, of {UNITS} units each.")
    say("reached after: full trainings spent until one was as good as the best without prior")
    say()
    say(report(*arms))
    say()
    say(f"See every trial:  metatuner ui --tracking-uri {uri}")


def report(alone: list[Outcome], told: list[Outcome]) -> str:
    """Both arms, task by task."""
    header = ["task", "prior from", "val without", "val with", "reached after: without", "with", "test without", "with"]
    rows = []
    for place, (without, with_prior) in enumerate(zip(alone, told, strict=True)):
        level = without.account.best
        rows.append(
            [
                without.task,
                f"{place} tasks" if place != 1 else "1 task",
                f"{level:.4f}",
                f"{with_prior.account.best:.4f}",
                *(_trainings(each.account.reached(level)) for each in (without, with_prior)),
                f"{without.test:.4f}",
                f"{with_prior.test:.4f}",
            ]
        )
    return table(header, rows)


def _trainings(units: int | None) -> str:
    return f"over {BUDGET}" if units is None else f"{units / UNITS:.1f}"
