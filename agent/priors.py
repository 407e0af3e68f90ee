"""Past tasks by their address, such as `mlflow:EXPERIMENT`: what remembers them is an entry point, not known here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.study import Study

from ..envs.errors import ConfigurationError
from .quiet import quiet_optuna

_PRIORS = "metatuner.priors"


def studies_of(prior: object, space: Mapping[str, BaseDistribution] | None, **known: Any) -> list[Study]:
    """The past tasks that an address names.

    Args:
        prior: The address: a kind, a colon and what the kind takes.
        space: The search space; None where nobody knows it.
        known: What the kind takes besides: `metric`, `direction`, `tracking_uri`, `without`.

    Raises:
        ConfigurationError: It is no address, no such kind is there, or the space is not known.
        MetatunerError: Past tasks cannot be read.
    """
    kind, _, what = str(prior).partition(":")
    found = entry_points(group=_PRIORS, name=kind) if isinstance(prior, str) and what else ()
    if not found:
        raise ConfigurationError(f"expected a prior such as 'mlflow:EXPERIMENT', got {prior!r}")
    if space is None:
        raise ConfigurationError("a prior needs the search space: give it as a dict of distributions")
    (source,) = found
    with quiet_optuna():
        studies: list[Study] = source.load()(what, space, **known)
    return studies
