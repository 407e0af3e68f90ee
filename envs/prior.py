"""Past tasks as a source of them hands them to a search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.study import Study

from .prior_match import PriorMatch


@dataclass(frozen=True, slots=True)
class Prior:
    """Past tasks.

    Attributes:
        studies: One a task; trials have those of today's hyperparameters that their task knows.
        match: How they fit today's search space.
    """

    studies: Sequence[Study]
    match: PriorMatch
