"""Several strategies on one objective, each with the same budget and several times.

Every run is a study of its own, which `tune` runs and records. The runs of a repeat have the same seed, so that they
are compared in pairs, and a machine that becomes slower or busier slows all alike: strategies take turns, in the other
order every other repeat.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from optuna.distributions import BaseDistribution
from optuna.search_space import intersection_search_space
from optuna.study import Study
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ..envs.conditional_space import ConditionalSpace, NestedSpace
from ..envs.constraints import is_allowed
from ..envs.errors import ConfigurationError, SearchSpaceError
from ..envs.exploration import proposal_distances
from ..envs.records import MESSAGE_ATTRIBUTE, Record, Recorder, TrialFinished, TrialState
from ..envs.strategy_comparison import ComparedRun, ComparedTrial, StrategyComparison
from .arguments import require_count, require_seed
from .cut_off_trials import is_cut_off
from .opened_study import key_of, open_study
from .purse import cost_of
from .quiet import quiet_optuna
from .strategies import Setting, strategy_named
from .study_settings import title_of
from .trial_runner import CONTINUES_ATTRIBUTE, TRAINING_COST, Objective
from .tune import tune

COMPARISON_TAG, REPEAT_TAG = "metatuner.comparison", "metatuner.repeat"
"""Tags of each run's study: which comparison it belongs to, and which repeat it is."""

Progress = Callable[[float, str], None]
"""Told after every trial: full trainings spent in all runs together, and which run it is."""

_SETTINGS_ATTRIBUTE = "metatuner:compared"  # a study's user attribute: what it was begun with
_TIMES_ATTRIBUTE = "metatuner:training_s"  # a study's user attribute: seconds in the objective by a trial's number
_DONE_ATTRIBUTE = "metatuner:compared_done"  # a study's user attribute: its run is over

_STATES = {
    OptunaState.COMPLETE: TrialState.FINISHED,
    OptunaState.PRUNED: TrialState.PRUNED,
    OptunaState.FAIL: TrialState.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """What is compared, and how.

    Attributes:
        name: The comparison's name.
        strategies: Names out of `strategies.STRATEGIES`.
        budget: Full trainings of each run.
        repeats: Runs of each strategy.
        seed: The first repeat's; each other one has the next.
        direction: "minimize" or "maximize".
        units: Values that a full training yields; None where every trial costs a full one.
        trial_timeout: Seconds that a trial may take.
        isolated: Whether each trial has a process of its own.
        tracking_uri: The store of policies' addresses, as for `Policy.load`.

    Raises:
        ConfigurationError: A value is wrong.
    """

    name: str
    strategies: tuple[str, ...]
    budget: int
    repeats: int
    seed: int = 0
    direction: str = "minimize"
    units: int | None = None
    trial_timeout: float | None = None
    isolated: bool = False
    tracking_uri: str | None = None

    def __post_init__(self) -> None:
        for each in self.strategies:
            strategy_named(each)
            if each == "manual":
                raise ConfigurationError("strategy 'manual' proposes nothing by itself: leave it out")
        twice = {each for each in self.strategies if self.strategies.count(each) > 1}
        if twice:
            raise ConfigurationError(f"expected each strategy once, got {', '.join(sorted(twice))} more than once")
        if len(self.strategies) < 2:
            raise ConfigurationError(
                f"expected at least two strategies to compare, got {', '.join(self.strategies) or 'none'}"
            )
        require_count("budget", self.budget)
        require_count("repeats", self.repeats, 2)
        require_count("units", 1 if self.units is None else self.units)
        require_seed(self.seed)
        require_seed(self.seed + self.repeats - 1)


def compare(
    objective: Objective,
    space: NestedSpace | None,
    settings: ComparisonSettings,
    *,
    recorder: Recorder,
    storage: str | Path | None = None,
    progress: Progress | None = None,
) -> StrategyComparison:
    """Runs each strategy as often as there are repeats, and reads what came of it.

    Args:
        objective: As for `tune`.
        space: As for `tune`.
        settings: What is compared.
        recorder: Takes the record of every study.
        storage: Where studies lie: a database URL as Optuna takes it, or a folder, with a journal for each. What is
            there goes on, or is read if it is over. None keeps them in memory.
        progress: Told after every trial.

    Raises:
        ConfigurationError: An argument is wrong, or the studies that are there were begun with other settings.
        MetatunerError: As for `require_able`.
        StoreError: The storage cannot be opened.
    """
    require_able(space, settings)
    tree = None if space is None else ConditionalSpace(space)
    if storage is not None and "://" not in str(storage):
        Path(storage).mkdir(parents=True, exist_ok=True)
    runs: list[ComparedRun] = []
    over = 0
    for repeat in range(settings.repeats):
        for strategy in settings.strategies if repeat % 2 == 0 else reversed(settings.strategies):
            done = len(runs) * settings.budget
            title = f"{strategy} {repeat + 1}/{settings.repeats}"

            def told(spent: float, budget: int, best: float | None, done: int = done, title: str = title) -> None:
                del best
                if progress is not None:
                    progress(done + min(spent, budget), title)

            study, was_over = _run(objective, space, tree, settings, strategy, repeat, recorder, storage, told)
            over += was_over
            told(settings.budget, settings.budget, None)
            run = _read(study, tree, settings)
            runs.append(ComparedRun(strategy, repeat, settings.seed + repeat, run))
    return StrategyComparison(
        name=settings.name,
        objective=str(getattr(objective, "__name__", type(objective).__name__)),
        metric="objective",
        direction=settings.direction,
        budget=settings.budget,
        units=settings.units,
        strategies=settings.strategies,
        repeats=settings.repeats,
        runs=tuple(runs),
        over=over,
    )


def require_able(space: NestedSpace | None, settings: ComparisonSettings) -> None:
    """Makes each strategy: what one of them lacks is known before hours were spent on the others.

    Raises:
        ConfigurationError: A strategy cannot work here.
        MissingPackageError: A package that it needs is not installed.
        SearchSpaceError: The space is wrong.
    """
    common = None if space is None else ConditionalSpace(space).common
    for each in settings.strategies:
        setting = Setting(
            common, settings.budget, settings.seed, units=settings.units, tracking_uri=settings.tracking_uri
        )
        strategy_named(each).make(each, setting)


def _run(
    objective: Objective,
    space: NestedSpace | None,
    tree: ConditionalSpace | None,
    settings: ComparisonSettings,
    strategy: str,
    repeat: int,
    recorder: Recorder,
    storage: str | Path | None,
    progress: Callable[[float, int, float | None], None],
) -> tuple[Study, bool]:
    """One study, from wherever it is to its end, and whether it was there already."""
    name = f"{settings.name}/{strategy}/{repeat}"
    place = _place(storage, strategy, repeat)
    study: Study | None = None
    if place is not None:
        with quiet_optuna():
            study, _ = open_study(name, place, settings.direction, resume=True)
            key_of(study)  # `tune` need not wait for another process to do so
        _require_same(study, objective, settings, tree, repeat)
        if _DONE_ATTRIBUTE in study.user_attrs:
            return study, True
    times = _TrainingTimes(recorder)
    try:
        study = tune(
            objective,
            space,
            settings.budget,
            strategy=strategy,
            direction=settings.direction,
            storage=place,
            name=name,
            seed=settings.seed + repeat,
            units=settings.units,
            trial_timeout=settings.trial_timeout,
            isolated=settings.isolated,
            recorder=times,
            tracking_uri=settings.tracking_uri,
            tags={COMPARISON_TAG: settings.name, REPEAT_TAG: str(repeat)},
            progress=progress,
        ).study
    finally:
        if study is not None:
            study.set_user_attr(_TIMES_ATTRIBUTE, {**study.user_attrs.get(_TIMES_ATTRIBUTE, {}), **times.seconds})
    study.set_user_attr(_DONE_ATTRIBUTE, True)
    return study, False


class _TrainingTimes:
    """Notes how long objectives ran, in seconds by the trial's number, on the way to another recorder."""

    def __init__(self, recorder: Recorder) -> None:
        self.seconds: dict[str, float] = {}
        self._recorder = recorder

    def record(self, record: Record, /) -> None:
        """Notes, and hands on."""
        if isinstance(record, TrialFinished) and TRAINING_COST in record.costs:
            self.seconds[str(record.trial)] = record.costs[TRAINING_COST]
        self._recorder.record(record)


def _place(storage: str | Path | None, strategy: str, repeat: int) -> str | None:
    if storage is None or "://" in str(storage):
        return None if storage is None else str(storage)
    return str(Path(storage) / f"{quote(strategy, safe='')}-{repeat}.journal")


def _require_same(
    study: Study, objective: Objective, settings: ComparisonSettings, tree: ConditionalSpace | None, repeat: int
) -> None:
    """Runs with other settings do not compare: a strategy may plan with its budget from the first trial on."""
    now = {
        "objective": title_of(objective),
        "direction": settings.direction,
        "budget": settings.budget,
        "units": settings.units,
        "seed": settings.seed + repeat,
        "space": None if tree is None else repr(tree.nested),
    }
    before = json.loads(study.user_attrs.get(_SETTINGS_ATTRIBUTE, "null"))
    if before is None:
        study.set_user_attr(_SETTINGS_ATTRIBUTE, json.dumps(now))
        return
    for key, value in now.items():
        if before.get(key) != value:
            raise ConfigurationError(
                f"the comparison {settings.name!r} is there with {key} {before.get(key)}, and you ask for {value}: "
                "give another name, or the same settings"
            )


def _read(study: Study, tree: ConditionalSpace | None, settings: ComparisonSettings) -> tuple[ComparedTrial, ...]:
    """What a study's trials cost and brought."""
    trials = [each for each in study.get_trials(deepcopy=False) if each.state in _STATES and not is_cut_off(each)]
    values = [_value(trial) for trial in trials]
    distances = _distances(trials, values, tree, -1.0 if settings.direction == "maximize" else 1.0)
    times = study.user_attrs.get(_TIMES_ATTRIBUTE, {})
    found, spent = [], 0
    for trial, value in zip(trials, values, strict=True):
        spent += cost_of(trial, settings.units)
        assert trial.duration is not None
        # Of what was killed nobody knows.
        training_s = float(times.get(str(trial.number), trial.duration.total_seconds()))
        found.append(
            ComparedTrial(
                spent / (settings.units or 1),
                _STATES[trial.state],
                value,
                training_s,
                max(trial.duration.total_seconds() - training_s, 0.0),
                *distances.get(trial.number, (None, None)),
                message=str(trial.user_attrs.get(MESSAGE_ATTRIBUTE, "")),
            )
        )
    return tuple(found)


def _value(trial: FrozenTrial) -> float | None:
    """What a trial brought, if it counts: an infinite value says that something overflowed, whatever its sign."""
    valued = trial.state is OptunaState.COMPLETE and is_allowed(trial) and math.isfinite(trial.values[0])
    return float(trial.values[0]) if valued else None


def _distances(
    trials: Sequence[FrozenTrial], values: Sequence[float | None], tree: ConditionalSpace | None, sign: float
) -> Mapping[int, tuple[float | None, float | None]]:
    """How far each proposal was from the ones before it, by the trial's number."""
    if tree is not None:
        space: Mapping[str, BaseDistribution] = tree.common
    else:
        space = intersection_search_space(list(trials))
    proposed = [
        (trial, value) for trial, value in zip(trials, values, strict=True) if space.keys() <= trial.params.keys()
    ]
    losses = [math.inf if value is None else sign * value for _, value in proposed]
    try:
        both = proposal_distances(space, [trial.params for trial, _ in proposed], losses)
    except SearchSpaceError:  # hyperparameters that are always there have a single value
        return {}
    pairs = zip(*([_known(each) for each in distances.tolist()] for distances in both), strict=True)
    return {
        trial.number: pair
        for (trial, _), pair in zip(proposed, pairs, strict=True)
        # Going on with a paused training is no proposal, but what it brought may be the best from then on.
        if CONTINUES_ATTRIBUTE not in trial.user_attrs
    }


def _known(value: Any) -> float | None:
    return None if math.isnan(value) else float(value)
