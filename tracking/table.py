"""The decisions of a trial as a table that a spreadsheet, pandas or a person can read."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from ..envs.records import Decision


def decisions_csv(decisions: Sequence[Decision]) -> str:
    """One row a decision, values exact: `number, step, time_ms, reward, note`, then values, adjustments and signals."""
    groups = {
        "hp": [decision.values for decision in decisions],
        "adjust": [decision.adjustments for decision in decisions],
        "signal": [decision.signals for decision in decisions],
    }
    columns = {group: list(dict.fromkeys(name for row in rows for name in row)) for group, rows in groups.items()}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["number", "step", "time_ms", "reward", "note"]
        + [f"{group}/{name}" for group, names in columns.items() for name in names]
    )
    for index, decision in enumerate(decisions):
        fixed = [decision.number, decision.step, decision.time_ms, _exact(decision.reward), decision.note]
        cells = [
            _exact(groups[group][index][name]) if name in groups[group][index] else ""
            for group, names in columns.items()
            for name in names
        ]
        writer.writerow([*fixed, *cells])
    return text.getvalue()


def _exact(value: float) -> str:
    return repr(float(value))
