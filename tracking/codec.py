"""Records as JSON objects and back. Plain data only: reading one never runs code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ..envs import records
from ..envs.errors import ConfigurationError
from ..envs.plain_files import json_of
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
        records.TrialConstraints,
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
_LARGEST = 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < _LARGEST)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and abs(value) < _LARGEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_state(value: Any) -> bool:
    return isinstance(value, TrialState)


# By what records are annotated with. What recorders may be given is taken as well: steps with a fraction, tags that are
# numbers.
_FITS: dict[object, Callable[[Any], bool]] = {
    "int": _is_finite,
    "int | None": lambda value: value is None or _is_finite(value),
    "float": _is_number,
    "float | None": lambda value: value is None or _is_number(value),
    "bool": lambda value: isinstance(value, bool),
    "str": _is_text,
    "TrialState": _is_state,
    "Mapping[str, float]": _are_numbers,
    "Mapping[str, str]": _is_dict,
    "Mapping[str, object]": _is_dict,
}
_CHECKS = {
    kind: {
        field.name: _are_texts if field.name in ("space", "conditions") else _FITS[field.type] for field in fields(kind)
    }
    for kind in _KINDS.values()
}


def is_known(record: object) -> bool:
    """Whether it is one of `envs.records`."""
    return type(record) in _NAMES


def require_recordable(record: object) -> None:
    """Checks that a record can be read again.

    Raises:
        ConfigurationError: It cannot, or is none.
    """
    if not is_known(record):
        raise ConfigurationError(f"expected a record, such as Metrics or TrialFinished, got {record!r}")
    try:
        decode(encode(record))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{record!r} cannot be recorded: {error}") from error


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
    if isinstance(record, records.TrialConstraints | records.TrialSeen):
        values["excess"] = {name: float(value) for name, value in record.excess.items()}
    return json.dumps({"kind": kind.__name__, **values}, default=_plain, separators=(",", ":"))


def decode(line: str) -> Record:
    """The record of a line.

    Raises:
        ValueError: It is no record, or of a kind that this version does not know.
    """
    values = json_of(line)
    name = values.pop("kind", "") if isinstance(values, dict) else None
    if not isinstance(name, str) or (kind := _KINDS.get(name)) is None:
        raise ValueError(f"expected a record of a known kind, got {line[:80]!r}")
    if "state" in values:
        values["state"] = TrialState(values["state"])
    checks = _CHECKS[kind]
    odd = [name for name, value in values.items() if name in checks and not checks[name](value)]
    if odd:
        raise ValueError(f"a {name} has no valid {', '.join(odd)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"a {name} does not fit this version: {error}") from error


def _plain(value: Any) -> Any:
    """What JSON does not know by itself: read-only mappings, numbers of NumPy, paths."""
    if isinstance(value, Mapping):
        return dict(value)
    return value.item() if hasattr(value, "item") else str(value)
