"""Records studies in MLflow."""

from __future__ import annotations

import atexit
import logging
import os
import shlex
import sys
import threading
import time
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from ..envs.errors import ConfigurationError, StoreUnreachableError
from ..envs.records import Record, StudyFinished, StudyStarted, TrialFinished, TrialState
from .codec import require_recordable
from .completion import Completion
from .sampling import DEFAULT_DISTANCES, SamplingDistances
from .shipped_study import ShippedStudy, StudyInUseError
from .store import resolve
from .study_folder import StudyFolder, journal_root
from .study_state import require_sound
from .transport import Transport

_log = logging.getLogger(__name__)


class MLflowRecorder:
    """A recorder (`metatuner.envs.records.Recorder`) whose studies are MLflow runs and whose trials are their children.

    Example:
        >>> import metatuner as mt
        >>> from metatuner.envs.records import Metrics, TrialStarted
        >>> with mt.MLflowRecorder(experiment="my-model") as recorder:  # or AdaptiveSchedule(..., recorder=recorder)
        ...     recorder.record(TrialStarted(trial=0, name="by hand", params={"lr": 0.1}))
        ...     recorder.record(Metrics(trial=0, step=1, values={"val/loss": 0.5}))
        >>> recorder.ui_command
        'metatuner ui'

    Leaving the `with` block ends what is still open: as finished, after an exception as failed, after Ctrl-C as killed.
    A recorder that nobody closes is closed when Python ends. After that nothing is recorded.

    A record goes to a journal on local disk, and from there to MLflow by a thread in the background: a training never
    waits for a store, and what a store, a network or a kill has held up is sent later, by the next process that records
    the same study or by `metatuner sync`. Any thread may record.

    Args:
        tracking_uri: Where to record. None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.
        experiment: The experiment's name. It is made unless it exists.
        plots: Whether to draw the plots of trials and studies.
        flush_seconds: Metrics are visible after this time at the latest, while a training runs.
        close_seconds: How long closing waits for a store that takes nothing, and for room on a full disk.
        journal: Where journals lie. None: `METATUNER_JOURNAL`, else `.metatuner/journal` in the current folder.
        sampling: How often the resources of trials that run long are sampled; `flush_seconds` apart at the least. None
            measures no resources: what is recorded ran elsewhere.

    Attributes:
        tracking_uri: Where it records, without credentials.
        experiment: The experiment's name.

    Raises:
        ConfigurationError: The experiment has no name.
        StoreError: The store cannot be opened or made, or the journal cannot be written. A server that does not answer
            now is no error: it may answer later.
    """

    def __init__(
        self,
        tracking_uri: str | None = None,
        experiment: str = "metatuner",
        *,
        plots: bool = True,
        flush_seconds: float = 3.0,
        close_seconds: float = 20.0,
        journal: str | Path | None = None,
        sampling: SamplingDistances | None = DEFAULT_DISTANCES,
    ) -> None:
        if not isinstance(experiment, str) or not experiment.strip():
            raise ConfigurationError(f"expected the experiment's name, a text that is not empty, got {experiment!r}")
        store = resolve(tracking_uri)
        self._transport = Transport(store, experiment)
        self._journal, self._plots = journal_root(journal), plots
        self._flush_seconds, self._close_seconds = flush_seconds, close_seconds
        self._sampling, self._next_sample_s = sampling, 0.0
        self._completion = Completion()
        self._study: ShippedStudy | None = None
        self._key: str | None = None
        self.tracking_uri = store.shown
        self.experiment = experiment
        self.ui_command = store.ui_command
        try:
            self._transport.connect()
        except StoreUnreachableError as error:
            _log.warning("%s. Records are kept in %s and sent later", error, self._journal)
        # Re-entrant: a signal handler that records may interrupt a record.
        self._lock = threading.RLock()
        self._closed = self._dropped = False
        self._process = os.getpid()
        atexit.register(self._close_at_exit)

    @property
    def experiment_id(self) -> str | None:
        """MLflow's id of the experiment; None before the store has answered."""
        return self._transport.experiment_id

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the latest study's run; None before it is there (`flush` waits for it)."""
        return self._transport.run_ids.get(self._key) if self._key is not None else None

    @property
    def unsent(self) -> int:
        """How many records of the open study are not in MLflow yet."""
        return self._study.unshipped if self._study is not None else 0

    @property
    def finished(self) -> frozenset[int]:
        """Numbers of the latest study's trials that need not be run again: they finished, or were pruned."""
        return self._completion.finished

    @property
    def ended(self) -> frozenset[int]:
        """Numbers of the latest study's trials that ended, however."""
        return self._completion.ended

    @property
    def trial_tags(self) -> Mapping[int, Mapping[str, str]]:
        """Tags of the latest study's trials by number, those that trials had when they began."""
        return self._completion.trial_tags

    def trial_run_id(self, trial: int) -> str | None:
        """MLflow's id of the run of a trial's first attempt in the latest study; None before it is there."""
        return self._transport.run_ids.get(f"{self._key}/{trial}")

    def record(self, record: Record, /) -> None:
        """Takes one record.

        Raises:
            ConfigurationError: It is no record, or makes no sense here, such as a metric that is no number, or one of a
                trial that was never started.
            OSError: The source of a `FileArtifact` cannot be read. (One whose copy the disk has no room for is no
                error: a text in its place says so.)
        """
        require_recordable(record)
        with self._lock:
            if self._closed:
                self._drop(record)
                return
            if isinstance(record, StudyStarted):
                require_sound(record)
                self._finish_study(TrialState.FINISHED, "", record.time_ms)
                self._open_study(record)
            elif self._study is None:
                self.record(StudyStarted(name=self.experiment, time_ms=record.time_ms))
            self._append(record)
            if isinstance(record, StudyFinished):
                self._close_study()
            else:
                self._sample()

    def _drop(self, record: Record) -> None:
        """Says so once; that something ends is no loss, since all that was open ended with the recorder."""
        if self._dropped or isinstance(record, TrialFinished | StudyFinished):
            return
        self._dropped = True
        _log.warning(
            "a %s came after the recorder was closed, and is dropped like all that follow: make another MLflowRecorder",
            type(record).__name__,
        )

    def flush(self, seconds: float = 30.0) -> bool:
        """Sends what waits; waits at most so long, and tells whether everything has been sent."""
        study = self._study
        return study.flush(seconds) if study is not None else True

    def close(self, state: TrialState = TrialState.FINISHED, message: str = "") -> None:
        """Ends what is open and sends everything. Closing twice is closing once.

        Args:
            state: How open trials and the study ended.
            message: Why.
        """
        with self._lock:
            if self._closed:
                return
            try:
                self._finish_study(state, message)
            finally:
                self._closed = True
                atexit.unregister(self._close_at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(_state_after(error), _message_of(error))

    def _open_study(self, record: StudyStarted) -> None:
        self._study = self._opened(record)
        self._key = self._study.key
        known = self._trials_in_store(self._key) if record.key else []
        self._completion = Completion([*known, *self._study.past], self._sampling)

    def _opened(self, record: StudyStarted) -> ShippedStudy:
        """The study in the first of its folders; of one that is shared, in the first that no other process uses."""
        for place in count():
            folder = StudyFolder.open(
                self._journal, self.tracking_uri, self.experiment, record.key, plots=self._plots, place=place
            )
            try:
                return ShippedStudy(folder, self._transport, every=self._flush_seconds, tick=self._tick)
            except StudyInUseError:
                if not record.shared:
                    raise
        raise AssertionError("there is no end of folders")

    def _trials_in_store(self, key: str) -> list[Record]:
        """What an earlier process, perhaps on another machine, has done in this study and shipped whole."""
        try:
            return list(self._transport.trials_of(key))
        except StoreUnreachableError:
            return []  # then the journal is all there is to go by

    def _append(self, record: Record) -> None:
        for each in self._completion.complete(record):
            assert self._study is not None
            self._study.append(each)

    def _tick(self) -> None:
        """Samples trials that record nothing for a while. Called by the thread that ships."""
        # It never waits: whoever closes a study holds the lock until this thread has ended. What is missed comes later.
        if self._lock.acquire(blocking=False):
            try:
                self._sample()
            finally:
                self._lock.release()

    def _sample(self) -> None:
        """Records what running trials use, at most once in `flush_seconds`. The lock is held."""
        now = time.monotonic()
        if self._study is None or now < self._next_sample_s:
            return
        self._next_sample_s = now + self._flush_seconds
        for record in self._completion.sample():
            self._study.append(record)

    def _finish_study(self, state: TrialState, message: str, time_ms: int | None = None) -> None:
        if self._study is not None:
            for record in self._completion.finish(state, message, time_ms):
                self._study.append(record)
            self._close_study()

    def _close_study(self) -> None:
        assert self._study is not None
        study, self._study = self._study, None
        if remaining := study.close(self._close_seconds):
            _log.warning(
                "%d records are still to be sent to %s; they are kept, and this sends them: metatuner sync %s",
                remaining,
                self.tracking_uri,
                shlex.quote(str(self._journal)),
            )

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
