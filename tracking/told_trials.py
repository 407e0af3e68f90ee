"""Past trials as any source tells them: a task, hyperparameters as texts, and values."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ..envs.records import TrialState
from .curves import Curve
from .history import PastTrial, read_history
from .operations import CONSTRAINT, VALUE_METRIC

LARGEST = 1e300
"""What lies beyond is no number: MLflow's databases keep an infinite value as the largest one there is."""


@dataclass(frozen=True, slots=True)
class ToldTrial:
    """One past trial.

    Attributes:
        task: The name of its task.
        params: Its hyperparameters, as texts.
        value: What it was judged by; None where nothing was told.
        curve: Its values at each step.
        state: How it ended.
        allowed: Whether its constraints hold.
        direction: Which values were good, "minimize" or "maximize"; None where nobody says.
        own: Whether it is of the very study that asks.
    """

    task: str
    params: Mapping[str, str]
    value: float | None
    curve: Curve = field(default_factory=dict)
    state: TrialState = TrialState.FINISHED
    allowed: bool = True
    direction: str | None = None
    own: bool = False

    @property
    def failed(self) -> bool:
        """Whether it is known to be bad: it failed, is not allowed, or ended with a value that is no finite number."""
        if self.state is TrialState.FAILED or (self.state is TrialState.FINISHED and not self.allowed):
            return True
        return self.state is TrialState.FINISHED and self.value is not None and not is_number(self.value)

    @property
    def says_something(self) -> bool:
        """Whether it has failed, or tells a value."""
        if self.state is TrialState.KILLED:
            return False
        return self.failed or (bool(self.curve) if self.state is TrialState.PRUNED else self.value is not None)


def is_number(value: float) -> bool:
    """Whether a value is a finite number."""
    return math.isfinite(value) and abs(value) < LARGEST


def told_runs(
    experiments: str | Sequence[str],
    *,
    metric: str,
    tracking_uri: str | None = None,
    own: tuple[str, str] | None = None,
) -> Iterator[ToldTrial]:
    """Runs of MLflow, newest first. Those that are running are left out.

    Every study that metatuner recorded is a task; so are, together, the other runs of an experiment.

    Args:
        experiments: An experiment's name, or a regular expression for whole names, or several.
        metric: What runs were judged by that are of no study; studies say so themselves. Its curve is read too.
        tracking_uri: The store, as for `MLflowRecorder`.
        own: Names of the study that asks, and of its experiment: those trials are marked.

    Raises:
        UnknownExperimentError: No experiment has such a name.
        StoreError: The store cannot be used.
    """
    for past in read_history(experiments, with_curves=[metric], with_judged=True, tracking_uri=tracking_uri):
        if past.state is not None:
            yield _told(past, metric, past.state, own=(past.study, past.experiment) == own)


def _told(past: PastTrial, metric: str, state: TrialState, *, own: bool) -> ToldTrial:
    # What others call a constraint may be anything.
    excess = [value for name, value in past.metrics.items() if past.study and name.startswith(CONSTRAINT)]
    return ToldTrial(
        task=past.task,
        params=past.params,
        value=past.metrics.get(VALUE_METRIC if past.study else metric),
        curve={step: value for step, value in past.curves.get(past.metric or metric, {}).items() if is_number(value)},
        state=state,
        allowed=all(value <= 0 for value in excess),
        direction=past.direction,
        own=own,
    )
