"""A result of `tune` as a notebook shows it: the best value, its configuration, and the best trials. Plain HTML."""

from __future__ import annotations

import html
import math
from collections import Counter
from collections.abc import Sequence

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..envs.constraints import is_allowed
from .cut_off_trials import is_cut_off

_BEST_SHOWN, _LONGEST = 5, 40
_STATES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def result_html(trials: Sequence[FrozenTrial], direction: StudyDirection, best: FrozenTrial | None) -> str:
    """The result.

    Args:
        trials: All trials.
        direction: Which values are better.
        best: The best trial; None where none has finished.
    """
    counts = Counter("interrupted" if is_cut_off(trial) else _STATES[trial.state] for trial in trials)
    told = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none"
    if best is None:
        return f"<p>No trial has finished with a number. Trials: {told}.</p>"
    ranked = _ranked(trials, direction)[:_BEST_SHOWN]
    names = list(dict.fromkeys(name for trial in ranked for name in trial.params))
    goal = "largest" if direction is StudyDirection.MAXIMIZE else "smallest"
    head = f"<p><strong>{_text(best.value)}</strong> is the {goal} value, of trial {best.number}. Trials: {told}.</p>"
    heads = "".join(f"<th>{_text(name)}</th>" for name in ["trial", "value", *names])
    rows = [
        "".join(f"<td>{_text(cell)}</td>" for cell in [trial.number, trial.value, *map(trial.params.get, names)])
        for trial in ranked
    ]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f"{head}\n<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _ranked(trials: Sequence[FrozenTrial], direction: StudyDirection) -> list[FrozenTrial]:
    """The trials that finished with a number and break no constraint, the best one first."""
    sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
    valued = [
        (sign * trial.value, trial.number, trial)
        for trial in trials
        if trial.state is TrialState.COMPLETE and trial.value is not None and math.isfinite(trial.value)
        if is_allowed(trial)
    ]
    return [trial for _, _, trial in sorted(valued, key=lambda each: each[:2])]


def _text(value: object) -> str:
    """Escaped, short, and with six digits where it is a float; nothing where there is nothing."""
    plain = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return html.escape(plain if len(plain) <= _LONGEST else f"{plain[: _LONGEST - 1]}…")
