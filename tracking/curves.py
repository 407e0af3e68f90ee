"""Curves of many runs at once: one query for all where MLflow's own way is one request a run.

- An SQLite file is read directly, read-only: only the table `metrics`, which MLflow has kept as it is since version 1.
- A server has an address for it, the one that its page draws charts from.
- Any other store is asked run by run.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ..envs.errors import StoreError
from .store import Kind, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient

_RUNS_A_REQUEST = 100  # the server's limit
_POINTS_A_REQUEST = 25_000  # the same
_BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"

Curve = Mapping[int, float]
"""A metric's last value at each step, in the order of steps."""


def curves(store: Store, client: MlflowClient, run_ids: Sequence[str], name: str) -> dict[str, dict[int, float]]:
    """A metric's curve for each of the runs that have it.

    Args:
        store: The store.
        client: Its client.
        run_ids: MLflow's ids.
        name: The metric's key.

    Raises:
        StoreError: The store does not answer.
    """
    if store.database is not None:
        return _from_file(store.database, run_ids, name)
    points = _from_server(client, run_ids, name) if store.kind is Kind.SERVER else _one_by_one(client, run_ids, name)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for run_id, step, value in points:
        found[run_id][step] = value
    return {run_id: dict(sorted(curve.items())) for run_id, curve in found.items()}


Point = tuple[str, int, float]


def _from_file(database: Path, run_ids: Sequence[str], name: str) -> dict[str, dict[int, float]]:
    # Run by run: SQLite then uses the index of runs. Asked for many at once, it reads the metric of all there are.
    query = "SELECT step, value, is_nan FROM metrics WHERE run_uuid = ? AND key = ? ORDER BY step, timestamp"
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            found = {run_id: connection.execute(query, (run_id, name)).fetchall() for run_id in run_ids}
    except sqlite3.Error as error:
        raise StoreError(f"{database} cannot be read ({error}): is it an MLflow database?") from error
    return {
        run_id: {step: math.nan if is_nan else value for step, value, is_nan in rows}
        for run_id, rows in found.items()
        if rows
    }


def _from_server(client: MlflowClient, run_ids: Sequence[str], name: str) -> Iterator[Point]:
    for part in _parts(run_ids, _RUNS_A_REQUEST):
        yield from _from_request(client, part, name)


def _from_request(client: MlflowClient, run_ids: Sequence[str], name: str) -> Iterator[Point]:
    points = _request(client, run_ids, name)
    if points is None or (len(points) >= _POINTS_A_REQUEST and len(run_ids) == 1):
        yield from _one_by_one(client, run_ids, name)  # another server's page, or more than one answer holds
    elif len(points) >= _POINTS_A_REQUEST:  # the answer was cut
        for half in _parts(run_ids, (len(run_ids) + 1) // 2):
            yield from _from_request(client, half, name)
    else:
        for point in points:
            yield point["run_id"], int(point["step"]), float(point["value"])


def _request(client: MlflowClient, run_ids: Sequence[str], name: str) -> list[dict[str, Any]] | None:
    """The points of these runs as the server's page gets them; None where the server has no such address."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    query = urlencode([*(("run_id", run_id) for run_id in run_ids), ("metric_key", name)])
    try:
        credentials = get_default_host_creds(client.tracking_uri)  # type: ignore[no-untyped-call]
        answer = http_request(credentials, f"{_BULK}?{query}", "GET")  # type: ignore[no-untyped-call]
        return list(json.loads(answer.text)["metrics"])
    except (MlflowException, OSError, ValueError, KeyError):
        return None


def _one_by_one(client: MlflowClient, run_ids: Sequence[str], name: str) -> Iterator[Point]:
    for run_id in run_ids:
        for point in sorted(client.get_metric_history(run_id, name), key=lambda point: point.timestamp):
            yield run_id, int(point.step), float(point.value)


def _parts(items: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
