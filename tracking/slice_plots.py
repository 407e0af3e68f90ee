"""A figure of slices: for each hyperparameter, the values of trials against it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .drawing import RED, axis_name, new_figure, plain_text, scale
from .importance import distribution
from .study_summary import TrialSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS, _A_ROW, _MOST_CHOICES = 12, 3, 8
_LONG_SPAN = 100.0


def sliceable(trials: Sequence[TrialSummary], space: Mapping[str, str]) -> list[str]:
    """The hyperparameters that vary among trials. Arguments as for `slices_figure`."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if distribution(_texts(trials, name), space.get(name)) is not None]


def slices_figure(
    trials: Sequence[TrialSummary], metric: str, space: Mapping[str, str], first: Sequence[str] = ()
) -> Figure:
    """A panel for each hyperparameter that varies; later trials are darker, the best one is ringed.

    Args:
        trials: Trials with a finite value, the best one first.
        metric: What they are judged by.
        space: Optuna's distributions as JSON by name, where they are known.
        first: Hyperparameters to show first, such as the most important ones; twelve are shown at most.
    """
    from matplotlib.ticker import MaxNLocator

    varied = sliceable(trials, space)
    names = [*(name for name in first if name in varied), *(name for name in varied if name not in first)]
    names = names[:_MOST_PANELS]
    columns = min(_A_ROW, max(len(names), 1))
    rows = -(-len(names) // columns) or 1
    figure = new_figure(9.2, (2.6 if columns == _A_ROW else 3.2) * rows + 0.3)
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    values = [trial.value for trial in trials if trial.value is not None]
    shown = None
    for place, panel in enumerate(panels.flat):
        if place >= len(names):
            panel.set_visible(False)
            continue
        shown = _draw(panel, trials, names[place], space.get(names[place]))
        scale(panel, values)
        panel.margins(x=0.05)
        if place % columns == 0:
            panel.set_ylabel(axis_name(panel, plain_text(metric, 30)))
    if shown is not None:
        bar = figure.colorbar(shown, ax=panels, label="trial", shrink=0.7, aspect=30, pad=0.01)
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
    return figure


def _draw(panel: Any, trials: Sequence[TrialSummary], name: str, given: str | None) -> Any:
    having = [trial for trial in reversed(trials) if name in trial.params]  # the best one on top
    found = distribution(_texts(trials, name), given)
    choices = getattr(found, "choices", None)
    if choices is None:
        places = [float(trial.params[name]) for trial in having]
        if getattr(found, "log", False):
            _log_axis(panel, max(places) / min(places))
    else:
        # Beside each other rather than on top: every trial of a choice is to be seen.
        places = [choices.index(trial.params[name]) + 0.12 * math.sin(2.4 * trial.trial) for trial in having]
        every = -(-len(choices) // _MOST_CHOICES)
        ticks = list(range(0, len(choices), every))
        panel.set_xticks(ticks, [plain_text(choices[tick], 12) for tick in ticks])
        panel.set_xlim(-0.5, len(choices) - 0.5)
    numbers = [trial.trial for trial in having]
    values = [trial.value for trial in having]
    everyone = [trial.trial for trial in trials]
    dots = panel.scatter(
        places, values, c=numbers, cmap="viridis_r", vmin=min(everyone), vmax=max(everyone), s=18, linewidths=0
    )
    if having and having[-1].trial == trials[0].trial:
        panel.scatter(places[-1:], values[-1:], s=70, facecolors="none", edgecolors=RED, linewidths=1.4)
    panel.set_xlabel(plain_text(name, 30), fontsize=9)
    return dots


def _log_axis(panel: Any, span: float) -> None:
    """A log axis with a few ticks, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    panel.set_xscale("log")
    subs = (1.0,) if span >= _LONG_SPAN else (1.0, 2.0, 5.0)
    panel.xaxis.set_major_locator(LogLocator(subs=subs, numticks=6))
    panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.xaxis.set_minor_locator(NullLocator())


def _texts(trials: Sequence[TrialSummary], name: str) -> list[str]:
    return [trial.params[name] for trial in trials if name in trial.params]
