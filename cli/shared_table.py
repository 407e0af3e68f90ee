"""Which hyperparameters go into a table of past trials that is to be shared, and what was left out of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .console import say

if TYPE_CHECKING:
    from ..tracking.table_export import Export


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `table_options`, `--metric` aside."""
    parser.add_argument("--exclude", default="", metavar="NAME,...", help="hyperparameters to leave out")
    parser.add_argument(
        "--include", default="", metavar="NAME,...", help="hyperparameters to write though values look like paths"
    )
    parser.add_argument("--anonymous", action="store_true", help="number the tasks instead of naming them")


def table_options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `write_table`."""
    return {
        "exclude": _names(args.exclude),
        "include": _names(args.include),
        "anonymous": args.anonymous,
        "metric": args.metric,
    }


def say_withheld(written: Export) -> None:
    """What nobody asked to leave out, and was."""
    if written.withheld:
        say(f"  left out, for values or names that look like paths, addresses or ids: {', '.join(written.withheld)}")
        say("  (--include NAME,... writes them all the same)")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]
