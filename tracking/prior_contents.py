"""What an address of past trials holds: its tasks, their hyperparameters, their best values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ..envs.errors import ConfigurationError
from .told_trials import ToldTrial, is_number, told_runs
from .trial_table import read_table

_MOST_CHOICES = 8


def told_trials(address: str, *, metric: str, tracking_uri: str | None = None) -> Iterator[ToldTrial]:
    """The past trials that an address names: `mlflow:EXPERIMENT` or `table:FILE.csv`.

    Raises:
        ConfigurationError: It is no such address.
        UnknownExperimentError: No experiment has such a name.
        StoreError: The store or the table cannot be read.
    """
    kind, _, what = address.partition(":")
    if kind == "mlflow" and what:
        return told_runs(what, metric=metric, tracking_uri=tracking_uri)
    if kind == "table" and what:
        return read_table(what, metric)
    raise ConfigurationError(f"expected mlflow:EXPERIMENT or table:FILE.csv, got {address!r}")


@dataclass(slots=True)
class TaskContents:
    """A task.

    Attributes:
        trials: Trials that tell something.
        failed: Those of them that failed.
        low: The least final value; None where none came to its end.
        high: The greatest one.
        direction: Which values were good, "minimize" or "maximize"; None where no trial says.
    """

    trials: int = 0
    failed: int = 0
    low: float | None = None
    high: float | None = None
    direction: str | None = None

    def best(self, *, maximize: bool) -> float | None:
        """The best final value; whether that is the greatest one only counts where no trial says."""
        return self.high if (self.direction == "maximize" if self.direction else maximize) else self.low

    def add(self, trial: ToldTrial) -> None:
        """Another trial."""
        self.trials += 1
        self.direction = self.direction or trial.direction
        if trial.failed:
            self.failed += 1
        elif trial.value is not None and is_number(trial.value):
            self.low = trial.value if self.low is None else min(self.low, trial.value)
            self.high = trial.value if self.high is None else max(self.high, trial.value)


@dataclass(slots=True)
class ParamContents:
    """A hyperparameter.

    Attributes:
        tasks: Names of the tasks that have it.
        trials: Trials that have it.
    """

    tasks: set[str] = field(default_factory=set)
    trials: int = 0
    _low: float | None = None
    _high: float | None = None
    _choices: dict[str, None] = field(default_factory=dict)

    def add(self, task: str, text: str) -> None:
        """Another value."""
        self.tasks.add(task)
        self.trials += 1
        try:
            number = float(text)
        except ValueError:
            if len(self._choices) <= _MOST_CHOICES:
                self._choices[text] = None
            return
        self._low = number if self._low is None else min(self._low, number)
        self._high = number if self._high is None else max(self._high, number)

    @property
    def values(self) -> str:
        """Its values in words."""
        numbers = [] if self._low is None else [f"{self._low:.6g} to {self._high:.6g}"]
        if self._low is not None and self._low == self._high:
            numbers = [f"{self._low:.6g}"]
        more = ["..."] if len(self._choices) > _MOST_CHOICES else []
        return ", ".join([*numbers, *list(self._choices)[:_MOST_CHOICES], *more])


@dataclass(slots=True)
class PriorContents:
    """Everything.

    Attributes:
        read: Trials that were read.
        tasks: The tasks, by name.
        params: The hyperparameters, by name.
    """

    read: int = 0
    tasks: dict[str, TaskContents] = field(default_factory=dict)
    params: dict[str, ParamContents] = field(default_factory=dict)

    @classmethod
    def of(cls, trials: Iterable[ToldTrial]) -> PriorContents:
        """The contents of trials, which are read once; those that tell nothing count as read alone."""
        found = cls()
        for trial in trials:
            found.read += 1
            if trial.says_something:
                found.tasks.setdefault(trial.task, TaskContents()).add(trial)
                for name, text in trial.params.items():
                    found.params.setdefault(name, ParamContents()).add(trial.task, text)
        return found
