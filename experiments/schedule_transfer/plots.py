"""The two plots: final loss against the starting rate, and interquartile means with their intervals."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scoring import TaskResult
from tasks import STARTS

COLOURS = {
    "policy": "#0072B2",
    "constant": "#999999",
    "cosine": "#D55E00",
    "plateau": "#009E73",
    "schedule_free": "#CC79A7",
    "hypergradient": "#E69F00",
}
_LINES = {"best_of_24": ":", "pbt": "-.", "prodigy": "--"}


def losses(results: Mapping[str, TaskResult], path: Path) -> None:
    """Final validation loss against the starting rate, a panel a task; medians over seeds."""
    columns = min(len(results), 5)
    rows = -(-len(results) // columns)
    figure = Figure(figsize=(4 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for unused in axes[len(results) :]:
        unused.set_axis_off()
    for axis, (task, result) in zip(axes, results.items(), strict=False):
        by_strategy = result.with_searches().val
        for name, colour in COLOURS.items():
            if name in by_strategy:
                width = 2.5 if name == "policy" else 1.2
                axis.plot(STARTS, np.median(by_strategy[name], axis=0), color=colour, label=name, lw=width)
        for name, style in _LINES.items():
            if name in by_strategy:
                axis.axhline(float(np.median(by_strategy[name])), color="black", ls=style, lw=1, label=name)
        near = STARTS[result.sensible]
        axis.axvspan(near[0], near[-1], color="#000000", alpha=0.05, lw=0)
        axis.set(xscale="log", yscale="log", title=task, xlabel="starting learning rate")
        axis.set_ylabel("final validation loss")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=70)


def forest(summary: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Interquartile mean ratios to the best of 24 cosines, from all starts and from the sensible two decades."""
    names = list(summary)[::-1]
    figure = Figure(figsize=(10, 0.4 * len(names) + 1.2), layout="constrained")
    panels = zip(figure.subplots(1, 2, sharey=True), ("iqm", "iqm_sensible"), strict=True)
    for axis, key in panels:
        for place, name in enumerate(names):
            figures, colour = summary[name], COLOURS.get(name, "black")
            axis.plot(figures[f"{key}_95"], [place, place], color=colour, lw=2)
            axis.plot([figures[key]], [place], "o", color=colour)
        axis.axvline(1.0, color="black", ls=":", lw=1)
        axis.set(xscale="log", xlabel="loss over that of the best of 24 cosines")
        axis.set_title("all starts" if key == "iqm" else "starts in the sensible two decades", fontsize=10)
        axis.set_yticks(range(len(names)), names)
    figure.savefig(path, dpi=90)
