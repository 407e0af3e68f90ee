"""Past tasks for `tune`, by address: what follows the colon in `mlflow:EXPERIMENT` and in `table:FILE.csv`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ..envs.prior import Prior
from .matching import matched
from .told_trials import told_runs
from .trial_table import read_table

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


def past_studies(
    experiments: str,
    space: Mapping[str, BaseDistribution],
    *,
    metric: str = "objective",
    direction: str = "minimize",
    tracking_uri: str | None = None,
    own: tuple[str, str] | None = None,
    units: int | None = None,
) -> Prior:
    """Past runs of MLflow, one study a task.

    Args:
        experiments: An experiment's name, or a regular expression for whole names.
        space: The search space: Optuna's distributions by name.
        metric: What runs were judged by; its curve is read too.
        direction: "minimize" or "maximize".
        tracking_uri: The store, as for `MLflowRecorder`.
        own: Names of the study that is to be tuned, and of its experiment: it is left out.
        units: Values that a full training reports; None keeps curves whole.

    Raises:
        UnknownExperimentError: No experiment has such a name.
        StoreError: The store cannot be used, or no run has a hyperparameter of the search space and the metric.
    """
    runs = told_runs(experiments, metric=metric, tracking_uri=tracking_uri, own=own)
    return matched(runs, space, f"mlflow:{experiments}", metric=metric, direction=direction, units=units)


def past_table(
    path: str,
    space: Mapping[str, BaseDistribution],
    *,
    metric: str = "objective",
    direction: str = "minimize",
    tracking_uri: str | None = None,
    own: tuple[str, str] | None = None,
    units: int | None = None,
) -> Prior:
    """Past trials of a table (`trial_table`), one study a task.

    Args:
        path: The file.
        space: The search space: Optuna's distributions by name.
        metric: The name of the column with values; where there is none, it is `value`.
        direction: "minimize" or "maximize".
        tracking_uri: Not used.
        own: Names of the study that is to be tuned, and of its experiment: a task of that name is left out.
        units: Values that a full training reports; None keeps curves whole.

    Raises:
        StoreError: The table cannot be read, or no trial in it has a hyperparameter of the search space and a value.
    """
    del tracking_uri
    name = None if own is None else own[0]
    trials = (replace(trial, own=trial.task == name) for trial in read_table(path, metric))
    return matched(trials, space, f"table:{path}", metric=metric, direction=direction, units=units)
