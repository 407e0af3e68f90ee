"""Work on a study beside other processes, here and on other machines.

The study lies in a storage that all of them reach: a database (postgresql://, mysql://, sqlite:///), Optuna's gRPC
proxy (grpc://HOST:PORT), or a journal file on a disk that they share. `metatuner tune --storage URL --name NAME` began
it, or the first worker does; then its budget, strategy and other settings are kept in the storage, and options of this
verb that tell otherwise are not heeded.

Workers share the budget. They end when it is spent; any may be added, killed, or stopped with Ctrl-C at any time: a
trial that is cut off is tried again by another one. With several workers in one process Ctrl-C waits for what they run.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from . import tune
from .console import say_aside

EXAMPLE = "metatuner worker objective.py:train --study train --storage postgresql://host/studies"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("--study", required=True, metavar="NAME", help="the study")
    parser.add_argument(
        "--storage",
        required=True,
        metavar="URL",
        help="where it lies: a database URL, grpc://HOST:PORT, a journal file",
    )
    tune.add_study_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..agent.study_settings import KEPT, settings_of

    objective = tune.load_objective(args)
    begun = settings_of(args.storage, args.study)
    _require_same(objective, begun or {}, args.study)
    for line in _not_heeded(args, begun or {}):
        say_aside(line)
    settings = tune.settings_in(args) if begun is None else {each: begun[each] for each in KEPT}
    return tune.run_study(args, objective, args.study, args.storage, settings)


def _require_same(objective: tuple[Any, Any], begun: Mapping[str, Any], study: str) -> None:
    """All workers of a study try the same objective in the same space."""
    from ..agent.study_settings import described, title_of
    from ..envs.conditional_space import ConditionalSpace
    from ..envs.errors import ConfigurationError

    function, space = objective
    for what, mine in (
        ("objective", title_of(function)),
        ("space", described(None if space is None else ConditionalSpace(space))),
    ):
        if begun.get(what, mine) != mine:
            raise ConfigurationError(
                f"expected the {what} of the study {study!r}, which was begun with {begun[what]}, got {mine}: join it "
                "with that one, or begin another study"
            )


def _not_heeded(args: argparse.Namespace, begun: Mapping[str, Any]) -> Iterator[str]:
    """Options that were given and tell otherwise than what the study was begun with."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    usual = tune.settings_in(parser.parse_args([args.objective, "--study", args.study, "--storage", args.storage]))
    for name, given in tune.settings_in(args).items():
        if name in begun and given not in (usual[name], begun[name]):
            yield f"{name} {given} is not heeded: the study {args.study!r} was begun with {begun[name]}"
