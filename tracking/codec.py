"""Records as JSON objects and back. Plain data only: reading one never runs code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ..envs import records
from ..envs.records import Record, TrialState

_KINDS: dict[str, type[Record]] = {
    kind.__name__: kind
    for kind in (
        records.StudyStarted,
        records.StudyLed,
        records.TrialSeen,
        records.Description,
        records.TrialStarted,
        records.ParamsChosen,
        records.Proposal,
        records.DataSetUsed,
        records.Metrics,
        records.Decision,
        records.Artifact,
        records.FileArtifact,
        records.TrialFinished,
        records.StudyFinished,
    )
}
_NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in _KINDS.values()}


def is_known(record: object) -> bool:
    """Whether it is one of `envs.records`."""
    return type(record) in _NAMES


def encode(record: Record) -> str:
    """A record as one line of JSON: params as their texts, metrics as floats; NaN and infinities stay what they are.

    Raises:
        TypeError, ValueError: A metric is no number.
    """
    kind = type(record)
    values = {name: getattr(record, name) for name in _NAMES[kind]}
    match record:
        case records.Metrics():
            values["values"] = {name: float(value) for name, value in record.values.items()}
        case records.StudyStarted() | records.TrialStarted() | records.TrialSeen() | records.ParamsChosen():
            values["params"] = {name: str(value) for name, value in record.params.items()}
    if isinstance(record, records.Proposal):
        values["foretold"] = {name: float(value) for name, value in record.foretold.items()}
    return json.dumps({"kind": kind.__name__, **values}, default=_plain, separators=(",", ":"))


def decode(line: str) -> Record:
    """The record of a line.

    Raises:
        ValueError: It is no record, or of a kind that this version does not know.
    """
    values = json.loads(line)
    if not isinstance(values, dict) or (kind := _KINDS.get(values.pop("kind", ""))) is None:
        raise ValueError(f"expected a record of a known kind, got {line[:80]!r}")
    if "state" in values:
        values["state"] = TrialState(values["state"])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"a {kind.__name__} does not fit this version: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON does not know by itself: read-only mappings, numbers of NumPy, paths."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if hasattr(value, "item") else str(value)
