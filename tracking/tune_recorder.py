"""A callback of Ray Tune that records an experiment in MLflow: every trial with its curves and changing configuration.

    recorder = TuneRecorder("val_loss", experiment="my-model")
    tuner = tune.Tuner(train, run_config=tune.RunConfig(callbacks=[recorder]), ...)

Ray's own callback for MLflow records a trial's configuration once, as params. Population based training changes it, and
here it is a metric of each step, `hp/NAME`, beside what the trial reports.
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any

from ..envs.errors import ConfigurationError, MissingPackageError
from ..envs.records import (
    Decision,
    Metrics,
    ParamsChosen,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from .recorder import MLflowRecorder

try:
    from ray.tune import Callback
    from ray.tune.experiment import Trial
    from ray.tune.result import AUTO_RESULT_KEYS, DEBUG_METRICS, TIME_TOTAL_S, TRAINING_ITERATION
    from ray.tune.utils.util import flatten_dict
except ImportError as error:
    raise MissingPackageError(
        f"TuneRecorder needs Ray Tune, which cannot be imported ({error}): install metatuner[ray]"
    ) from error

_ID_TAG = "ray.trial_id"
_log = logging.getLogger(__name__)

_OWN = {*AUTO_RESULT_KEYS, *DEBUG_METRICS, "done", "should_checkpoint", "trial_id"}
"""What Ray adds to each result by itself."""


class TuneRecorder(Callback):
    """Records an experiment of Ray Tune as a study, and its trials as the study's child runs.

    A trial that is paused, or that fails and is tried again from its checkpoint, is one run, which ends when the trial
    does; the tag `metatuner.retries` counts failures. An experiment that is restored (`Tuner.restore`) goes on in the
    same place: trials that were cut off or failed have another attempt, as after `tune(resume=True)`, and one that had
    finished, which Ray does again where its own file is older, stays as it is. A trial that went
    back to an earlier step has values of both passes there, and the later ones hold. Another `fit` is another study.

    What trials use is not measured, as they may run on other machines: `resource/wall_s` is what Ray tells.

    Example:
        >>> import metatuner as mt
        >>> from ray import tune
        >>> def train(config):
        ...     for epoch in range(3):
        ...         tune.report({"val_loss": config["lr"] / (epoch + 1)})
        >>> recorder = mt.TuneRecorder("val_loss", experiment="my-model")
        >>> run_config = tune.RunConfig(callbacks=[recorder])
        >>> tuner = tune.Tuner(train, param_space={"lr": tune.loguniform(1e-5, 1.0)}, run_config=run_config)
        >>> results = tuner.fit()  # it starts a cluster  # doctest: +SKIP

    Args:
        metric: The result by which trials are judged.
        mode: "min" or "max".
        tracking_uri: Where to record. None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.
        experiment: The MLflow experiment.
        name: The study's name; None takes that of Ray's experiment.
        plots: Whether to draw the plots of trials and studies.

    Attributes:
        run_id: MLflow's id of the study's run; None before it is there.

    Raises:
        ConfigurationError: `mode` is neither.
    """

    def __init__(
        self,
        metric: str,
        mode: str = "min",
        tracking_uri: str | None = None,
        experiment: str = "metatuner",
        *,
        name: str | None = None,
        plots: bool = True,
    ) -> None:
        if mode not in ("min", "max"):
            raise ConfigurationError(f"expected mode to be 'min' or 'max', got {mode!r}")
        self._metric, self._direction = metric, "minimize" if mode == "min" else "maximize"
        self._tracking_uri, self._experiment, self._name, self._plots = tracking_uri, experiment, name, plots
        self.run_id: str | None = None
        self._key, self._over = f"ray/{uuid.uuid4().hex}", False
        self._numbers: dict[str, int] = {}
        self._open: set[str] = set()
        self._known: set[str] = set()  # trials that had finished before, and are done again
        self._retries: dict[str, int] = {}
        self._judged = False  # whether a result had the metric
        self._recorder: MLflowRecorder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Everything but what is open: Ray keeps callbacks with the experiment, to restore it."""
        return {**vars(self), "_recorder": None, "_open": set(), "_known": set(), "_over": False}

    def get_state(self) -> dict[str, Any]:
        """For Ray's state of the experiment."""
        return {"key": self._key, "numbers": dict(self._numbers), "retries": dict(self._retries)}

    def set_state(self, state: dict[str, Any]) -> None:
        """From Ray's state of the experiment that is restored."""
        self._key, self._numbers, self._retries = state["key"], dict(state["numbers"]), dict(state["retries"])

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial begins, or goes on."""
        if trial.trial_id in self._open or trial.trial_id in self._known:
            return
        study = self._study(trial)
        number = self._numbers.setdefault(trial.trial_id, max(self._numbers.values(), default=-1) + 1)
        if number in study.finished:
            self._known.add(trial.trial_id)
            return
        self._open.add(trial.trial_id)
        study.record(
            TrialStarted(
                trial=number,
                name=trial.trainable_name,
                params=flatten_dict(trial.config),
                tags={_ID_TAG: trial.trial_id},
            )
        )

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """What a trial reports, and the configuration by which it got there: that of the step before, from there on."""
        if trial.trial_id not in self._open:
            return
        number, step = self._numbers[trial.trial_id], int(result[TRAINING_ITERATION])
        config = {f"hp/{name}": value for name, value in _numbers(result.get("config", {})).items()}
        reported = {name: value for name, value in result.items() if name not in _OWN and not name.startswith("__")}
        self._study(trial).record(Metrics(trial=number, step=step - 1, values=config))
        told = _numbers(reported)
        self._judged = self._judged or self._metric in told
        self._study(trial).record(Metrics(trial=number, step=step, values=told))

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed and is tried again, from its checkpoint."""
        retries = self._retries[trial.trial_id] = self._retries.get(trial.trial_id, 0) + 1
        if trial.trial_id in self._open:
            tags = {"metatuner.retries": str(retries), "metatuner.last_failure": _told(trial)}
            number = self._numbers[trial.trial_id]
            self._study(trial).record(ParamsChosen(trial=number, params={}, tags=tags))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial ended well, or was stopped."""
        if not self._judged and trial.trial_id in self._open:
            self._judged = True  # once
            names = sorted(_numbers({name: each for name, each in trial.last_result.items() if name not in _OWN}))
            _log.warning("no result has the metric %r, so trials have no value: there are %s", self._metric, names)
        self._end(trial, TrialState.FINISHED)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """A trial failed for good."""
        self._end(trial, TrialState.FAILED, _told(trial))

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """The experiment is over: what is still open was cut off."""
        if self._recorder is None:
            return
        cut_off = [trial for trial in trials if trial.trial_id in self._open]
        for trial in cut_off:
            self._end(trial, TrialState.KILLED, "the experiment ended before it did")
        state = (
            TrialState.KILLED if cut_off or not all(trial.is_finished() for trial in trials) else TrialState.FINISHED
        )
        self._recorder.record(StudyFinished(state=state))
        self._recorder.close()
        self.run_id, self._recorder, self._over = self._recorder.run_id, None, True

    def decided(self, trial_id: str, decision: Decision, /) -> None:
        """Takes a decision of `PolicyScheduler` for the trial of this id.

        Raises:
            ConfigurationError: The trial was never started here.
        """
        if trial_id in self._known:
            return
        if self._recorder is None or trial_id not in self._open:
            raise ConfigurationError(
                f"trial {trial_id} was not started in this recorder: put the same TuneRecorder among the callbacks of "
                "the RunConfig"
            )
        self._recorder.record(replace(decision, trial=self._numbers[trial_id]))

    def _study(self, trial: Trial) -> MLflowRecorder:
        """The recorder, in the study that is this experiment."""
        if self._over:  # another `fit` with the same recorder; a restored experiment has a copy from before its end
            self._key, self._over = f"ray/{uuid.uuid4().hex}", False
            self._numbers, self._retries, self._known = {}, {}, set()
        if self._recorder is None:
            name = self._name or trial.experiment_dir_name
            self._recorder = MLflowRecorder(self._tracking_uri, self._experiment, plots=self._plots, sampling=None)
            self._recorder.record(
                StudyStarted(
                    name=name, key=self._key, metric=self._metric, direction=self._direction, tags={"ray": "tune"}
                )
            )
            # Ray's state may be older than the record.
            tags = self._recorder.trial_tags
            self._numbers |= {told[_ID_TAG]: number for number, told in tags.items() if _ID_TAG in told}
        return self._recorder

    def _end(self, trial: Trial, state: TrialState, message: str = "") -> None:
        if trial.trial_id not in self._open:
            return
        self._open.discard(trial.trial_id)
        wall_s = trial.last_result.get(TIME_TOTAL_S)
        costs = {} if wall_s is None else {"resource/wall_s": float(wall_s)}
        number = self._numbers[trial.trial_id]
        self._study(trial).record(TrialFinished(trial=number, state=state, message=message, costs=costs))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in it, by names with slashes where it is nested."""
    flat = flatten_dict(dict(values))
    return {
        name: float(value) for name, value in flat.items() if isinstance(value, Real) and not isinstance(value, bool)
    }


def _told(trial: Trial) -> str:
    """Why a trial failed, in a line: of the last failure in Ray's file, the one that names the error, or the first."""
    try:
        text = Path(trial.error_file).read_text(errors="replace")
    except (OSError, TypeError):  # there is none, or its disk is gone
        return "Ray tells why in its error file"
    lines = text.rpartition("Failure # ")[2].splitlines()[1:]
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(: |$)", line)]
    return named[-1] if named else "".join(lines[:1])
