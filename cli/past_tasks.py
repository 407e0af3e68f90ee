"""The past tasks that a verb is told of, as they fit a search space."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .objective_file import load_file, space_of

if TYPE_CHECKING:
    from ..agent.search_learning import Lessons


def given_space(given: str) -> dict[str, Any]:
    """The search space at FILE.py:SPACE.

    Raises:
        ConfigurationError: There is none.
    """
    from ..envs.errors import ConfigurationError

    file, _, variable = given.rpartition(":")
    space = space_of(load_file(file, given), variable, file)
    if not isinstance(space, dict):
        raise ConfigurationError(f"expected {variable!r} of {file} to be a dict of distributions, got {space!r}")
    return space


def lessons_in(args: argparse.Namespace, addresses: Sequence[str], space: dict[str, Any], least: int) -> Lessons:
    """The past tasks at some addresses, judged by `args.metric`, of `args.units` units.

    Args:
        args: The verb's options.
        addresses: Where past tasks are; one that is given twice counts once.
        space: The search space.
        least: Tasks that are needed.

    Raises:
        ConfigurationError: Fewer tasks say enough, or an option is wrong.
        StoreError: They cannot be read.
    """
    from ..agent.arguments import require_count
    from ..agent.priors import prior_of
    from ..agent.search_learning import Lessons
    from ..envs.conditional_space import ConditionalSpace

    require_count("units", args.units)
    tree = ConditionalSpace(space)
    about = {
        "metric": args.metric,
        "direction": "maximize" if args.maximize else "minimize",
        "tracking_uri": args.tracking_uri,
        "own": None,
        "units": args.units,
    }
    studies = [study for each in dict.fromkeys(addresses) for study in prior_of(each, tree, **about).studies]
    return Lessons.of(studies, tree.common, args.units, least=least)
