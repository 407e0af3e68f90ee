"""Verbs that have actions of their own, such as `policies list`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import NamedTuple

from .console import add_json_argument, add_store_arguments


class Action(NamedTuple):
    """An action of a verb.

    Attributes:
        summary: What it does, for people.
        example: How it is called.
        add_arguments: Adds its options.
        run: Runs it, and returns the exit code.
    """

    summary: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def add_actions(parser: argparse.ArgumentParser, actions: Mapping[str, Action]) -> None:
    """Adds a verb's actions, each with the options of every verb; `run_action` runs the one that is chosen."""
    chosen = parser.add_subparsers(title="actions", dest="action", metavar="ACTION", required=True)
    for name, action in actions.items():
        of_action = chosen.add_parser(
            name, help=action.summary, description=action.summary, epilog=f"example: {action.example}"
        )
        action.add_arguments(of_action)
        add_store_arguments(of_action)
        add_json_argument(of_action)
        of_action.set_defaults(run_action=action.run)


def run_action(args: argparse.Namespace) -> int:
    """Runs the action that was chosen."""
    code: int = args.run_action(args)
    return code
