"""Whether a trial of a study is allowed."""

from __future__ import annotations

from optuna.trial import FrozenTrial


def is_allowed(trial: FrozenTrial) -> bool:
    """Whether a trial's constraints hold: none is above 0, or no number."""
    return all(excess <= 0 for excess in trial.constraints.values())
