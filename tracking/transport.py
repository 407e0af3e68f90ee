"""Does operations to an MLflow store, through its client only.

MLflow's fluent interface holds global state (the active run, the active experiment), which belongs to the user.
"""

from __future__ import annotations

import posixpath
import re
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ..envs.errors import StoreError, StoreUnreachableError
from ..envs.records import Record, TrialFinished, TrialState
from . import links
from .names import LONGEST_TAG, shorten
from .operations import (
    KEY_TAG,
    STATE_TAG,
    WRITTEN_TAG,
    DeleteRun,
    Describe,
    Draw,
    EndRun,
    IfRunning,
    Log,
    Operation,
    ReopenRun,
    Settle,
    StartRun,
    Upload,
    UseData,
    Write,
)
from .redaction import one_line
from .run_log import FULL
from .store import Kind, Store, connect
from .trial_run import trial_records

if TYPE_CHECKING:
    from mlflow import MlflowClient

_T = TypeVar("_T")
_MOST_PARAMS = _MOST_TAGS = 100
_DPI = 110
NOTE_TAG = "mlflow.note.content"
# What may succeed when it is tried again. A server that cannot be reached arrives as INTERNAL_ERROR; a token may be
# renewed and a limit may lift.
_SHUT_OUT = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"})
_NO_ROOM = ("disk I/O error", "database or disk is full")  # SQLite's, where the disk is full for now
_RETRYABLE = _SHUT_OUT | {
    "INTERNAL_ERROR",
    "TEMPORARILY_UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "RESOURCE_LIMIT_EXCEEDED",
    "ABORTED",
}


class UnsentError(Exception):
    """An operation was not done.

    Attributes:
        retryable: Whether it may succeed later.
    """

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class Transport:
    """A store and one experiment in it. Nothing is opened before `connect`.

    Args:
        store: Where to send.
        experiment: The experiment's name. It is made unless it exists.

    Attributes:
        run_ids: MLflow's run id of each key that is known so far.
    """

    def __init__(self, store: Store, experiment: str) -> None:
        self.store = store
        self._name = experiment
        self._client: MlflowClient | None = None
        self._experiment_id: str | None = None
        self.run_ids: dict[str, str] = {}
        self._new: set[str] = set()
        self._begun_ms: dict[str, int] = {}  # of runs that others have made, by clocks of their own

    @property
    def experiment_id(self) -> str | None:
        """The experiment's id; None before the store has answered."""
        return self._experiment_id

    def connect(self) -> None:
        """Opens the store and the experiment, unless that is done.

        Raises:
            StoreUnreachableError: The store does not answer now.
            StoreError: The store or the experiment cannot be used.
        """
        if self._experiment_id is None:
            self._client = connect(self.store)
            self._experiment_id = _experiment_id(self._client, self.store, self._name)

    def send(self, operation: Operation) -> None:
        """Does an operation. Doing one that was done before changes nothing.

        Raises:
            UnsentError: If it was not done.
        """
        try:
            self.connect()
        except StoreError as error:
            raise UnsentError(str(error), retryable=True) from error
        try:
            self._do(operation)
        except KeyError:
            raise UnsentError(f"run {operation.run} is not in the store", retryable=False) from None
        except Exception as error:
            raise UnsentError(one_line(error, hide=self.store.uri), retryable=_is_retryable(error)) from error

    def trials_of(self, study: str) -> Iterator[Record]:
        """What the store knows of a study's trials: see `trial_records`.

        A trial that runs, as the store has it, counts as killed: whoever asks is about to go on with the study.

        Raises:
            StoreError: The store does not answer, or refuses.
        """
        self.connect()
        token = None
        while True:
            try:
                page = self._open.search_runs(
                    [self._experiment],
                    f"tags.`{KEY_TAG}` LIKE '{study}/%'",
                    max_results=1000,
                    order_by=["attributes.start_time ASC"],
                    page_token=token,
                )
            except Exception as error:
                raise unusable(self.store, error) from error
            for run in page:
                yield from trial_records(run)
            if not (token := page.token):
                return

    def has(self, key: str) -> bool:
        """Whether there is a run with this key.

        Raises:
            UnsentError: The store does not answer.
        """
        try:
            self.connect()
            return self._known_run_id(key) is not None
        except Exception as error:
            raise UnsentError(one_line(error, hide=self.store.uri), retryable=True) from error

    def takes_writes(self) -> bool:
        """Whether the store takes anything: then an operation that fails is itself at fault.

        One that answers may be full, locked, out of its rate or behind a proxy that has lost it: so this writes.
        """
        try:
            self._open.set_experiment_tag(self._experiment, WRITTEN_TAG, str(int(time.time())))
        except Exception:
            return False
        return True

    @property
    def _open(self) -> MlflowClient:
        assert self._client is not None, "connect first"
        return self._client

    @property
    def _experiment(self) -> str:
        assert self._experiment_id is not None, "connect first"
        return self._experiment_id

    def _do(self, operation: Operation) -> None:
        if isinstance(operation, StartRun):
            self._start(operation)
            return
        if isinstance(operation, DeleteRun):
            self._open.delete_run(operation.run_id)
            return
        run_id = self._run_id(operation.run)
        match operation:
            case Log():
                self._log(run_id, operation)
            case UseData():
                self._use(run_id, operation)
            case Describe():
                self._describe(run_id, operation)
            case Write():
                self._open.log_text(run_id, operation.text, operation.path)
            case Upload():
                self._upload(run_id, operation)
            case Draw():
                self._draw(run_id, operation)
            case EndRun():
                ended_ms = max(operation.time_ms, self._begun_ms.get(operation.run, 0))
                self._open.set_terminated(run_id, operation.status, ended_ms)
            case Settle():
                self._settle(operation)
            case IfRunning():
                if self._open.get_run(run_id).info.status == "RUNNING":
                    for each in operation.operations:
                        self._do(each)
            case ReopenRun():
                self._open.update_run(run_id, status="RUNNING")
            case _:
                raise TypeError(f"unknown operation {type(operation).__name__}")

    def _start(self, start: StartRun) -> None:
        # A run that this process has made a moment ago under a new parent cannot have been made by another one before.
        # Any other may have been, by a process that died before it could say so.
        if start.parent not in self._new and (known := self._find(start.run)):
            self.run_ids[start.run] = known
            self._open.update_run(known, status="RUNNING", name=start.name)
            return
        self._new.add(start.run)
        tags = dict(start.tags)
        if start.parent is not None:
            tags["mlflow.parentRunId"] = self._run_id(start.parent)
        try:
            run = self._open.create_run(self._experiment, start_time=start.time_ms, tags=tags, run_name=start.name)
        except Exception:
            self._new.discard(start.parent or start.run)  # its answer may have got lost: look for it next time
            raise
        self.run_ids[start.run] = run.info.run_id

    def _settle(self, settle: Settle) -> None:
        self._new.discard(settle.run)  # others have made runs under it too
        found = {
            record.trial: (record.state, record.value)
            for record in self.trials_of(settle.run)
            if isinstance(record, TrialFinished)
        }
        for trial, operations in settle.trials.items():
            wanted = next(
                each.tags[STATE_TAG] for each in operations if isinstance(each, Log) and STATE_TAG in each.tags
            )
            if trial not in found or str(found[trial][0]) != wanted or found[trial][0] is TrialState.KILLED:
                for operation in operations:
                    self._do(operation)

    def _run_id(self, key: str) -> str:
        if key not in self.run_ids:
            found = self._find(key)
            if found is None:
                raise KeyError(key)
            self.run_ids[key] = found
        return self.run_ids[key]

    def _find(self, key: str) -> str | None:
        runs = self._open.search_runs([self._experiment], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
        if not runs:
            return None
        self._begun_ms[key] = int(runs[0].info.start_time or 0)
        return str(runs[0].info.run_id)

    def _log(self, run_id: str, log: Log) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(point.key, point.value, point.time_ms, point.step) for point in log.metrics]
        params = [Param(key, value) for key, value in log.params.items()]
        tags = [RunTag(key, value) for key, value in log.tags.items()]
        batches = zip_longest(_chunks(metrics, FULL), _chunks(params, _MOST_PARAMS), _chunks(tags, _MOST_TAGS))
        for some_metrics, some_params, some_tags in batches:
            self._open.log_batch(run_id, some_metrics or (), some_params or (), some_tags or (), synchronous=True)

    def _use(self, run_id: str, use: UseData) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        data_set = Dataset(
            name=use.name, digest=use.digest, source_type="local", source=use.source, profile=use.profile
        )
        tags = [InputTag(key=MLFLOW_DATASET_CONTEXT, value=use.context)]
        self._open.log_inputs(run_id, [DatasetInput(dataset=data_set, tags=tags)])

    def _describe(self, run_id: str, describe: Describe) -> None:
        text = links.resolved(describe.markdown, self._experiment, self._known_run_id)
        self._open.set_tag(run_id, NOTE_TAG, shorten(text, LONGEST_TAG))

    def _known_run_id(self, key: str) -> str | None:
        try:
            return self._run_id(key)
        except KeyError:
            return None

    def _upload(self, run_id: str, upload: Upload) -> None:
        if not upload.source.exists() or upload.source.is_symlink():
            return  # it was sent before, and the copy went with it; a link is no copy
        folder, name = posixpath.split(upload.path)
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
            link = Path(temporary) / name  # MLflow takes the artifact's name from the file's
            link.symlink_to(upload.source)
            self._open.log_artifact(run_id, str(link), folder or None)
        upload.source.unlink()

    def _draw(self, run_id: str, draw: Draw) -> None:
        folder, name = posixpath.split(draw.path)
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
            file = Path(temporary) / name
            # Names may be in a script that no font of this machine has. Not for the moment: other threads warn too.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            draw.figure().savefig(file, dpi=_DPI)
            self._open.log_artifact(run_id, str(file), folder or None)


def _is_retryable(error: Exception) -> bool:
    if any(sign in str(error) for sign in _NO_ROOM):
        return True
    return isinstance(error, OSError) or getattr(error, "error_code", None) in _RETRYABLE


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
        raise unusable(store, error) from error
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


def unusable(store: Store, error: Exception) -> StoreError:
    """What an error of MLflow's says about the store, and what to do."""
    reason = one_line(error, hide=store.uri)
    if getattr(error, "error_code", None) in _SHUT_OUT:
        return StoreUnreachableError(
            f"{store.shown} does not let you in ({reason}): expected MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to name somebody who may write there"
        )
    if store.kind is Kind.SERVER and _is_retryable(error):
        return StoreUnreachableError(
            f"no MLflow server answers at {store.shown} ({reason}): start it, or name another store"
        )
    if "out-of-date database schema" in str(error):
        return StoreError(
            f"{store.shown} was made by another version of MLflow: make a copy of it, then run `mlflow db upgrade URI`"
        )
    return StoreError(
        f"{store.shown} is no usable MLflow store ({reason}): bring it back from a copy, or name another store"
    )
