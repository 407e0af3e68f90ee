"""Decisions, within a trial and across trials, as tables that a spreadsheet, pandas or a person can read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from ..envs.records import Decision
from .study_summary import TrialSummary


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


def proposals_csv(trials: Sequence[TrialSummary]) -> str:
    """One row a trial that says why it was proposed: number, source, state, value, words, figures, params."""
    told = [(trial, trial.proposal) for trial in trials if trial.proposal is not None]
    figures = list(dict.fromkeys(name for _, proposal in told for name in proposal.foretold))
    params = list(dict.fromkeys(name for trial, _ in told for name in trial.params))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", "source", "state", "value", "words"]
        + [f"foretold/{name}" for name in figures]
        + [f"hp/{name}" for name in params]
    )
    for trial, proposal in told:
        value = "" if trial.value is None else _exact(trial.value)
        known = [_exact(proposal.foretold[name]) if name in proposal.foretold else "" for name in figures]
        values = [trial.params.get(name, "") for name in params]
        writer.writerow([trial.trial, proposal.source, trial.outcome, value, proposal.words, *known, *values])
    return text.getvalue()


def read_decisions(text: str, trial: int) -> list[Decision]:
    """The decisions of a trial, out of the table that `decisions_csv` wrote of them.

    Raises:
        ValueError: It is no such table.
    """
    try:
        return [_decision(row, trial) for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:  # a column or a cell is missing
        raise ValueError(f"expected a table of decisions ({error!r})") from error


def _decision(row: Mapping[str, str], trial: int) -> Decision:
    groups: dict[str, dict[str, float]] = {"hp": {}, "adjust": {}, "signal": {}}
    for column, cell in row.items():
        group, _, name = column.partition("/")
        if name and cell:
            groups[group][name] = float(cell)
    return Decision(
        trial=trial,
        number=int(row["number"]),
        step=int(row["step"]),
        signals=groups["signal"],
        adjustments=groups["adjust"],
        values=groups["hp"],
        reward=float(row["reward"]),
        note=row["note"],
        time_ms=int(row["time_ms"]),
    )


def _exact(value: float) -> str:
    return repr(float(value))
