"""What a trial's constraints say, in any Optuna study."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import StoreError

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def excess_of(trial: FrozenTrial) -> dict[str, float]:
    """By how much a trial exceeds each of its constraints, by name.

    Raises:
        StoreError: The study's storage holds something else than numbers.
    """
    try:
        return {str(name): float(value) for name, value in trial.constraints.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise StoreError(
            f"expected the constraints of trial {trial.number} to be numbers, got {error}: its study was altered"
        ) from error


def is_allowed(trial: FrozenTrial) -> bool:
    """Whether a trial's constraints hold: all are numbers, and none is above 0.

    Raises:
        StoreError: As for `excess_of`.
    """
    return all(excess <= 0 for excess in excess_of(trial).values())
