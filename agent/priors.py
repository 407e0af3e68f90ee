"""Past tasks by their address, such as `mlflow:EXPERIMENT`: what remembers them is an entry point, not known here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from typing import Any

from ..envs.conditional_space import ConditionalSpace
from ..envs.errors import ConfigurationError
from ..envs.prior import Prior
from .quiet import quiet_optuna

_PRIORS = "metatuner.priors"
"""The group of entry points that read past tasks."""

_log = logging.getLogger(__name__)


def addresses(prior: object) -> Sequence[object]:
    """One address, several or none."""
    if prior is None:
        return ()
    return prior if isinstance(prior, list | tuple) else (prior,)


def prior_of(address: object, tree: ConditionalSpace | None, *, shown: str | None = None, **known: Any) -> Prior:
    """The past tasks that an address names, and what of them fits, which is logged.

    Args:
        address: A kind, a colon and what the kind takes.
        tree: The search space; None where nobody knows it.
        shown: What the address is called where it means nothing to anybody; None shows it.
        known: What kinds take besides: `metric`, `direction`, `tracking_uri`, `own`, `units`.

    Raises:
        ConfigurationError: It is no address, no such kind is there, or the space is not known.
        MetatunerError: Past tasks cannot be read.
    """
    kind, _, what = str(address).partition(":")
    found = entry_points(group=_PRIORS, name=kind) if isinstance(address, str) and what else ()
    if not found:
        raise ConfigurationError(f"expected a prior such as 'mlflow:EXPERIMENT' or 'table:FILE.csv', got {address!r}")
    if tree is None:
        raise ConfigurationError("a prior needs the search space: give it as a dict of distributions")
    (source,) = found
    with quiet_optuna():
        read: Prior = source.load()(what, tree.common, **known)
    match = replace(read.match.beside(tree.distributions), address=shown or read.match.address)
    for line in match.lines():
        _log.info("%s", line)
    return replace(read, match=match)
