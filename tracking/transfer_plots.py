"""Figures of what carries over from past tasks: regrets by number of trials, and the matrix of gains.

Plain data in, a matplotlib figure out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..envs.transfer import POLICY, RANDOM, RULE, TPE, Transfer, TransferCurve
from .drawing import GREEN, GREY, LINES, ORANGE, RED, axis_name, new_figure, plain_text, scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {RULE: GREEN, TPE: RED, RANDOM: ORANGE}
_LEVELS = 15  # of the matrix, odd, so that what is next to nothing is white
_MOST_WITH_NUMBERS = 14
_LONGEST_NAME = 20
_DOT = 0.22  # of a cell's width: where the mark of a flagged pair stands


def transfer_figure(transfer: Transfer) -> Figure:
    """Mean regrets with their intervals: left what past tasks are worth, right the policy against others."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(10, 4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    few = [curve for curve in transfer.curves if curve.searcher == POLICY]
    colours = _shades(len(few))
    for curve, colour in zip(few, colours, strict=True):
        _draw(left, curve, color=colour)
    left.set_title("told of past tasks", fontsize=10)
    _draw(right, few[0], color=colours[0])
    _draw(right, few[-1], color=colours[-1], linestyle=LINES[1])
    for curve in transfer.curves:
        if curve.searcher != POLICY:
            _draw(right, curve, color=_COLOURS[curve.searcher], linestyle=LINES[min(curve.past, 1)])
    right.set_title("against searches that have learnt nothing", fontsize=10)
    for panel in (left, right):
        scale(panel, [each.mean for curve in transfer.curves for each in curve.regrets])
        panel.set_xlabel("trials, in full trainings")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.legend(fontsize=8, frameon=False)
    left.set_ylabel(axis_name(left, "normalised regret"))
    return figure


def matrix_figure(transfer: Transfer) -> Figure:
    """Gains on each task (columns) with another (rows) as its past: blue helps, red harms, flagged pairs have marks."""
    from matplotlib import colormaps
    from matplotlib.colors import Normalize

    names = list(transfer.sample)
    n = len(names)
    place = {name: i for i, name in enumerate(names)}
    gains: list[list[float]] = [[float("nan")] * n for _ in names]
    for pair in transfer.pairs:
        gains[place[pair.past]][place[pair.target]] = pair.gain.mean
    most = max((abs(pair.gain.mean) for pair in transfer.pairs), default=0.0) or 1.0
    figure = new_figure(3.2 + 0.52 * n, 2.4 + 0.45 * n)
    panel = figure.subplots()
    panel.set_facecolor("#CCCCCC")
    # Cells are drawn one by one, as vectors: an image would be a file of its own inside the page.
    drawn = panel.pcolormesh(
        gains, cmap=colormaps["RdBu"].resampled(_LEVELS), norm=Normalize(-most, most), edgecolor="white", linewidth=0.5
    )
    figure.colorbar(drawn, ax=panel, label="gain: fall of the mean regret", shrink=0.8)
    for pair in transfer.pairs:
        column, row = place[pair.target], place[pair.past]
        colour = "white" if abs(pair.gain.mean) > 0.6 * most else "black"
        if n <= _MOST_WITH_NUMBERS:
            panel.text(
                column + 0.5, row + 0.5, f"{pair.gain.mean:.2f}", ha="center", va="center", fontsize=7.5, color=colour
            )
        if pair.worse or pair.better:
            marker = "v" if pair.worse else "^"
            height = _DOT if n <= _MOST_WITH_NUMBERS else 0.5
            panel.plot(column + 0.5, row + height, marker, color=colour, markersize=3.5)
    _name_axes(panel, names)
    return figure


def _shades(count: int) -> list[Any]:
    """Grey without past tasks, and the more of them, the darker a blue."""
    from matplotlib import colormaps

    return [GREY, *(colormaps["Blues"](0.4 + 0.6 * i / max(count - 1, 1)) for i in range(1, count))]


def _draw(panel: Any, curve: TransferCurve, **style: Any) -> None:
    trials = range(1, len(curve.regrets) + 1)
    panel.plot(trials, [each.mean for each in curve.regrets], label=plain_text(curve.label), linewidth=1.6, **style)
    low, high = [each.low for each in curve.regrets], [each.high for each in curve.regrets]
    panel.fill_between(trials, low, high, color=style["color"], alpha=0.1, linewidth=0)


def _name_axes(panel: Any, names: Sequence[str]) -> None:
    shown = [plain_text(name, _LONGEST_NAME) for name in names]
    middles = [i + 0.5 for i in range(len(names))]
    panel.set_xticks(middles, shown, rotation=45, ha="right", rotation_mode="anchor")
    panel.set_yticks(middles, shown)
    panel.tick_params(length=0, labelsize=8.5)
    panel.invert_yaxis()
    panel.set_aspect("equal")
    panel.set_xlabel("task that was searched")
    panel.set_ylabel("task that was its past")
    panel.spines[:].set_visible(False)
