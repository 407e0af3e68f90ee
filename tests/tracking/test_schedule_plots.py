from __future__ import annotations

import io
import math
import sys

import pytest
from metatuner.tracking.schedule_plots import can_compare, comparison_figure, schedule_figure
from metatuner.tracking.traces import Curve, Training


def training(name: str = "t", *, scale: float = 1.0, notes: bool = False) -> Training:
    steps = range(0, 100, 10)
    return Training(
        name,
        {
            "train/loss": (range(100), [scale * 2 / (step + 1) for step in range(100)]),
            "val/loss": (steps, [scale * 3 / (step + 1) for step in steps]),
            "hp/lr": (steps, [0.1 * 0.9**step for step in steps]),
            "hp/momentum": (steps, [0.9] * 10),
        },
        tuple(steps),
        ((40, "diverged: rolled back"),) if notes else (),
    )


def png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")  # type: ignore[attr-defined]
    return buffer.getvalue()


def test_a_schedule_shows_losses_hyperparameters_and_decisions() -> None:
    figure = schedule_figure(training(notes=True))
    losses, rate, momentum = figure.axes
    assert [text.get_text() for text in losses.get_legend().get_texts()] == [
        "training loss",
        "validation loss",
        "diverged: rolled back",
    ]
    assert (rate.get_ylabel(), rate.get_yscale()) == ("learning rate (log)", "log")
    assert (momentum.get_ylabel(), momentum.get_yscale()) == ("momentum", "linear")
    assert momentum.get_xlabel() == "optimiser steps"
    dots = [line for line in rate.get_lines() if line.get_marker() == "o"]
    assert list(dots[0].get_xdata()) == list(range(0, 100, 10))
    assert png(figure).startswith(b"\x89PNG")


def test_a_value_holds_to_the_end() -> None:
    rate = schedule_figure(training()).axes[1].get_lines()[0]
    assert rate.get_xdata()[-1] == 99
    assert rate.get_drawstyle() == "steps-post"


def test_few_trials_are_all_named_best_first() -> None:
    figure = comparison_figure([training("worse", scale=2), training("better")], "study")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["better (0.03297)", "worse (0.06593)"]
    assert png(figure).startswith(b"\x89PNG")


def test_of_many_trials_the_best_are_named() -> None:
    figure = comparison_figure([training(f"trial {i}", scale=1 + i) for i in range(40)])
    names = [text.get_text().split(" (")[0] for text in figure.legends[0].get_texts()]
    assert names == [*(f"trial {i}" for i in range(10)), "30 other trials"]


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"val/loss": ((), ())},
        {"val/loss": ((1,), (0.5,))},
        {"val/loss": ((1, 2), (math.nan, math.inf))},
        {"val/loss": ((1, 2), (0.0, -1.0)), "hp/lr": ((1, 2), (0.0, 0.0))},
        {"hp/lr": ((1, 1), (0.1, 0.1))},
        {"hp/lr": ((1, 2), (1e-300, 1e300))},
        {"val/accuracy": ((1, 2), (0.5, 0.9))},
        {f"hp/{i}": ((1, 2), (0.5, 0.9)) for i in range(12)},
    ],
)
def test_odd_trials_are_drawn_without_complaint(curves: dict[str, tuple[list[int], list[float]]]) -> None:
    odd = Training("_odd $x_ name", curves, (1,), ((1, "note $"),))
    assert png(schedule_figure(odd)).startswith(b"\x89PNG")
    assert png(comparison_figure([odd, odd], "$")).startswith(b"\x89PNG")


def test_nothing_to_compare() -> None:
    assert not can_compare([])
    assert not can_compare([Training("t", {"val/loss": ((1,), (0.5,)), "train/loss": ((1, 2), (1.0, 1.0))})])
    assert can_compare([training()])


def test_drawing_leaves_pyplot_alone() -> None:
    schedule_figure(training())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_a_curve_stays_small_and_keeps_its_ends() -> None:
    curve = Curve()
    for step in range(100_001):
        curve.add(step, float(step))
    steps, values = curve.points()
    assert len(steps) <= 2_001
    assert (steps[0], steps[-1], values[-1]) == (0, 100_000, 100_000.0)
    assert list(steps) == sorted(set(steps))
