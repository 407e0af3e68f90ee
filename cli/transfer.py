"""Measure what a policy carries over from past tasks to others.

Each past task is left out in turn, replayed as the Gaussian process of its trials, and searched again: by the policy as
it is (zero-shot), by the policy with 1, 2, 4 ... and all of the other tasks as its past (few-shot), by the surrogate
alone, by TPE and at random. Then each task alone is the past of each other one: pairs that are worse than without a
past are flagged as negative transfer.

Without --space the search space is what past trials varied, within the ranges that they tell.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_json, table

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from ..agent.search_learning import Lessons
    from ..envs.transfer import Transfer

EXAMPLE = "metatuner transfer --prior mlflow:churn-.* --output transfer.html"

_MOST_PAIRS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument(
        "--prior",
        required=True,
        metavar="ADDRESS",
        help="where past tasks are: mlflow:EXPERIMENT or table:FILE.csv",
    )
    parser.add_argument(
        "--policy",
        default="search-default",
        help="a policy's name, its folder, or models:/NAME@champion (default: %(default)s)",
    )
    parser.add_argument("--space", metavar="FILE.py:SPACE", help="the search space (default: what past trials tell)")
    parser.add_argument(
        "--units", type=int, default=1, help="values that a full training yields (default: %(default)s)"
    )
    parser.add_argument("--metric", default="objective", help="what trials are judged by (default: %(default)s)")
    parser.add_argument("--maximize", action="store_true", help="the larger the better")
    parser.add_argument(
        "--trials", type=int, default=20, help="full trainings that each search may spend (default: %(default)s)"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="searches of each task in each way (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="what is drawn follows from it (default: %(default)s)")
    parser.add_argument(
        "--most-tasks", type=int, default=20, help="in the matrix; of more, so many are drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="of intervals and of what is flagged (default: %(default)s)"
    )
    parser.add_argument("--output", metavar="FILE.html", help="the report, with curves and the matrix")
    add_store_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import torch

    from ..agent.search_policy import SearchPolicy
    from ..agent.transfer import TransferSettings, measure_transfer

    torch.set_num_threads(1)
    settings = TransferSettings(args.trials, args.repeats, args.seed, args.most_tasks, args.confidence)
    output = _output(args.output)
    policy = SearchPolicy.load(args.policy)
    lessons = _lessons(args)
    bar: ProgressBar | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(total, "searching", "searches", silent=args.json)
        bar.at(done)

    found = measure_transfer(lessons, policy, settings, progress=progress)
    if bar is not None:
        bar.close()
    if output is not None:
        from ..tracking.transfer_report import transfer_page

        output.write_text(transfer_page(found, args.prior), encoding="utf-8")
    if args.json:
        say_json({**asdict(found), "verdict": found.verdict, "rule": found.rule})
    else:
        _say(found, args.output)
    return 0


def _output(path: str | None) -> Path | None:
    """Where the report goes; found to be writable before anything takes long."""
    from ..envs.errors import ConfigurationError

    if path is None:
        return None
    file = Path(path)
    if not file.parent.is_dir() or file.is_dir():
        raise ConfigurationError(f"expected --output to name a file in a folder that exists, got {path!r}")
    return file


def _lessons(args: argparse.Namespace) -> Lessons:
    """The past tasks."""
    from ..agent.priors import prior_of
    from ..agent.search_learning import Lessons
    from ..agent.transfer import LEAST_TASKS
    from ..envs.conditional_space import ConditionalSpace
    from ..envs.errors import ConfigurationError

    if args.units < 1:
        raise ConfigurationError(f"units must be at least 1, got {args.units}")
    tree = ConditionalSpace(_space(args))
    past = prior_of(
        args.prior,
        tree,
        metric=args.metric,
        direction="maximize" if args.maximize else "minimize",
        tracking_uri=args.tracking_uri,
        without=None,
        units=args.units,
    )
    return Lessons.of(past.studies, tree.common, args.units, least=LEAST_TASKS)


def _space(args: argparse.Namespace) -> Mapping[str, BaseDistribution]:
    """The search space that is given, else the one that past trials tell."""
    from ..envs.errors import ConfigurationError
    from ..tracking.prior_contents import told_trials
    from ..tracking.told_space import told_space
    from .objective_file import load_file, space_of

    if args.space is None:
        trials = told_trials(args.prior, metric=args.metric, tracking_uri=args.tracking_uri)
        return told_space(trials, args.prior)
    file, _, variable = args.space.rpartition(":")
    space = space_of(load_file(file, args.space), variable, file)
    if not isinstance(space, dict):
        raise ConfigurationError(f"expected {variable!r} of {file} to be a dict of distributions, got {space!r}")
    return space


def _say(found: Transfer, output: str | None) -> None:
    """What came out, for a person."""
    half = max(1, found.trials // 2)
    header = ["search", "after 1", f"after {half}", f"after {found.trials}", "over all", "gain over zero-shot"]
    rows = [
        [
            curve.label,
            *(f"{curve.regrets[n - 1].mean:.3f}" for n in (1, half, found.trials)),
            str(curve.average),
            str(curve.gain),
        ]
        for curve in found.curves
    ]
    say(f"normalised regret of {len(found.tasks)} tasks (0 is the best, 1 the median; intervals of "
        f"{found.confidence:.0%})")  # fmt: skip
    say()
    say(table(header, rows))
    say()
    for line in found.verdict:
        say(line)
    for pair in found.negative[:_MOST_PAIRS]:
        say(f"  {pair.past} harms {pair.target}: {pair.gain}, {pair.last_gain:.3f} after the last trial")
    if len(found.negative) > _MOST_PAIRS:
        say(f"  ... and {len(found.negative) - _MOST_PAIRS:,} more")
    say(f"report: {output}" if output else "--output FILE.html writes a report with curves and the matrix")
