"""Print a script that completes verbs, options and files in a shell.

bash:  eval "$(metatuner completion bash)"    in ~/.bashrc
zsh:   metatuner completion zsh > FOLDER/_metatuner    into a folder of $fpath
fish:  metatuner completion fish > ~/.config/fish/completions/metatuner.fish

The script knows the verbs and options of the metatuner that wrote it: write it again after an update.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from .console import say

EXAMPLE = 'eval "$(metatuner completion bash)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="which shell the script is for")


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import shtab

    from .parser import build_parser

    parser = build_parser()
    for action in _actions(parser):
        # What an argument takes is told by what help calls it.
        if str(action.metavar).startswith("FILE"):
            action.complete = shtab.FILE  # type: ignore[attr-defined]
        elif action.metavar in ("DIR", "FOLDER"):
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    say(shtab.complete(parser, args.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its verbs."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
