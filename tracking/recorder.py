"""Records studies in MLflow."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import sys
import threading
import uuid
from types import TracebackType
from typing import Self

from ..envs.records import Record, TrialState
from .completion import Completion
from .outbox import Outbox
from .projection import Projection
from .redaction import has_credentials
from .store import Origin, Store, resolve
from .transport import Transport

_log = logging.getLogger(__name__)


class MLflowRecorder:
    """A recorder (`metatuner.envs.records.Recorder`) whose studies are MLflow runs and whose trials are their children.

    Usage:

        with MLflowRecorder(experiment="my-model") as recorder:
            tuner = AdaptiveSchedule(optimizer, total_steps=1000, recorder=recorder)
            ...
        print("see it with:", recorder.ui_command)

    Leaving the `with` block ends what is still open: as finished, after an exception as failed, after Ctrl-C as killed.
    A recorder that nobody closes is closed when Python ends. After that nothing is sent.

    Opening fails at once if the store cannot be used. From then on a store that does not answer never stops a
    training: what cannot be sent is kept in memory and tried again. Any thread may record.

    Args:
        tracking_uri: Where to record. None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.
        experiment: The experiment's name. It is made unless it exists.
        plots: Whether to draw the plots of trials and studies.
        flush_seconds: Metrics are visible after this time at the latest, while a training runs.

    Attributes:
        tracking_uri: Where it records, without credentials.
        experiment: The experiment's name.
        experiment_id: MLflow's id of the experiment.

    Raises:
        StoreError: If the store cannot be opened or made.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "metatuner",
        *,
        plots: bool = True,
        flush_seconds: float = 3.0,
    ) -> None:
        store = resolve(tracking_uri)
        self._transport = Transport(store, experiment)
        self._outbox = Outbox(self._transport)
        self._completion = Completion(default_study=experiment)
        self._projection = Projection(lambda: uuid.uuid4().hex, draw=plots)
        self._study: str | None = None
        self.tracking_uri = store.shown
        self.experiment = experiment
        self.experiment_id = self._transport.experiment_id
        self.ui_command = _ui_command(store)
        # Re-entrant: a signal handler that records may interrupt a record.
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._process = os.getpid()
        self._ticker = threading.Thread(
            target=self._tick, args=(flush_seconds,), name="metatuner-recorder", daemon=True
        )
        self._ticker.start()
        atexit.register(self._close_at_exit)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the latest study's run; None before there is one."""
        return self._transport.run_ids.get(self._study) if self._study is not None else None

    @property
    def unsent(self) -> int:
        """How many operations wait for a store that does not answer. After `close`: how many are lost."""
        return len(self._outbox)

    def trial_run_id(self, trial: int) -> str | None:
        """MLflow's id of a trial's run in the latest study; None if there is none."""
        return self._transport.run_ids.get(f"{self._study}/{trial}")

    def record(self, record: Record, /) -> None:
        """Take one record.

        Raises:
            ConfigurationError: If the record makes no sense here, such as a metric of a trial that was never started.
        """
        with self._lock:
            if self._closed.is_set():
                _log.warning("a %s came after the recorder was closed and was dropped", type(record).__name__)
                return
            self._take(self._completion.complete(record))
            self._outbox.send()

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            if not self._closed.is_set():
                self._outbox.add(self._projection.flush())
                self._outbox.send()

    def close(self, state: TrialState = TrialState.FINISHED, message: str = "") -> None:
        """End what is open and send everything. Closing twice is closing once.

        Args:
            state: How open trials and the study ended.
            message: Why.
        """
        with self._lock:
            if self._closed.is_set():
                return
            try:
                self._take(self._completion.finish(state, message))
                self._outbox.send(force=True)
            finally:
                self._closed.set()
                atexit.unregister(self._close_at_exit)
            if self._outbox:
                _log.warning("%d operations could not be sent to %s: they are lost", self.unsent, self.tracking_uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(_state_after(error), _message_of(error))

    def _take(self, records: list[Record]) -> None:
        for record in records:
            self._outbox.add(self._projection.take(record))
            self._study = self._projection.study or self._study

    def _tick(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                with self._lock:
                    self._completion.sample()
                    self.flush()
            except Exception:
                _log.exception("the recorder could not send")

    def _close_at_exit(self) -> None:
        # A forked child inherits the hook, but not the study.
        if os.getpid() == self._process:
            error = getattr(sys, "last_value", None)  # set where an exception ended the program
            self.close(_state_after(error), _message_of(error))


def _state_after(error: BaseException | None) -> TrialState:
    if error is None:
        return TrialState.FINISHED
    return TrialState.KILLED if isinstance(error, KeyboardInterrupt | SystemExit) else TrialState.FAILED


def _message_of(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}".removesuffix(": ")


def _ui_command(store: Store) -> str:
    if store.origin is not Origin.ARGUMENT:
        return "metatuner ui"
    # Credentials are not for the screen: there the command says what is to be filled in.
    uri = store.shown if has_credentials(store.uri) else store.uri
    return f"metatuner ui --tracking-uri {shlex.quote(uri)}"
