"""Past trials, which tell a search where to begin.

show tells what an address holds, and how it fits a search space; export writes what MLflow holds as a table that may be
shared: hyperparameters and values, without ids, names and tags of runs, times, users and paths. An address is
mlflow:EXPERIMENT or table:FILE.csv; `metatuner tune --prior ADDRESS` begins with what was good there.
"""

from __future__ import annotations

import argparse
from typing import Any

from .actions import Action, add_actions, run_action
from .console import say, say_json, table
from .objective_file import load_file, space_of
from .shared_table import add_table_options, say_withheld, table_options

EXAMPLE = "metatuner prior export my-experiment --out past.csv --anonymous"

_MOST_ROWS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    add_actions(parser, _ACTIONS)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    return run_action(args)


def _export(args: argparse.Namespace) -> int:
    from ..tracking.table_export import write_table
    from ..tracking.told_trials import told_runs

    trials = told_runs(args.experiment, metric=args.metric, tracking_uri=args.tracking_uri)
    written = write_table(args.out, trials, **table_options(args))
    if args.json:
        say_json(
            {
                "file": args.out,
                "tasks": written.tasks,
                "trials": written.trials,
                "hyperparameters": list(written.names),
                "withheld": list(written.withheld),
            }
        )
        return 0
    say(f"{written.trials:,} trials of {written.tasks:,} tasks written to {args.out}")
    say(f"  hyperparameters: {', '.join(written.names) or 'none'}")
    say_withheld(written)
    say("look through the file before you share it: values of hyperparameters are written as they are")
    return 0


def _show(args: argparse.Namespace) -> int:
    from ..tracking.prior_contents import PriorContents, told_trials

    contents = PriorContents.of(told_trials(args.address, metric=args.metric, tracking_uri=args.tracking_uri))
    bests = {name: each.best(maximize=args.maximize) for name, each in contents.tasks.items()}
    if args.json:
        match = _match(args) if args.objective else None
        say_json(
            {
                "read": contents.read,
                "tasks": {
                    name: {"trials": each.trials, "failed": each.failed, "best_value": bests[name]}
                    for name, each in contents.tasks.items()
                },
                "hyperparameters": {
                    name: {"tasks": len(each.tasks), "trials": each.trials, "values": each.values}
                    for name, each in contents.params.items()
                },
                **({} if match is None else {"match": match.lines()}),
            }
        )
        return 0
    trials = sum(each.trials for each in contents.tasks.values())
    say(f"{args.address}: {trials:,} of {contents.read:,} trials tell something, of {len(contents.tasks):,} tasks")
    _say_table(
        ["task", "trials", "failed", "best value"],
        [
            [name, f"{each.trials:,}", f"{each.failed:,}", "" if bests[name] is None else f"{bests[name]:.6g}"]
            for name, each in contents.tasks.items()
        ],
    )
    _say_table(
        ["hyperparameter", "tasks", "trials", "values"],
        [[name, f"{len(p.tasks):,}", f"{p.trials:,}", p.values] for name, p in contents.params.items()],
    )
    for line in ("", *_match(args).lines()) if args.objective else ():
        say(line)
    return 0


def _match(args: argparse.Namespace) -> Any:
    """How what the address holds fits the file's search space."""
    from ..agent.quiet import quiet_optuna
    from ..envs.conditional_space import ConditionalSpace
    from ..envs.errors import ConfigurationError
    from ..tracking.matching import matched
    from ..tracking.prior_contents import told_trials

    file, separator, _ = args.objective.rpartition(":")
    file = file if separator else args.objective
    space = space_of(load_file(file, args.objective), args.space, file)
    if space is None:
        raise ConfigurationError(f"{file} has no search space: name its variable with --space")
    tree = ConditionalSpace(space)
    with quiet_optuna():
        prior = matched(
            told_trials(args.address, metric=args.metric, tracking_uri=args.tracking_uri),
            tree.common,
            args.address,
            metric=args.metric,
            direction="maximize" if args.maximize else "minimize",
            units=1,
        )
    return prior.match.beside(tree.distributions)


def _say_table(header: list[str], rows: list[list[str]]) -> None:
    if rows:
        say()
        say(table(header, rows[:_MOST_ROWS]))
    if len(rows) > _MOST_ROWS:
        say(f"... and {len(rows) - _MOST_ROWS:,} more")


def _add_export(parser: argparse.ArgumentParser) -> None:
    _add_metric(parser)
    parser.add_argument("experiment", help="an MLflow experiment's name, or a regular expression for whole names")
    parser.add_argument("--out", required=True, metavar="FILE.csv", help="where the table goes")
    add_table_options(parser)


def _add_metric(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--metric", default="objective", help="what runs of others were judged by (default: %(default)s)"
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    _add_metric(parser)
    parser.add_argument("address", help="mlflow:EXPERIMENT or table:FILE.csv")
    parser.add_argument(
        "objective", nargs="?", metavar="FILE.py:FUNCTION", help="whose search space it is held against"
    )
    parser.add_argument("--space", metavar="NAME", help="the file's variable with the search space (default: space)")
    parser.add_argument("--maximize", action="store_true", help="the larger the better")


_ACTIONS = {
    "show": Action(
        "Tell what an address holds", "metatuner prior show table:past.csv objective.py:train", _add_show, _show
    ),
    "export": Action("Write past trials of MLflow as a table to share", EXAMPLE, _add_export, _export),
}
