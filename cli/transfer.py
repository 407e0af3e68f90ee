"""Measure what a policy carries over from past tasks to others.

Each past task is left out in turn, replayed as the Gaussian process of its trials, and searched again: by the policy as
it is (zero-shot), by the policy with 1, 2, 4 ... and all of the other tasks as its past (few-shot), by the surrogate
alone, by TPE and at random. Then each task alone is the past of each other one: pairs that are worse than without a
past are flagged as negative transfer. All of it is recorded in MLflow: a run for each way to search, with its regret by
number of trainings, and the report.

Without --space the search space is what past trials varied, within the ranges that they tell.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING

from .command_line import command_line
from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_aside, say_json, table
from .past_tasks import given_space, lessons_in
from .report_file import report_file, write_report

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from ..envs.transfer import Transfer

EXAMPLE = "metatuner transfer --prior mlflow:churn-.* --output transfer.html"

_MOST_PAIRS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument(
        "--prior",
        required=True,
        action="append",
        metavar="ADDRESS",
        help="where past tasks are: mlflow:EXPERIMENT or table:FILE.csv. May be given again",
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
    parser.add_argument(
        "--metric", default="objective", help="what runs of others were judged by (default: %(default)s)"
    )
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
    parser.add_argument(
        "--experiment", default="metatuner-transfer", help="MLflow experiment of the record (default: %(default)s)"
    )
    add_store_arguments(parser)
    add_json_argument(parser)


_OPTIONS = {
    "--prior": "prior",
    "--policy": "policy",
    "--space": "space",
    "--units": "units",
    "--metric": "metric",
    "--maximize": "maximize",
    "--trials": "trials",
    "--repeats": "repeats",
    "--seed": "seed",
    "--most-tasks": "most_tasks",
    "--confidence": "confidence",
}


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import torch
    from optuna.distributions import distribution_to_json

    from ..agent.search_policy import SearchPolicy
    from ..agent.transfer import LEAST_TASKS, TransferSettings, measure_transfer
    from ..tracking.recorder import MLflowRecorder
    from ..tracking.transfer_record import transfer_records
    from ..tracking.transfer_report import transfer_page
    from ..tracking.wording import range_in_words

    torch.set_num_threads(1)
    settings = TransferSettings(args.trials, args.repeats, args.seed, args.most_tasks, args.confidence)
    output = report_file(args.output) if args.output else None
    policy = SearchPolicy.load(args.policy, args.tracking_uri)
    space = _told_space(args) if args.space is None else given_space(args.space)
    lessons = lessons_in(args, args.prior, space, LEAST_TASKS)
    if args.space is None:
        ranges = (f"{name} {range_in_words(distribution_to_json(each))}" for name, each in space.items())
        say_aside(f"search space, as past trials have varied it: {'; '.join(ranges)}")
    bar: ProgressBar | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(total, "searching", "searches", silent=args.json)
        bar.at(done)

    found = measure_transfer(lessons, policy, settings, progress=progress)
    if bar is not None:
        bar.close()
    address = ", ".join(args.prior)
    page = transfer_page(found, address)
    if output is not None:
        write_report(output, page)
    # Searches are told of when all are over: what recording takes says nothing of them.
    with MLflowRecorder(args.tracking_uri, experiment=args.experiment, sampling=None) as recorder:
        for record in transfer_records(found, address, page, command_line("transfer", args, [], _OPTIONS)):
            recorder.record(record)
    if args.json:
        say_json({**asdict(found), "verdict": found.verdict, "rule": found.rule, "run_id": recorder.run_id})
    else:
        _say(found, args.output)
        say(f"browse the curves:  {recorder.ui_command}")
    return 0


def _told_space(args: argparse.Namespace) -> dict[str, BaseDistribution]:
    """The search space that past trials tell."""
    from ..tracking.prior_contents import told_trials
    from ..tracking.told_space import told_space

    told = (told_trials(each, metric=args.metric, tracking_uri=args.tracking_uri) for each in args.prior)
    return told_space(chain.from_iterable(told), ", ".join(args.prior))


def _say(found: Transfer, output: str | None) -> None:
    """What came out, for a person."""
    shown = sorted({1, max(1, found.trials // 2), found.trials})
    header = ["search", *(f"after {trials}" for trials in shown), "over all", "gain over zero-shot"]
    rows = [
        [
            curve.label,
            *(f"{curve.regrets[n - 1].mean:.3f}" for n in shown),
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
