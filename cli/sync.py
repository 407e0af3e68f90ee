"""Send to MLflow what recording could not: after a dead server, a full disk or a kill.

Records lie in a journal until MLflow has them. This sends what lies there, closes as killed what a dead process left
open, and deletes what has arrived. Running it twice changes nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict

from .console import ProgressBar, add_json_argument, say, say_json

EXAMPLE = "metatuner sync .metatuner/journal"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument(
        "journal",
        nargs="?",
        metavar="DIR",
        help="the journal folder (default: METATUNER_JOURNAL, else .metatuner/journal)",
    )
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="send to this store (default: the one that each study was recorded for)"
    )
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..tracking.study_folder import journal_root
    from ..tracking.sync import sync

    root = journal_root(args.journal)
    bar: ProgressBar | None = None

    def progress(done: int, total: int) -> None:
        nonlocal bar
        bar = bar or ProgressBar(total, "sending", "studies", silent=args.json)
        bar.at(done)

    results = sync(root, args.tracking_uri, progress)
    if bar is not None:
        bar.close()
    if args.json:
        say_json([{**asdict(result), "folder": str(result.folder)} for result in results])
    elif not results:
        say(f"nothing waits in {root}")
    for result in results if not args.json else ():
        where = f"{result.target.experiment} in {result.target.tracking_uri}"
        if result.problem:
            say(f"{result.remaining:,} records for {where} are still to be sent: {result.problem}")
        else:
            say(f"{result.sent:,} records sent to {where}")
        if result.refused:
            say(f"  {result.refused:,} were refused; they and the reasons are in {result.folder / 'refused.jsonl'}")
    return 1 if any(result.problem or result.refused for result in results) else 0
