"""Figures of trainings: losses and hyperparameters over steps. Plain data in, a matplotlib figure out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .drawing import BLUE, COLOURS, GREEN, GREY, LINES, ORANGE, RED, axis_name, new_figure, plain_text, scale
from .traces import Training
from .wording import in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NAMED = 10
_MOST_MARKED = 150
_MOST_PANELS = 6
_STEPS = "optimiser steps"

Curve = tuple[Sequence[int], Sequence[float]]


def schedule_figure(training: Training) -> Figure:
    """One trial: its losses above, its hyperparameters below, every decision a dot, all over the same steps."""
    hyperparameters = [name for name, (steps, _) in training.curves.items() if name.startswith("hp/") and steps]
    hyperparameters = hyperparameters[:_MOST_PANELS]
    losses = [name for name in (_loss(training, "train"), _loss(training, "val")) if name is not None]
    figure = new_figure(8.5, max(2.9 * bool(losses) + 1.75 * len(hyperparameters), 1.75) + 0.7)
    rows = max(1, bool(losses) + len(hyperparameters))
    ratios = [2.9] * bool(losses) + [1.75] * len(hyperparameters)
    axes = figure.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=ratios or None)[:, 0]
    if losses:
        _draw_losses(axes[0], training, losses)
    for panel, name in zip(axes[bool(losses) :], hyperparameters, strict=False):  # an empty trial has one empty panel
        _draw_hyperparameter(panel, training, name)
    for panel in axes:
        _mark_notes(panel, training)
    if losses and axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(loc="upper right", fontsize=9, framealpha=0.85, edgecolor="none")
    axes[-1].set_xlabel(_STEPS)
    figure.align_ylabels(list(axes))
    figure.suptitle(plain_text(training.name), fontsize=11)
    return figure


def can_compare(trainings: Iterable[Training]) -> bool:
    """Whether there is anything that `comparison_figure` would show."""
    return any(
        len(set(training.curves[name][0])) > 1
        for training in trainings
        for name in (_loss(training, "val"), _rate(training))
        if name is not None
    )


def comparison_figure(trainings: Sequence[Training], title: str = "") -> Figure:
    """All trials of a study: validation losses above, learning rates below. Beyond ten, the best are named."""
    figure = new_figure(8.5, 6.2)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[1.25, 1])
    named = _best(trainings, _MOST_NAMED)
    for training in trainings:
        if training not in named:
            _draw_pair(losses, rates, training, color=GREY, linewidth=0.7, alpha=0.45, zorder=1)
    for index, training in enumerate(named):
        style = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINES[index // len(COLOURS) % len(LINES)]}
        _draw_pair(losses, rates, training, label=_label(training), linewidth=1.6, zorder=2, **style)
    if len(named) < len(trainings):
        losses.plot([], [], color=GREY, linewidth=0.7, label=f"{len(trainings) - len(named)} other trials")
    scale(losses, _values(training.curves[name] for training in trainings if (name := _loss(training, "val"))))
    scale(rates, _values(training.curves[name] for training in trainings if (name := _rate(training))), log=True)
    losses.set_ylabel(axis_name(losses, "validation loss"))
    rates.set_ylabel(axis_name(rates, "learning rate"))
    rates.set_xlabel(_STEPS)
    figure.align_ylabels([losses, rates])
    if any(panel.get_legend_handles_labels()[0] for panel in (losses, rates)):
        # Under the axes, where no curve can be hidden; best first.
        figure.legend(loc="outside lower center", ncols=min(3, len(named)), fontsize=8.5, frameon=False)
    figure.suptitle(plain_text(title), fontsize=11)
    return figure


def _draw_losses(panel: Any, training: Training, names: Sequence[str]) -> None:
    for name in names:
        validation = name.startswith("val/")
        steps, values = training.curves[name]
        panel.plot(
            steps,
            values,
            color=BLUE if validation else ORANGE,
            linewidth=1.8 if validation else 0.9,
            alpha=1.0 if validation else 0.75,
            marker="o" if validation and len(steps) <= _MOST_MARKED else None,
            markersize=3,
            zorder=3 if validation else 2,
            label=plain_text({"val/loss": "validation loss", "train/loss": "training loss"}.get(name, name)),
        )
    scale(panel, _values(training.curves[name] for name in names))
    panel.set_ylabel(axis_name(panel, "loss"))


def _draw_hyperparameter(panel: Any, training: Training, name: str) -> None:
    steps, values = training.curves[name]
    panel.plot(*_held(training, name), drawstyle="steps-post", color=GREEN, linewidth=1.5, zorder=2)
    decided = set(training.decisions)
    dots = [(step, value) for step, value in zip(steps, values, strict=True) if step in decided]
    if dots and len(dots) <= _MOST_MARKED:
        panel.plot(*zip(*dots, strict=True), "o", color=GREEN, markersize=3.5, zorder=3)
    short = name.removeprefix("hp/")
    scale(panel, training.curves[name][1], log=short == "lr")
    panel.set_ylabel(axis_name(panel, plain_text(in_words(short))))


def _held(training: Training, name: str) -> Curve:
    """A hyperparameter's curve to the end of its training: a value holds until another one is set."""
    steps, values = training.curves[name]
    end = max(step for measured, _ in training.curves.values() for step in measured)
    return [*steps, end], [*values, values[-1]]


def _mark_notes(panel: Any, training: Training) -> None:
    for index, (step, note) in enumerate(training.notes):
        panel.axvline(
            step, color=RED, linewidth=1, linestyle="--", zorder=1, label=plain_text(note) if index == 0 else None
        )


def _draw_pair(losses: Any, rates: Any, training: Training, *, label: str | None = None, **style: Any) -> None:
    for panel, name in ((losses, _loss(training, "val")), (rates, _rate(training))):
        if name is not None:
            steps, values = _held(training, name) if panel is rates else training.curves[name]
            shape = {"drawstyle": "steps-post"} if panel is rates else {}
            panel.plot(steps, values, label=label, **style, **shape)
            label = None  # one entry a trial, whichever panel shows it


def _values(curves: Iterable[Curve]) -> Iterable[float]:
    return [value for _, values in curves for value in values]


def _loss(training: Training, part: str) -> str | None:
    """The curve `part/loss`; else the first of that part."""
    names = [name for name, (steps, _) in training.curves.items() if name.startswith(f"{part}/") and steps]
    return f"{part}/loss" if f"{part}/loss" in names else next(iter(names), None)


def _rate(training: Training) -> str | None:
    return "hp/lr" if training.curves.get("hp/lr", ((), ()))[0] else None


def _final(training: Training) -> float:
    """The last validation value; infinite where there is none."""
    name = _loss(training, "val")
    last = training.curves[name][1][-1] if name is not None else math.nan
    return last if math.isfinite(last) else math.inf


def _best(trainings: Sequence[Training], count: int) -> list[Training]:
    return sorted(trainings, key=_final)[:count]


def _label(training: Training) -> str:
    final = _final(training)
    return f"{plain_text(training.name)} ({final:.4g})" if math.isfinite(final) else plain_text(training.name)
