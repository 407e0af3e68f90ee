"""How every figure of ours looks: colours, axes, labels. Nothing global is touched, nothing is shown.

Colours are those of Okabe and Ito, which people with any colour vision can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, SKY, PINK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY)
LINES = ("-", "--", ":")
GREY = "#999999"
# A decade or more is read on a log axis; less than that is not.
_LOG_SPAN = 10.0
_SMALLEST, _LARGEST = 1e-100, 1e100  # matplotlib overflows beyond
_SHORTEST_SPAN, _FEW_DECADES = 4.0, 150.0


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def scale(panel: Any, values: Iterable[float], *, log: bool = False) -> None:
    """Chooses a log axis where all values allow it and it is asked for or they span enough; draws a light grid."""
    finite = [value for value in values if math.isfinite(value)]
    drawable = bool(finite) and min(finite) > _SMALLEST and max(finite) < _LARGEST
    if drawable and (log or max(finite) / min(finite) >= _LOG_SPAN):
        panel.set_yscale("log")
        _widen(panel, min(finite), max(finite))
    else:
        panel.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)
    lighten(panel)
    panel.margins(x=0.01)
    panel.yaxis.get_offset_text().set_fontsize(8.5)


def lighten(panel: Any) -> None:
    """A light grid behind the data, no box around it."""
    panel.grid(True, which="major", color="#DDDDDD", linewidth=0.7)
    panel.grid(True, which="minor", axis="y", color="#EEEEEE", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(which="both", labelsize=8.5)


def axis_name(panel: Any, name: str) -> str:
    """The name of the vertical axis, with its scale where that is not the plain one."""
    return f"{name} (log)" if panel.get_yscale() == "log" else name


def plain_text(text: str, longest: int = 60) -> str:
    """Text as it is: a dollar sign starts no formula, a leading underscore hides nothing, and no line is too long."""
    line = " ".join(text.split())
    line = line if len(line) <= longest else f"{line[: longest - 1]}…"
    return line.replace("$", r"\$").replace("_", "\u200b_", 1) if line.startswith("_") else line.replace("$", r"\$")


def _widen(panel: Any, low: float, high: float) -> None:
    """Limits and ticks of a log axis: at least half a decade, always with labels, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = low / 1.25, high * 1.25
    if high / low < _SHORTEST_SPAN:
        middle = math.sqrt(low * high)
        low, high = middle / math.sqrt(_SHORTEST_SPAN), middle * math.sqrt(_SHORTEST_SPAN)
    panel.set_ylim(low, high)
    few_decades = high / low < _FEW_DECADES
    panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few_decades else (1.0,), numticks=9))
    panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
