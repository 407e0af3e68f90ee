"""How figures of studies are put into words, wherever a person reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from .names import shorten
from .study_summary import TrialSummary

_NAMES = {"lr": "learning rate", "weight_decay": "weight decay", "batch_size": "batch size"}
_LONGEST_VALUE, _LONGEST_CHOICES = 24, 80


def in_words(name: str) -> str:
    """A hyperparameter that is adjusted, for people."""
    return _NAMES.get(name, name)


def number(value: float | None) -> str:
    """Four digits; nothing where there is no value."""
    return "" if value is None else f"{value:.4g}"


def rounded(text: str) -> str:
    """A number with a fraction in four digits; other texts as they are."""
    try:
        return text if text.lstrip("+-").isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def short(text: str) -> str:
    """Text that fits into a cell."""
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def duration(seconds: float) -> str:
    """Seconds in the units that a person would use."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = math.floor(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds % 60:02.0f} s"


def range_in_words(distribution: str) -> str:
    """A distribution of Optuna's, given as JSON."""
    fields = json.loads(distribution)["attributes"]
    if "choices" in fields:
        return shorten(", ".join(str(choice) for choice in fields["choices"]), _LONGEST_CHOICES)
    step = f", in steps of {fields['step']:g}" if fields.get("step") not in (None, 1) else ""
    return f"{fields['low']:g} to {fields['high']:g}{' (log)' if fields['log'] else ''}{step}"


def telling(trials: Sequence[TrialSummary]) -> list[str]:
    """Params in which these trials differ."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]
