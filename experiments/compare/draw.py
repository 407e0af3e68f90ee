"""Draws `results.png` from what the two comparisons printed, `boosting.json` and `perceptron.json`.

python draw.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent


def main() -> None:
    """Draws a row for each comparison: medians by trainings spent, and mean ranks."""
    figure, panels = plt.subplots(2, 2, figsize=(11, 8), constrained_layout=True)
    for (curves, ranks), name in zip(panels, ("boosting", "perceptron"), strict=True):
        found = json.loads((HERE / f"{name}.json").read_text())
        colours = {each["strategy"]: f"C{place}" for place, each in enumerate(found["strategies"])}
        _draw_curves(curves, found, colours)
        _draw_ranks(ranks, found, colours)
        curves.set_title(name)
    figure.savefig(HERE / "results.png", dpi=110)


def _draw_curves(panel: Axes, found: dict[str, Any], colours: dict[str, str]) -> None:
    for strategy, best in found["median_by_spent"].items():
        width = 2.5 if strategy == "policy" else 1.2
        panel.step(
            range(1, len(best) + 1), best, where="post", label=strategy, color=colours[strategy], linewidth=width
        )
    panel.set_xlabel("full trainings")
    panel.set_ylabel("best loss, median of the runs")
    panel.set_yscale("log")
    panel.legend(ncols=2, fontsize="small")


def _draw_ranks(panel: Axes, found: dict[str, Any], colours: dict[str, str]) -> None:
    for place, each in enumerate(found["strategies"]):
        panel.plot(each["mean_rank"], place, "o", color=colours[each["strategy"]])
    panel.set_yticks(range(len(found["strategies"])), [each["strategy"] for each in found["strategies"]])
    panel.invert_yaxis()
    apart = found["nemenyi_critical_difference"]
    first = found["strategies"][0]["mean_rank"]
    panel.axvspan(first, first + apart, alpha=0.12, color="grey")
    panel.set_xlabel("mean rank; grey: not told apart from the first one")


if __name__ == "__main__":
    main()
