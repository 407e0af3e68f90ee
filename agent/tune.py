"""Tunes an objective: proposes configurations, runs trials, and records every one of them."""

from __future__ import annotations

import contextlib
import functools
import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..envs.errors import ConfigurationError, SearchSpaceError, StoreError, TrainingError
from ..envs.records import KEY_ATTRIBUTE, Recorder, StudyFinished, StudyStarted
from .child import packed
from .cut_off_trials import MESSAGE_ATTRIBUTE, is_cut_off, retry_cut_off
from .interrupts import Interrupts
from .paused_trials import PausedTrials
from .policy_sampler import PolicySampler
from .quiet import quiet_optuna
from .strategies import Setting, Space, strategy_named
from .trial_runner import UNITS_ATTRIBUTE, Config, Constraints, Objective, TrialRunner

Progress = Callable[[float, int, float | None], None]
"""Told after every trial: full trainings spent, those that may be, the best value so far."""

_DISTRIBUTIONS = (FloatDistribution, IntDistribution, CategoricalDistribution)
_KNOWN = "metatuner:known"  # a trial's user attribute: its value was given, nobody tried it
_RECORDERS = "metatuner.recorders"
"""The group of entry points that make recorders, so that this package need not know where records go."""


@dataclass(frozen=True)
class TuneResult:
    """What came out.

    Attributes:
        study: The Optuna study, with everything that was tried.
        run_id: MLflow's id of the study's run; None where it is not recorded there, or not yet.
    """

    study: Study
    run_id: str | None

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, failed ones too."""
        return self.study.trials

    @property
    def best_trial(self) -> FrozenTrial:
        """The best trial that finished.

        Raises:
            TrainingError: None did.
        """
        try:
            return self.study.best_trial
        except ValueError as error:
            failed = [trial for trial in self.trials if trial.state is TrialState.FAIL]
            why = f"; the last one failed with {failed[-1].user_attrs.get(MESSAGE_ATTRIBUTE)}" if failed else ""
            raise TrainingError(f"none of the {len(self.trials)} trials has finished{why}") from error

    @property
    def best_config(self) -> dict[str, Any]:
        """The best trial's configuration."""
        return dict(self.best_trial.params)

    @property
    def best_value(self) -> float:
        """The best trial's value."""
        value = self.best_trial.value
        assert value is not None
        return value


def tune(
    objective: Objective,
    space: Space | None = None,
    budget: int = 30,
    *,
    strategy: str | BaseSampler = "policy",
    pruner: BasePruner | None = None,
    direction: str = "minimize",
    storage: str | BaseStorage | None = None,
    tracking_uri: str | None = None,
    experiment: str = "metatuner",
    name: str | None = None,
    seed: int = 0,
    n_workers: int = 1,
    resume: bool = True,
    units: int | None = None,
    configs: Sequence[Config] = (),
    known: Iterable[tuple[Config, float]] = (),
    past: Sequence[Study] = (),
    constraints: Constraints | None = None,
    metric: str = "objective",
    timeout: float | None = None,
    trial_timeout: float | None = None,
    isolated: bool = False,
    recorder: Recorder | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Tunes an objective.

    Example:
        result = tune(lambda config: (config["x"] - 2) ** 2, {"x": FloatDistribution(-5, 5)}, budget=30)
        result.best_config

    Args:
        objective: Takes a configuration, a dict, and returns a number; or yields one for each unit of budget, so that
            it can be stopped early; or, where `space` is None, an Optuna objective. One that raises, or gives no
            number, is a failed trial: it is recorded, and the study goes on.
        space: Optuna's distributions by name.
        budget: Full trainings to spend, in all: those of a study that is resumed count, and failed ones too.
        strategy: A name out of `strategies.STRATEGIES`, or any Optuna sampler.
        pruner: Any Optuna pruner; None takes the strategy's own.
        direction: "minimize" or "maximize".
        storage: Where the study lies: a journal file's path, a database URL as Optuna takes it, or an Optuna storage.
            None keeps it in memory.
        tracking_uri: The MLflow store to record in; None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in this folder.
        experiment: The MLflow experiment's name.
        name: The study's name; None takes the objective's.
        seed: Proposals follow from it (with one worker).
        n_workers: Trials at a time, in threads.
        resume: Go on with the study of this name in the storage. Otherwise it must not be there.
        units: How many values a full training yields or reports. A trial that was stopped early then costs its share;
            otherwise every trial costs a full training.
        configs: Configurations to try first, such as the default one. "manual" tries these alone.
        known: Configurations whose values are known: nobody has to try them.
        past: Studies of past tasks with this search space: "policy" tries first what was good there, and judges by how
            such tasks resemble this one; "portfolio" tries what was good there, and nothing else.
        constraints: Takes a configuration and returns numbers by name, all of them at most 0 where it is allowed.
            What is not allowed may be tried, but is never the best; TPE, GP and GA learn to keep away.
        metric: What the value is called in the record.
        timeout: Seconds after which no new trial begins.
        isolated: Whether each trial has a process of its own: one that crashes, hangs or runs out of memory then fails
            alone, and workers share no interpreter. Not for Optuna objectives, which need the study at hand.
        trial_timeout: Seconds that a trial may take. Where trials are not isolated, it is looked at between two units.
        recorder: Takes the record instead of MLflow; `NullRecorder()` records nothing.
        progress: Told after every trial.

    Returns:
        The study's result, with the best of all trials.

    Raises:
        ConfigurationError: An argument is wrong.
        SearchSpaceError: The space is.
        StoreError: The storage cannot be opened.
    """
    _check(objective, space, budget, direction, n_workers, units)
    title = name or str(getattr(objective, "__name__", type(objective).__name__))
    proposer = strategy if isinstance(strategy, str) else type(strategy).__name__
    if isolated and space is None:
        raise ConfigurationError("an Optuna objective cannot have a process of its own: give it a space, as a dict")
    if isolated:
        packed(objective, {})  # what cannot be sent is not a failed trial
    if strategy == "manual" and not configs:
        raise ConfigurationError("strategy 'manual' tries a given list: give it as `configs`")
    with quiet_optuna():
        study = _study(title, storage, direction, resume=resume)
        setting = Setting(space, budget, seed, len(study.get_trials(deepcopy=False)), n_workers, units, past)
        study.sampler, own_pruner = _proposer(strategy, setting)
        study.pruner = pruner or own_pruner
        retry_cut_off(study)
        _enqueue(study, configs, known, space)
        budget = min(budget, len(configs)) if strategy == "manual" else budget
        purse = _Purse(study, budget, units)
        with _recording(recorder, tracking_uri, experiment) as (into, run_id):
            into.record(
                StudyStarted(
                    name=title,
                    # Tags, not params: a study may go on with others.
                    tags={"metatuner.strategy": proposer, "metatuner.seed": str(seed)},
                    key=_key(study),
                    metric=metric,
                    direction=direction,
                    space={key: distribution_to_json(each) for key, each in (space or {}).items()},
                    budget=f"{budget} full trainings",
                )
            )
            interrupts = Interrupts()
            paused = None
            if isinstance(study.sampler, PolicySampler) and units and not isolated and space is not None:
                paused = PausedTrials()
                study.sampler.paused = paused.__contains__
            runner = TrialRunner(
                objective,
                space,
                into,
                proposer,
                metric,
                constraints,
                trial_timeout,
                isolated,
                n_workers > 1,
                interrupts,
                paused,
                study.sampler.continued_by if isinstance(study.sampler, PolicySampler) else lambda trial: None,
            )
            if not purse.is_empty:
                with interrupts.taken_over():
                    study.optimize(
                        runner,
                        # Where every trial costs the same, so many are left; otherwise the purse tells when to stop.
                        n_trials=None if units else math.ceil(purse.left),
                        timeout=timeout,
                        n_jobs=n_workers,
                        catch=(Exception,),
                        callbacks=[functools.partial(_after_trial, purse, interrupts, progress)],
                    )
            if paused is not None:
                paused.close()
            into.record(StudyFinished())
        return TuneResult(study, run_id())


class _Purse:
    """What of the budget is left."""

    def __init__(self, study: Study, budget: int, units: int | None) -> None:
        self._study, self.budget, self._units = study, budget, units

    @property
    def spent(self) -> float:
        """Full trainings that all finished trials cost together."""
        trials = self._study.get_trials(
            deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        )
        return sum(self._cost(trial) for trial in trials if _KNOWN not in trial.user_attrs and not is_cut_off(trial))

    @property
    def left(self) -> float:
        """Full trainings that may still be spent."""
        return max(self.budget - self.spent, 0.0)

    @property
    def is_empty(self) -> bool:
        """Whether no more may be spent, up to rounding."""
        return self.left < 1e-9

    def _cost(self, trial: FrozenTrial) -> float:
        if self._units is None:
            return 1.0
        reported = len(trial.intermediate_values)
        return float(trial.user_attrs.get(UNITS_ATTRIBUTE, reported or self._units)) / self._units


def _after_trial(
    purse: _Purse, interrupts: Interrupts, progress: Progress | None, study: Study, trial: FrozenTrial
) -> None:
    del trial
    if progress is not None:
        try:
            best = study.best_value
        except ValueError:  # nothing has finished that is allowed
            best = None
        progress(purse.spent, purse.budget, best)
    if purse.is_empty or interrupts.pending:
        study.stop()


def _check(
    objective: object, space: Space | None, budget: int, direction: str, n_workers: int, units: int | None
) -> None:
    if not callable(objective):
        raise ConfigurationError(f"expected the objective to be a function, got {objective!r}")
    if direction not in ("minimize", "maximize"):
        raise ConfigurationError(f"expected the direction minimize or maximize, got {direction!r}")
    for name, value in (("budget", budget), ("n_workers", n_workers), ("units", 1 if units is None else units)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
    if space is None:
        return
    if not isinstance(space, Mapping) or not space:
        raise SearchSpaceError(
            f"expected a dict from names to Optuna distributions, got {space!r}; for an Optuna objective leave it out"
        )
    for key, each in space.items():
        if not isinstance(key, str) or not isinstance(each, _DISTRIBUTIONS):
            raise SearchSpaceError(
                f"expected names and Optuna distributions, such as FloatDistribution(0.1, 1.0), got {key!r}: {each!r}"
            )


def _proposer(strategy: str | BaseSampler, setting: Setting) -> tuple[BaseSampler, BasePruner]:
    if isinstance(strategy, str):
        return strategy_named(strategy).make(strategy, setting)
    return strategy, NopPruner()


def _study(name: str, storage: str | BaseStorage | None, direction: str, *, resume: bool) -> Study:
    try:
        if isinstance(storage, str) and "://" not in storage:
            storage = JournalStorage(JournalFileBackend(storage))
        study = optuna.create_study(
            storage=storage,
            study_name=name if storage is not None else None,
            direction=StudyDirection[direction.upper()],
            load_if_exists=resume,
        )
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ConfigurationError(
            f"the storage has a study {name!r} already: give another name, or resume=True to go on with it"
        ) from error
    except Exception as error:
        # Without the address, which may hold a password.
        raise StoreError(f"the study's storage cannot be opened ({error}): check its address") from error
    if study.direction is not StudyDirection[direction.upper()]:
        raise ConfigurationError(
            f"the study {name!r} is there, to {study.direction.name.lower()}, and you ask to {direction}: give another "
            "name, or the same direction"
        )
    return study


def _key(study: Study) -> str:
    """What tells this study from all others, of the same name too."""
    if KEY_ATTRIBUTE not in study.user_attrs:
        study.set_user_attr(KEY_ATTRIBUTE, uuid.uuid4().hex)
    return str(study.user_attrs[KEY_ATTRIBUTE])


def _enqueue(
    study: Study, configs: Sequence[Config], known: Iterable[tuple[Config, float]], space: Space | None
) -> None:
    for config in configs:
        _require_config(config, space)
        study.enqueue_trial(dict(config), skip_if_exists=True)
    for config, value in known:
        if space is None:
            raise ConfigurationError("known trials need a search space: give a dict of distributions")
        _require_config(config, space)
        if any(
            trial.params == dict(config) and _KNOWN in trial.user_attrs for trial in study.get_trials(deepcopy=False)
        ):
            continue
        study.add_trial(
            optuna.trial.create_trial(
                params=dict(config),
                distributions={key: space[key] for key in config},
                value=float(value),
                user_attrs={_KNOWN: True},
            )
        )


def _require_config(config: Config, space: Space | None) -> None:
    if not isinstance(config, Mapping):
        raise ConfigurationError(f"expected a configuration as a dict, got {config!r}")
    for key, value in config.items():
        if space is None:
            continue
        if key not in space:
            raise ConfigurationError(f"the space has no {key!r}: expected one of {', '.join(space)}")
        try:
            fits = space[key]._contains(space[key].to_internal_repr(value))
        except (ValueError, TypeError):
            fits = False
        if not fits:
            raise ConfigurationError(f"{key}={value!r} is not in {space[key]}")


@contextlib.contextmanager
def _recording(
    recorder: Recorder | None, tracking_uri: str | None, experiment: str
) -> Iterator[tuple[Recorder, Callable[[], str | None]]]:
    """The recorder, and what tells the id of the study's run in it."""
    if recorder is not None:
        yield recorder, lambda: getattr(recorder, "run_id", None)
        return
    (found,) = entry_points(group=_RECORDERS, name="mlflow")
    with found.load()(tracking_uri, experiment) as mlflow:
        yield mlflow, lambda: mlflow.run_id
