"""Does operations to an MLflow store, through its client only.

MLflow's fluent interface holds global state (the active run, the active experiment), which belongs to the user.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..envs.errors import StoreError
from .operations import KEY_TAG, Draw, EndRun, Log, Operation, StartRun, Write
from .redaction import one_line
from .run_log import FULL
from .store import Kind, Store, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")
_MOST_PARAMS = _MOST_TAGS = 100
_DPI = 110
# What may succeed when it is tried again. A server that cannot be reached arrives as INTERNAL_ERROR; a token may be
# renewed and a limit may lift.
_RETRYABLE = frozenset(
    {
        "INTERNAL_ERROR",
        "TEMPORARILY_UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "REQUEST_LIMIT_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "RESOURCE_LIMIT_EXCEEDED",
        "PERMISSION_DENIED",
        "UNAUTHENTICATED",
        "CUSTOMER_UNAUTHORIZED",
        "ABORTED",
    }
)


class UnsentError(Exception):
    """An operation was not done.

    Attributes:
        retryable: Whether it may succeed later.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class Transport:
    """An open store and one experiment in it.

    Args:
        store: Where to send.
        experiment: The experiment's name. It is made unless it exists.

    Attributes:
        experiment_id: The experiment's id.
        run_ids: MLflow's run id of each key sent so far.

    Raises:
        StoreError: If the store or the experiment cannot be used.
    """

    def __init__(self, store: Store, experiment: str) -> None:
        self._store = store
        self._client: MlflowClient = connect(store)
        self.experiment_id = _experiment_id(self._client, store, experiment)
        self.run_ids: dict[str, str] = {}

    def send(self, operation: Operation, *, again: bool = False) -> None:
        """Do an operation.

        Args:
            operation: What to do.
            again: Whether it was tried before, so that the store may have done it without our knowing.

        Raises:
            UnsentError: If it was not done.
        """
        try:
            self._do(operation, again)
        except KeyError:
            raise UnsentError(f"run {operation.run} is not in the store", retryable=False) from None
        except Exception as error:
            retryable = isinstance(error, OSError) or getattr(error, "error_code", None) in _RETRYABLE
            raise UnsentError(one_line(error, hide=self._store.uri), retryable=retryable) from error

    def is_alive(self) -> bool:
        """Whether the store answers at all: then an operation that keeps failing is itself at fault."""
        try:
            self._client.get_experiment(self.experiment_id)
        except Exception:
            return False
        return True

    def _do(self, operation: Operation, again: bool) -> None:
        match operation:
            case StartRun():
                self._start(operation, again)
            case Log():
                self._log(self.run_ids[operation.run], operation)
            case Write():
                self._client.log_text(self.run_ids[operation.run], operation.text, operation.path)
            case Draw():
                self._draw(self.run_ids[operation.run], operation)
            case EndRun():
                self._client.set_terminated(self.run_ids[operation.run], operation.status, operation.time_ms)
            case _:
                raise TypeError(f"unknown operation {type(operation).__name__}")

    def _start(self, start: StartRun, again: bool) -> None:
        tags = dict(start.tags)
        if start.parent is not None:
            tags["mlflow.parentRunId"] = self.run_ids[start.parent]
        known = self._find(start.run) if again else None
        self.run_ids[start.run] = (
            known
            or self._client.create_run(
                self.experiment_id, start_time=start.time_ms, tags=tags, run_name=start.name
            ).info.run_id
        )

    def _find(self, key: str) -> str | None:
        runs = self._client.search_runs([self.experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _log(self, run_id: str, log: Log) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in log.metrics]
        params = [Param(key, value) for key, value in log.params.items()]
        tags = [RunTag(key, value) for key, value in log.tags.items()]
        batches = zip_longest(_chunks(metrics, FULL), _chunks(params, _MOST_PARAMS), _chunks(tags, _MOST_TAGS))
        for some_metrics, some_params, some_tags in batches:
            self._client.log_batch(run_id, some_metrics or (), some_params or (), some_tags or (), synchronous=True)

    def _draw(self, run_id: str, draw: Draw) -> None:
        folder, name = posixpath.split(draw.path)
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
            file = Path(temporary) / name
            draw.figure().savefig(file, dpi=_DPI)
            self._client.log_artifact(run_id, str(file), folder or None)


def _chunks(items: Sequence[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _experiment_id(client: MlflowClient, store: Store, name: str) -> str:
    try:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return _create_experiment(client, store, name)
    except Exception as error:
        raise _unusable(store, error) from error
    if experiment.lifecycle_stage != "active":
        raise StoreError(
            f"the experiment {name!r} in {store.shown} is deleted: take another name, or bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return str(experiment.experiment_id)


def _create_experiment(client: MlflowClient, store: Store, name: str) -> str:
    folder = store.artifacts and store.artifacts / (re.sub(r"[^\w.-]+", "_", name).strip("._") or "experiment")
    try:
        return str(client.create_experiment(name, artifact_location=folder.as_uri() if folder else None))
    except Exception:
        # Another process may have been quicker.
        if (experiment := client.get_experiment_by_name(name)) is None:
            raise
        return str(experiment.experiment_id)


def _unusable(store: Store, error: Exception) -> StoreError:
    reason = one_line(error, hide=store.uri)
    if store.kind is Kind.SERVER:
        return StoreError(f"no MLflow server answers at {store.shown} ({reason}): start it, or name another store")
    if "out-of-date database schema" in str(error):
        return StoreError(
            f"{store.shown} was made by another version of MLflow: make a copy of it, then run `mlflow db upgrade URI`"
        )
    return StoreError(
        f"{store.shown} is no usable MLflow store ({reason}): bring it back from a copy, or name another store"
    )
