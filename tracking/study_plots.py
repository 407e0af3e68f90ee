"""Figures of studies: what was found when, which hyperparameters matter, and where the good values lie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..envs.records import TrialState
from .drawing import BLUE, GREY, ORANGE, RED, axis_name, lighten, new_figure, plain_text, scale
from .importance import distribution, importances
from .study_summary import NOT_ALLOWED, TrialSummary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_BARS, _MOST_AXES, _MOST_TICKS = 20, 8, 12
_PALE, _STRONG = 0.25, 0.9
_LABEL_BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}
_MARKS = {
    TrialState.PRUNED: (ORANGE, "v"),
    TrialState.FAILED: (RED, "x"),
    TrialState.KILLED: (GREY, "x"),
    NOT_ALLOWED: (RED, "s"),
}


def history_figure(trials: Sequence[TrialSummary], metric: str, title: str = "", *, maximize: bool = False) -> Figure:
    """Values by trial number, the best so far, and where trials ended otherwise."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(8.5, 4.2)
    panel = figure.subplots()
    valued = sorted((trial for trial in trials if trial.counts), key=lambda trial: trial.trial)
    numbers, values = [trial.trial for trial in valued], [_value(trial) for trial in valued]
    panel.plot(numbers, values, "o", color=BLUE, markersize=4, alpha=0.6, label="trial")
    best, so_far = [], None
    for value in values:
        so_far = value if so_far is None else max(so_far, value) if maximize else min(so_far, value)
        best.append(so_far)
    panel.plot(numbers, best, color=BLUE, linewidth=1.8, drawstyle="steps-post", label="best so far")
    scale(panel, values)
    for outcome, (colour, mark) in _MARKS.items():
        # They have no value that compares: they stand on the axis.
        ended = [trial.trial for trial in trials if trial.outcome == outcome]
        if ended:
            panel.plot(
                ended,
                [0.02] * len(ended),
                mark,
                color=colour,
                markersize=5,
                transform=panel.get_xaxis_transform(),
                label=str(outcome),
            )
    panel.set_xlabel("trial")
    panel.set_ylabel(axis_name(panel, plain_text(metric)))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.margins(x=0.03)
    panel.legend(loc="best", fontsize=9, framealpha=0.85, edgecolor="none")
    figure.suptitle(plain_text(title), fontsize=11)
    return figure


def importance_figure(
    trials: Sequence[TrialSummary], space: Mapping[str, str], title: str = "", *, maximize: bool = False
) -> Figure:
    """A bar for each hyperparameter, the most important one on top. Arguments as for `importances`."""
    shown = list(importances(trials, space, maximize=maximize).items())[:_MOST_BARS]
    figure = new_figure(8.5, 1.4 + 0.34 * len(shown))
    panel = figure.subplots()
    places = range(len(shown))
    panel.barh(places, [share for _, share in shown], color=BLUE, height=0.65)
    for place, (_, share) in zip(places, shown, strict=True):
        panel.annotate(f" {share:.2f}", (share, place), va="center", fontsize=8.5)
    panel.set_yticks(list(places), [plain_text(name, 40) for name, _ in shown])
    panel.invert_yaxis()
    lighten(panel)
    panel.grid(False, axis="y")
    panel.margins(x=0.12)
    panel.set_xlabel("importance for being among the best tenth (PED-ANOVA)")
    figure.suptitle(plain_text(title), fontsize=11)
    return figure


def can_draw_parallel(trials: Sequence[TrialSummary]) -> bool:
    """Whether `parallel_figure` has anything to show."""
    return bool(_axes(trials, {}))


def parallel_figure(
    trials: Sequence[TrialSummary],
    metric: str,
    space: Mapping[str, str],
    title: str = "",
    *,
    maximize: bool = False,
) -> Figure:
    """Parallel coordinates: a line for each trial, dark and thick where its value is good.

    Where there are more hyperparameters than fit, the most important ones are shown.

    Args:
        trials: Trials with a finite value, the best one first.
        metric: What they are judged by.
        space: Optuna's distributions as JSON by name, where they are known.
        title: The title.
        maximize: Whether a larger value is better.
    """
    from matplotlib import colormaps

    axes = _axes(trials, space)
    names = list(axes)
    if len(names) > _MOST_AXES:
        names = list(dict.fromkeys([*importances(trials, space, maximize=maximize), *names]))[:_MOST_AXES]
    columns = [axes[name] for name in names]
    values = [repr(_value(trial)) for trial in trials]
    columns += [axis] if (axis := _Axis.of(values, None)) else []
    figure = new_figure(max(8.5, 1.5 * len(columns)), 4.6)
    panel = figure.subplots()
    for place in reversed(range(len(trials))):  # the best one on top
        goodness = 1 - place / max(len(trials) - 1, 1)
        texts = [*(trials[place].params.get(name) for name in names), values[place]]
        panel.plot(
            range(len(columns)),
            [column.height(text) for column, text in zip(columns, texts, strict=False)],
            color=colormaps["viridis_r"](0.1 + 0.9 * goodness),
            alpha=_PALE + (_STRONG - _PALE) * goodness,
            linewidth=0.8 + 1.2 * goodness,
        )
    for place, column in enumerate(columns):
        _draw_axis(panel, place, column)
    labels = [*(plain_text(name, 24) for name in names), plain_text(metric, 24)][: len(columns)]
    panel.set_xticks(range(len(labels)), labels, fontsize=9)
    panel.set_yticks([])
    panel.spines[["top", "right", "left", "bottom"]].set_visible(False)
    panel.tick_params(axis="x", length=0)
    panel.set_xlim(-0.3, len(columns) - 0.4)
    figure.suptitle(plain_text(title), fontsize=11)
    return figure


@dataclass(frozen=True)
class _Axis:
    """Where the values of a hyperparameter stand between 0 and 1."""

    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[str, ...] = ()

    @classmethod
    def of(cls, texts: Sequence[str], given: str | None) -> _Axis | None:
        """The axis of these values; None where they do not vary."""
        found = distribution(texts, given)
        if found is None:
            return None
        if choices := getattr(found, "choices", ()):
            return cls(choices=tuple(choices))
        return cls(found.low, found.high, found.log)  # type: ignore[attr-defined]

    def height(self, text: str | None) -> float:
        """Where a value stands; NaN, which leaves a gap, where there is none."""
        if text is None:
            return math.nan
        if self.choices:
            return self.choices.index(text) / (len(self.choices) - 1)
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, float(text)))
        return (value - low) / (high - low)

    def ticks(self) -> list[tuple[float, str]]:
        """Heights and labels."""
        if self.choices:
            some = self.choices[:: -(-len(self.choices) // _MOST_TICKS)]
            return [(self.height(choice), plain_text(choice, 18)) for choice in some]
        if self.log:
            decades = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
            values = [10.0**decade for decade in decades] if len(decades) > 2 else [self.low, self.high]
        else:
            values = [self.low + step / 4 * (self.high - self.low) for step in range(5)]
        return [(self.height(repr(value)), f"{value:.3g}") for value in values]


def _axes(trials: Sequence[TrialSummary], space: Mapping[str, str]) -> dict[str, _Axis]:
    """The axis of each hyperparameter that varies."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    found = {
        name: _Axis.of([trial.params[name] for trial in trials if name in trial.params], space.get(name))
        for name in names
    }
    return {name: axis for name, axis in found.items() if axis is not None}


def _draw_axis(panel: Any, place: int, axis: _Axis) -> None:
    panel.plot([place, place], [0, 1], color="black", linewidth=0.9, zorder=0)
    for height, label in axis.ticks():
        panel.plot([place, place + 0.03], [height, height], color="black", linewidth=0.9)
        panel.annotate(label, (place + 0.05, height), va="center", fontsize=7.5, zorder=10, bbox=_LABEL_BOX)


def _value(trial: TrialSummary) -> float:
    assert trial.value is not None
    return trial.value
