"""Figures over all trials of a study: their learning curves, and what each of them took."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ..envs.records import TrialState
from .drawing import BLUE, GREY, ORANGE, RED, axis_name, lighten, new_figure, plain_text, scale
from .study_summary import TrialSummary
from .traces import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {
    TrialState.FINISHED: BLUE,
    TrialState.PRUNED: ORANGE,
    TrialState.FAILED: RED,
    TrialState.KILLED: GREY,
    None: GREY,
}


def learning_curves_figure(
    trials: Sequence[TrialSummary], trainings: Mapping[int, Training], metric: str, unit: str, best: int | None
) -> Figure:
    """A line for each trial, coloured by how it ended; the best one is thick. One that was stopped ends in a mark.

    Args:
        trials: The trials.
        trainings: What is drawn of them, by number.
        metric: The curve that is drawn.
        unit: What steps are, for the axis.
        best: The number of the best trial; None where there is none.
    """
    figure = new_figure(8.5, 4.4)
    panel = figure.subplots()
    drawn: list[float] = []
    named: set[TrialState | None] = set()
    for trial in trials:
        training = trainings.get(trial.trial)
        if training is None or not has_curve(training, metric):
            continue
        steps, values = training.curves[metric]
        drawn += values
        is_best = trial.trial == best
        panel.plot(
            steps,
            values,
            color=_COLOURS[trial.state],
            linewidth=2.4 if is_best else 0.9,
            alpha=1.0 if is_best else 0.55,
            zorder=3 if is_best else 2,
            label=None if trial.state in named else str(trial.state or "running"),
        )
        if trial.state is not TrialState.FINISHED:
            panel.plot(steps[-1:], values[-1:], "v", color=_COLOURS[trial.state], markersize=4, alpha=0.8)
        named.add(trial.state)
    scale(panel, drawn)
    panel.set_xlabel(unit)
    panel.set_ylabel(axis_name(panel, plain_text(metric)))
    if len(named) > 1:
        panel.legend(loc="best", fontsize=9, framealpha=0.85, edgecolor="none")
    return figure


def has_curve(training: Training, metric: str) -> bool:
    """Whether the metric was measured at two steps or more, with a number at one of them."""
    steps, values = training.curves.get(metric, ((), ()))
    return len(set(steps)) > 1 and any(map(math.isfinite, values))


def costs_figure(trials: Sequence[TrialSummary], costs: Mapping[str, Mapping[int, float]]) -> Figure:
    """A panel for each kind of cost: what each trial took, by its number.

    Args:
        trials: The trials.
        costs: By the name of the cost, then by the number of the trial.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8.5, 1.9 * max(len(costs), 1) + 0.4)
    panels = figure.subplots(max(len(costs), 1), 1, sharex=True, squeeze=False)[:, 0]
    for panel, (name, by_trial) in zip(panels, costs.items(), strict=False):
        for state, colour in _COLOURS.items():
            having = [trial.trial for trial in trials if trial.state is state and trial.trial in by_trial]
            panel.plot(having, [by_trial[number] for number in having], "o", color=colour, markersize=4, alpha=0.8)
        scale(panel, by_trial.values())
        lighten(panel)
        panel.set_ylabel(axis_name(panel, plain_text(name, 30)), fontsize=9)
    panels[-1].set_xlabel("trial")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels(list(panels))
    return figure
