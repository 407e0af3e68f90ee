"""Records a study that ran elsewhere, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..envs.errors import ConfigurationError, StoreError
from ..envs.records import Record, TrialFinished
from . import hyperopt_trials, optuna_study
from .recorder import MLflowRecorder

if TYPE_CHECKING:
    from hyperopt import Trials
    from optuna.study import Study


def record_study(
    study: Study | Trials,
    tracking_uri: str | None = None,
    experiment: str = "metatuner",
    *,
    name: str | None = None,
) -> str | None:
    """Records a study of Optuna, or hyperopt's trials, in MLflow: a run, with a child run for each trial.

    Whoever proposed and ran the trials, they look like those of `tune`. Recording a study again adds what is
    new: trials that run still are left out until they have ended. A study is known by its name and the moment when its
    first trial began: another one of the same name has a run of its own.

    Example:
        >>> import metatuner as mt
        >>> import optuna
        >>> study = optuna.create_study()
        >>> study.optimize(lambda trial: trial.suggest_float("x", -5, 5) ** 2, n_trials=5)
        >>> run_id = mt.record_study(study, experiment="finished")

    Args:
        study: Optuna's study, or the `Trials` that `fmin` has filled.
        tracking_uri: Where to record. None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.
        experiment: The MLflow experiment.
        name: The name of hyperopt's trials, which have none; None names them after the moment when they began.

    Returns:
        MLflow's id of the study's run; None where the store does not answer: the records are kept, and sent later.

    Raises:
        ConfigurationError: It is neither.
        StoreError: The store cannot be opened, the study has several objectives, or no trial that has ended.
    """
    recorder = MLflowRecorder(tracking_uri, experiment, sampling=None)
    with recorder:
        start, *rest = _records(study, name)
        over = {record.trial for record in rest if isinstance(record, TrialFinished)}
        if not over:
            raise StoreError("expected a study with trials that have ended, got one without any")
        recorder.record(start)
        known = recorder.ended
        for record in rest:
            trial = getattr(record, "trial", None)
            # One that runs still has no value yet: it is for the next time.
            if trial is None or (trial in over and trial not in known):
                recorder.record(record)
    return recorder.run_id


def _records(study: Study | Trials, name: str | None) -> Iterator[Record]:
    from optuna.study import Study as OptunaStudy

    if isinstance(study, OptunaStudy):
        return optuna_study.records(study)
    if hasattr(study, "trials") and hasattr(study, "losses"):
        return hyperopt_trials.records(study, name)
    raise ConfigurationError(f"expected an Optuna study or hyperopt's Trials, got {type(study).__name__}")
