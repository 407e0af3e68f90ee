"""One trial from its proposal to its value, recorded all along: what `optuna.Study.optimize` calls."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from optuna import TrialPruned
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from ..envs.conditional_space import ConditionalSpace
from ..envs.errors import SearchSpaceError, StoreUnreachableError, TrainingError
from ..envs.records import (
    MESSAGE_ATTRIBUTE,
    Metrics,
    ParamsChosen,
    Proposal,
    Recorder,
    TrialConstraints,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from .answers import as_number, error_text
from .child import Child
from .interrupts import Interrupts
from .own_modes import undisturbed, with_own_modes
from .paused_trials import PausedTraining, PausedTrials
from .purse import UNITS_ATTRIBUTE
from .reasons import Reason
from .trial_folder import TrialFolders, within

Objective = Callable[[Any], Any]
"""Takes a configuration (a dict) and returns a number, or yields one for each unit of budget, the last of which counts;
or, where there is no search space, an Optuna objective: it takes a trial."""

Config = Mapping[str, Any]
Constraints = Callable[[Mapping[str, Any]], Mapping[str, float]]
"""Takes a configuration and returns numbers by name, all of them at most 0 where it is allowed."""

TRAINING_COST = "resource/training_s"
"""Seconds in the objective, not in the strategy."""

CONTINUES_ATTRIBUTE = "metatuner:continues"  # a trial's user attribute: the number of the one whose training it goes on


class GivenUp(Exception):  # noqa: N818 - nothing is wrong
    """A trial does not begin: another one has its configuration."""


@dataclass(frozen=True)
class TrialRunner:
    """Runs trials.

    Attributes:
        objective: What is tuned.
        space: The search space; None where the objective is Optuna's.
        recorder: Takes what happens.
        strategy: Who proposes, for the record.
        metric: What values are called in the record.
        constraints: What tells whether a configuration is allowed; None allows all.
        timeout_s: Seconds that a trial may take. Within this process it is looked at between two units: a function that
            yields nothing, or hangs in the middle, is not interrupted.
        isolated: Whether each trial has a process of its own.
        in_threads: Whether each trial keeps to one thread of several.
        interrupts: Lets Ctrl-C through while the objective runs.
        units: How many values a generator is asked for at most; None sets no end.
        paused: Keeps trainings that were stopped early; None ends them.
        continued: Tells which trial's training a trial goes on with; None for a new one.
        why: Tells why a trial was proposed; None where nobody knows.
        claim: Told of each trial when its configuration is known; raises `GivenUp` where it must not begin.
        folders: Where trainings keep what they must not lose; None gives them no folder.
        seconds: How long the objective has run, for each trial under way by its number. An Optuna objective asks for
            hyperparameters as it goes, and waits for the answers.
    """

    objective: Objective
    space: ConditionalSpace | None
    recorder: Recorder
    strategy: str
    metric: str
    constraints: Constraints | None = None
    timeout_s: float | None = None
    isolated: bool = False
    in_threads: bool = False
    interrupts: Interrupts = field(default_factory=Interrupts)
    units: int | None = None
    paused: PausedTrials | None = None
    continued: Callable[[int], int | None] = lambda trial: None
    why: Callable[[int], Reason | None] = lambda trial: None
    claim: Callable[[Trial], None] = lambda trial: None
    folders: TrialFolders | None = None
    seconds: dict[int, float] = field(default_factory=dict)
    _ends: dict[int, TrialFinished] = field(default_factory=dict, init=False)

    def __call__(self, trial: Trial) -> float:
        """Runs a trial.

        Returns:
            Its value.

        Raises:
            TrialPruned: It was stopped early.
            GivenUp: It did not begin.
            Exception: It failed, with what the objective raised, or because it gave no number.
        """
        costs: dict[str, float] = {}
        try:
            config = self._proposed(trial)
            self.claim(trial)
            value = self._run_in_child(trial, config, costs) if self.isolated else self._run_here(trial, config)
        except GivenUp:
            raise
        except TrialPruned as stopped:
            self._finish(trial, TrialState.PRUNED, costs, str(stopped))
            raise
        except StoreUnreachableError as error:
            # The study's: the configuration is not to blame, and is tried again.
            self._finish(trial, TrialState.KILLED, costs, str(error))
            raise
        except Exception as error:
            message = str(error) if isinstance(error, TrainingError) else error_text(error)
            trial.set_user_attr(MESSAGE_ATTRIBUTE, message)
            self._finish(trial, TrialState.FAILED, costs, message)
            raise
        except BaseException as error:
            self._finish(trial, TrialState.KILLED, costs, type(error).__name__)
            raise
        self._finish(trial, TrialState.FINISHED, costs, value=value)
        return value

    def _proposed(self, trial: Trial) -> dict[str, Any]:
        if self.space is None:
            return {}
        try:
            return self.space.configuration(lambda name, each: suggest(trial, name, each))
        except Exception:
            # A strategy may fail as an objective may. The record of a trial begins in any case.
            self.recorder.record(TrialStarted(trial=trial.number, name=self.strategy, params=trial.params))
            raise

    def _run_here(self, trial: Trial, config: Config) -> float:
        self._start(trial, config, thread=threading.get_ident() if self.in_threads else 0)
        first = self.continued(trial.number)
        if self.paused is not None and first is not None and (training := self.paused.take(first)) is not None:
            trial.set_user_attr(CONTINUES_ATTRIBUTE, first)
            self._folder(trial, first)
            return self._follow_pausable(trial, first, training)
        self._folder(trial)
        given = _Reporting(trial, self.recorder, self.metric) if self.space is None else dict(config)
        found = self._asked(trial, undisturbed(self.objective), given)
        if not isinstance(found, Generator):
            return number(found)
        found = with_own_modes(found)
        if self.paused is not None:
            return self._follow_pausable(trial, trial.number, PausedTraining(found))
        try:
            return self._follow(trial, self._in_time(found))
        finally:
            self._asked(trial, found.close)

    def _folder(self, trial: Trial, first: int | None = None) -> Path | None:
        return None if self.folders is None else self.folders.begin(trial, first)

    def _asked(self, trial: Trial, function: Callable[..., Any], *arguments: object) -> Any:
        """Calls what is the objective's own: whatever it raises, but Ctrl-C, is a failure of this trial alone."""
        try:
            folder = None if self.folders is None else self.folders.of(trial.number)
            with self._timed(trial), within(folder), self.interrupts.within():
                return function(*arguments)
        except (Exception, KeyboardInterrupt):
            raise
        except SystemExit as error:
            raise TrainingError(f"the objective called sys.exit({error.code!r}): let it raise an exception") from error
        except BaseException as error:
            raise TrainingError(f"the objective raised {error_text(error)}") from error

    def _follow_pausable(self, trial: Trial, first: int, training: PausedTraining) -> float:
        """Follows a training, which is kept if it is stopped early; `first` is the trial that it began as."""
        assert self.paused is not None
        known = len(training.curve)
        for unit, value in enumerate(training.curve, start=1):
            # The trial has the whole curve, as if it had run at once.
            trial.report(value, unit)
            self.recorder.record(Metrics(trial=trial.number, step=unit, values={self.metric: value}))
        try:
            with contextlib.ExitStack() as stack:
                stack.callback(self._asked, trial, training.generator.close)
                try:
                    return self._follow(trial, self._in_time(training.generator), curve=training.curve)
                except TrialPruned:
                    stack.pop_all()
                    self.paused.keep(first, training)
                    raise
        finally:
            trial.set_user_attr(UNITS_ATTRIBUTE, len(training.curve) - known)

    def _run_in_child(self, trial: Trial, config: Config, costs: dict[str, float]) -> float:
        try:
            with self._timed(trial):
                child = Child(self.objective, config, self.timeout_s, self._folder(trial))
        except OSError:
            self._start(trial, config)
            raise
        try:
            with child:
                self._start(trial, config, process=child.pid)
                value = self._follow(trial, child.units(), may_be_none=True)
        finally:
            costs |= child.costs
        return number(child.value) if math.isnan(value) else value

    def _start(self, trial: Trial, config: Config, *, thread: int = 0, process: int = 0) -> None:
        """Records that the trial begins; then what its constraints say, which may fail as the objective may."""
        self.recorder.record(
            TrialStarted(
                trial=trial.number,
                name=self.strategy,
                params=config,
                thread=thread,
                process=process,
            )
        )
        self._tell_why(trial)
        if self.constraints is None:
            return
        excess = excess_told(self.constraints, config)
        for constraint, by in excess.items():
            trial.set_constraint(constraint, by)
        if excess:
            self.recorder.record(TrialConstraints(trial=trial.number, excess=excess))

    def _tell_why(self, trial: Trial) -> None:
        why = self.why(trial.number)
        if why is not None:
            self.recorder.record(
                Proposal(trial=trial.number, source=why.source, words=why.words, foretold=why.foretold)
            )

    @contextlib.contextmanager
    def _timed(self, trial: Trial) -> Iterator[None]:
        """What runs in it is the objective."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[trial.number] = self.seconds.get(trial.number, 0.0) + time.perf_counter() - began

    def _in_time(self, units: Iterator[Any]) -> Iterator[Any]:
        deadline = math.inf if self.timeout_s is None else time.monotonic() + self.timeout_s
        for found in units:
            yield found
            if time.monotonic() > deadline:
                raise TrainingError(f"the trial took more than {self.timeout_s:g} s")

    def _follow(
        self, trial: Trial, units: Iterator[Any], *, may_be_none: bool = False, curve: list[float] | None = None
    ) -> float:
        """Reports unit after unit, and adds its value to the curve; returns the last value, NaN where there is none."""
        curve = [] if curve is None else curve
        left = None if self.units is None else max(self.units - len(curve), 0)
        for found in islice(self._interruptible(trial, units), left):
            value = number(found)
            curve.append(value)
            unit = len(curve)
            trial.report(value, unit)
            trial.set_user_attr(UNITS_ATTRIBUTE, unit)
            self.recorder.record(Metrics(trial=trial.number, step=unit, values={self.metric: value}))
            # What has run to its end is not stopped early.
            if unit != self.units and trial.should_prune():
                raise TrialPruned(f"stopped after {unit} units")
        if left is not None and len(curve) == self.units:
            # It may have something to do at its end, such as to save a model; what more it yields does not count.
            next(self._interruptible(trial, units), None)
        if not curve and not may_be_none:
            raise TrainingError("the objective yielded nothing: expected a number for each unit of budget")
        return curve[-1] if curve else math.nan

    def _interruptible(self, trial: Trial, units: Iterator[Any]) -> Iterator[Any]:
        end = object()
        while True:
            found = self._asked(trial, next, units, end)
            if found is end:
                return
            yield found

    def _finish(
        self,
        trial: Trial,
        state: TrialState,
        costs: Mapping[str, float],
        message: str = "",
        value: float | None = None,
    ) -> None:
        if self.space is None and trial.params:
            # An objective that asks for its hyperparameters has begun before anything is proposed.
            self.recorder.record(ParamsChosen(trial=trial.number, params=trial.params))
            self._tell_why(trial)
        self._ends[trial.number] = TrialFinished(
            trial=trial.number,
            state=state,
            message=message,
            value=value,
            costs={**costs, TRAINING_COST: round(self.seconds.pop(trial.number, 0.0), 6)},
        )

    def ended(self, trial: Trial, *, told: bool) -> None:
        """Records the end of a trial, after the study was told.

        Args:
            trial: The trial.
            told: Whether the study took it: it does not where another worker took this one for dead.
        """
        end = self._ends.pop(trial.number)
        is_paused = end.state is TrialState.PRUNED and self.paused is not None
        if self.folders is not None and told and end.state is not TrialState.KILLED and not is_paused:
            self.folders.remove(trial.number)
        message = "another worker took this one for dead, and tries the configuration again"
        self.recorder.record(end if told else replace(end, state=TrialState.KILLED, message=message, value=None))


class _Reporting(Trial):
    """An Optuna trial whose reports are recorded."""

    def __init__(self, trial: Trial, recorder: Recorder, metric: str) -> None:
        # The same trial: a new one of its number would be given other proposals.
        self.__dict__.update(trial.__dict__)
        self._recorder, self._metric = recorder, metric

    def report(self, value: float, step: int) -> None:
        """As Optuna's."""
        super().report(value, step)
        self._recorder.record(Metrics(trial=self.number, step=step, values={self._metric: float(value)}))


def excess_told(constraints: Constraints, config: Config) -> dict[str, float]:
    """By how much a configuration exceeds each constraint, by name.

    Raises:
        TrainingError: The constraints tell something else than numbers by name.
    """
    told = constraints(dict(config))
    if not isinstance(told, Mapping):
        raise TrainingError(
            f"expected constraints to tell numbers by name, such as {{'memory': -0.5}}, got {type(told).__name__}"
        )
    return {str(name): float(by) for name, by in told.items()}


def suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """The trial's value of a hyperparameter.

    Raises:
        SearchSpaceError: The distribution is none of Optuna's three.
    """
    match distribution:
        case FloatDistribution():
            return trial.suggest_float(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case IntDistribution():
            return trial.suggest_int(
                name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
            )
        case CategoricalDistribution():
            return trial.suggest_categorical(name, distribution.choices)
    raise SearchSpaceError(
        f"expected {name!r} to be an Optuna FloatDistribution, IntDistribution or CategoricalDistribution, got "
        f"{distribution!r}"
    )


def number(found: object) -> float:
    """What an objective gave, as a number.

    Raises:
        TrainingError: It is none.
    """
    value = as_number(found)
    if isinstance(value, str):
        raise TrainingError(value)
    return value
