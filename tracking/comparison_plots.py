"""Figures of strategies side by side: how fast they are, how they rank, and where they look."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..envs.comparison_summary import ComparisonSummary
from ..envs.paired_tests import median, ranks
from ..envs.strategy_comparison import StrategyComparison
from .drawing import COLOURS, GREY, LINES, axis_name, lighten, new_figure, plain_text, scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_POINTS, _WALL_POINTS = 100, 60  # of a curve: no more than can be seen, for a file that can be mailed
_PARTS = 10  # of the budget, in each of which distances are summed up
_SETTLED = 0.2  # a share of the budget: what happened before does not stretch the axis


def by_spent_figure(comparison: StrategyComparison) -> Figure:
    """The best value so far by full trainings spent: medians and quartiles."""
    figure = new_figure(8.5, 4.8)
    panel = figure.subplots()
    at = np.linspace(0, comparison.budget, min(comparison.budget * (comparison.units or 1), _POINTS) + 1)
    shown, settled = [], []
    for place, strategy in enumerate(comparison.strategies):
        curves = comparison.by_spent(strategy, at)
        shown.append(_draw(panel, at, curves, comparison.sign, place, strategy))
        settled.append(shown[-1][:, at >= _SETTLED * comparison.budget])
    _scale(panel, shown, settled, comparison)
    panel.set_xlabel("full trainings spent")
    panel.set_xlim(0, comparison.budget)
    return figure


def by_wall_figure(comparison: StrategyComparison) -> Figure:
    """The best value so far by seconds, of trainings and proposals together: medians and quartiles.

    A strategy's line ends where its slowest run ended.
    """
    figure = new_figure(8.5, 4.8)
    panel = figure.subplots()
    ends = {name: max(_end(run.wall_s) for run in comparison.of(name)) for name in comparison.strategies}
    starts = [float(run.wall_s[0]) for run in comparison.runs if len(run.wall_s)]
    first, last = max(min(starts, default=1e-3), 1e-4), max(*ends.values(), 2e-4)
    shown, settled = [], []
    for place, strategy in enumerate(comparison.strategies):
        at = np.geomspace(first, max(ends[strategy], first), _WALL_POINTS)
        curves = comparison.by_wall(strategy, at)
        shown.append(_draw(panel, at, curves, comparison.sign, place, strategy))
        settled.append(shown[-1][:, at >= _SETTLED * ends[strategy]])
        panel.plot(at[-1:], shown[-1][1, -1:], "o", color=_colour(place), markersize=4)
    panel.set_xscale("log")
    _scale(panel, shown, settled, comparison)
    panel.set_xlabel("seconds (log)")
    panel.set_xlim(first, last * 1.1)
    return figure


def finals_figure(comparison: StrategyComparison, summary: ComparisonSummary) -> Figure:
    """The best value of each run as a point, and each strategy's median as a line; the best mean rank on top."""
    figure = new_figure(8.5, 1.3 + 0.36 * len(summary.lines))
    panel = figure.subplots()
    values: list[float] = []
    for row, line in enumerate(summary.lines):
        place = comparison.strategies.index(line.strategy)
        finals = comparison.sign * comparison.finals[:, place]
        finals = finals[np.isfinite(finals)]
        values += finals.tolist()
        panel.plot(finals, np.full(len(finals), row), "o", color=_colour(place), alpha=0.6, markersize=6)
        if math.isfinite(line.median):
            panel.plot([line.median] * 2, [row - 0.32, row + 0.32], color=_colour(place), linewidth=2.2)
    _name_rows(panel, summary)
    lighten(panel)
    if values and min(values) > 0 and max(values) / min(values) >= 10:
        panel.set_xscale("log")
    panel.set_xlabel(f"{_metric(comparison)}, best of a run" + (" (log)" if panel.get_xscale() == "log" else ""))
    return figure


def rank_figure(comparison: StrategyComparison, summary: ComparisonSummary) -> Figure:
    """Mean ranks with Nemenyi's critical difference: strategies whose bars overlap are not told apart."""
    figure = new_figure(8.5, 1.3 + 0.36 * len(summary.lines))
    panel = figure.subplots()
    placed, half = ranks(comparison.finals), summary.critical_difference / 2
    most = len(comparison.strategies)
    for row, line in enumerate(summary.lines):
        place = comparison.strategies.index(line.strategy)
        panel.plot([line.mean_rank - half, line.mean_rank + half], [row, row], color=_colour(place), linewidth=2.2)
        panel.plot(placed[:, place], np.full(len(placed), row), "o", color=GREY, markersize=4, alpha=0.5)
        panel.plot([line.mean_rank], [row], "D", color=_colour(place), markersize=7)
    best = summary.lines[0].mean_rank + half
    panel.axvline(best, color=GREY, linewidth=1, linestyle=":")
    _name_rows(panel, summary)
    lighten(panel)
    panel.grid(False, axis="y")
    panel.set_xlim(
        min(0.6, summary.lines[0].mean_rank - half - 0.1), max(most, summary.lines[-1].mean_rank + half) + 0.2
    )
    panel.set_xticks(range(1, most + 1))
    panel.set_xlabel("rank among all strategies (1 is the best)")
    return figure


def exploration_figure(comparison: StrategyComparison) -> Figure | None:
    """How far proposals go, by full trainings spent: medians over tenths of the budget. None where nobody knows."""
    figure = new_figure(8.5, 4.2)
    panels = figure.subplots(1, 2, sharey=True)
    known = False
    for panel, of, title in zip(
        panels, ("to_best", "to_nearest"), ("to the best before it", "to the nearest before it"), strict=True
    ):
        for place, strategy in enumerate(comparison.strategies):
            at, distances = _distances(comparison, strategy, of)
            known = known or bool(len(at))
            panel.plot(at, distances, _line(place), color=_colour(place), label=plain_text(strategy, 24), marker=".")
        lighten(panel)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("full trainings spent")
        panel.set_xlim(0, comparison.budget)
    panels[0].set_ylabel("distance of a proposal")
    panels[0].set_ylim(bottom=0)
    _legend(figure, panels[0])
    return figure if known else None


def _distances(comparison: StrategyComparison, strategy: str, of: str) -> tuple[list[float], list[float]]:
    """Middles of the budget's parts, and medians of the distances in them."""
    found: dict[int, list[float]] = {}
    for run in comparison.of(strategy):
        for trial in run.trials:
            distance = getattr(trial, of)
            if distance is not None:
                part = math.ceil(trial.spent / comparison.budget * _PARTS - 1e-9)
                found.setdefault(min(part, _PARTS), []).append(distance)
    parts = sorted(found)
    return (
        [(part - 0.5) * comparison.budget / _PARTS for part in parts],
        [float(np.median(found[part])) for part in parts],
    )


def _draw(
    panel: Any, at: NDArray[np.float64], curves: NDArray[np.float64], sign: float, place: int, strategy: str
) -> NDArray[np.float64]:
    """Draws a strategy's curves; returns its quartiles and median, shape (3, points): NaN where a run has no value."""
    # Quartiles are those of some run: where one has no value yet, there is no mean with infinity.
    low, high = np.quantile(curves, [0.25, 0.75], axis=0, method="inverted_cdf")
    quartiles = np.stack([low, median(curves.T), high])
    quartiles = np.where(np.isfinite(quartiles), sign * quartiles, np.nan)
    colour = _colour(place)
    both = np.isfinite(quartiles[[0, 2]]).all(axis=0)
    panel.fill_between(at, quartiles[0], quartiles[2], where=both, step="post", color=colour, alpha=0.10, linewidth=0)
    panel.plot(
        at,
        quartiles[1],
        _line(place),
        color=colour,
        drawstyle="steps-post",
        label=plain_text(strategy, 24),
        linewidth=1.7,
    )
    return np.asarray(quartiles)


def _scale(panel: Any, shown: list[Any], settled: list[Any], comparison: StrategyComparison) -> None:
    """Axes that show where strategies differ: what the first trials brought may lie outside."""
    values = np.concatenate([each.ravel() for each in settled])
    values = values[np.isfinite(values)]
    if not len(values):
        values = np.concatenate([each.ravel() for each in shown])
        values = values[np.isfinite(values)]
    scale(panel, values.tolist())
    if len(values) and panel.get_yscale() != "log":
        room = 0.06 * (values.max() - values.min()) or abs(values.max()) * 0.1 or 1.0
        panel.set_ylim(values.min() - room, values.max() + room)
    panel.set_ylabel(axis_name(panel, f"{_metric(comparison)}, best so far"))
    _legend(panel.figure, panel)


def _legend(figure: Any, panel: Any) -> None:
    """Below, in rows, so that it hides nothing."""
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), fontsize=9, frameon=False)


def _name_rows(panel: Any, summary: ComparisonSummary) -> None:
    panel.set_yticks(range(len(summary.lines)), [plain_text(line.strategy, 24) for line in summary.lines])
    panel.invert_yaxis()


def _metric(comparison: StrategyComparison) -> str:
    return plain_text(comparison.metric, 30)


def _end(wall_s: NDArray[np.float64]) -> float:
    return float(wall_s[-1]) if len(wall_s) else 0.0


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _line(place: int) -> str:
    return LINES[place // len(COLOURS) % len(LINES)]
