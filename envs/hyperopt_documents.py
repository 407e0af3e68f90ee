"""The trials of hyperopt that have ended, as its documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperopt import Trials


def ended_trials(trials: Trials) -> list[Mapping[str, Any]]:
    """Those that are done or have raised; `trials.trials` lacks the latter.

    Args:
        trials: What `fmin` is given.
    """
    from hyperopt import JOB_STATE_DONE, JOB_STATE_ERROR

    mine = [each for each in trials._dynamic_trials if trials._exp_key in (None, each["exp_key"])]
    return [each for each in mine if each["state"] in (JOB_STATE_DONE, JOB_STATE_ERROR)]
