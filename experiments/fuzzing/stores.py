"""Stores to read: an empty one, a study to record in it, and what may be altered there."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from fuzzed import SPACE
from hypothesis import strategies as st
from metatuner.envs import records as r
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.sqlite_file import ensure_database
from mutations import TEXTS


def study_records() -> list[r.Record]:
    """A study with schedules."""
    space = {name: optuna.distributions.distribution_to_json(each) for name, each in SPACE.items()}
    told: list[r.Record] = [
        r.StudyStarted(
            name="study",
            params={"budget": "3"},
            tags={"a": "b"},
            space=space,
            conditions={"depth": "kind is a"},
            budget="3 trials",
            command="again",
            time_ms=1_700_000_000_000,
        ),
        r.Description(markdown="# What it is"),
        r.DataSetUsed(trial=None, name="digits", digest="0" * 32, profile={"rows": 3}),
    ]
    for trial in range(5):
        params = {"lr": str(10.0 ** -(trial + 1)), "depth": str(trial + 1), "kind": "ab"[trial % 2]}
        told += [
            r.TrialStarted(trial=trial, name="t", params=params, time_ms=1_700_000_000_000 + 2000 * trial),
            r.ParamsChosen(trial=trial, params={"more": "1"}, tags={"c": "d"}),
            r.Proposal(trial=trial, source="prior", words="since", foretold={"gain": 0.5}),
            r.TrialConstraints(trial=trial, excess={"memory": trial - 3.0}),
            *(r.Metrics(trial=trial, step=step, values={"val/loss": 1.0 / (step + trial + 1)}) for step in range(2)),
            r.Decision(
                trial=trial,
                number=0,
                step=0,
                signals={"progress": 0.5},
                adjustments={"lr": 0.1},
                values={"lr": 0.1},
                reward=float("nan"),
                note="diverged",
            ),
            r.Artifact(trial=trial, path="note/a.txt", text="text"),
            r.FileArtifact(trial=trial, path="b.bin", source="files/0123456789abcdef0123456789abcdef"),
            r.TrialFinished(
                trial=trial,
                state=r.TrialState.FINISHED if trial else r.TrialState.FAILED,
                message="why",
                costs={"s": 1.0},
                time_ms=1_700_000_001_000 + 2000 * trial,
            ),
        ]
    return [*told, r.StudyFinished(time_ms=1_700_000_100_000)]


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        ensure_database(database, Path(folder) / "mlartifacts")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # so that the file alone is the database
        return database.read_bytes()


@contextlib.contextmanager
def empty_store(folder: Path) -> Iterator[str]:
    """An empty store's URI."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    (folder / "mlflow.db").write_bytes(_empty_database())
    before = {name: os.environ.get(name) for name in ("METATUNER_JOURNAL",)}
    os.environ["METATUNER_JOURNAL"] = str(folder / "journal")
    try:
        yield f"sqlite:///{folder}/mlflow.db"
    finally:
        for name in [name for name in SqlAlchemyStore._engine_map if str(folder) in name]:
            SqlAlchemyStore._engine_map.pop(name).dispose()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def record(uri: str) -> str:
    """A study with schedules in the store; returns its run's id."""
    with MLflowRecorder(uri, "x", plots=False) as recorder:
        for record in study_records():
            if not isinstance(record, r.FileArtifact):
                recorder.record(record)
        assert recorder.flush()
        return str(recorder.run_id)


def tamper(database: Path, changes: list[tuple[str, str, Any]]) -> None:
    """Makes changes to a store's database: table, key and value of each."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for table, key, value in changes:
            connection.execute("PRAGMA foreign_keys=OFF")
            run = "run_uuid IN (SELECT run_uuid FROM runs ORDER BY start_time LIMIT 2)"
            with contextlib.suppress(sqlite3.Error, UnicodeEncodeError, OverflowError):
                if table == "runs":
                    connection.execute(f"UPDATE runs SET {key} = ? WHERE {run}", (value,))
                elif value is None:
                    connection.execute(f"DELETE FROM {table} WHERE key = ? AND {run}", (key,))
                elif table == "renamed":
                    connection.execute(f"UPDATE tags SET key = ? WHERE key = ? AND {run}", (value, key))
                else:
                    connection.execute(f"UPDATE {table} SET value = ? WHERE key = ? AND {run}", (value, key))
        connection.commit()


def database_changes() -> st.SearchStrategy[list[tuple[str, str, Any]]]:
    """Changes that `tamper` makes."""
    tags = (
        "metatuner.trial",
        "metatuner.attempt",
        "metatuner.key",
        "metatuner.kind",
        "metatuner.study",
        "metatuner.state",
        "metatuner.title",
        "metatuner.why",
        "metatuner.metric",
        "metatuner.direction",
        "metatuner.budget",
        "metatuner.command",
        "metatuner.message",
        "metatuner.name/lr",
        "mlflow.parentRunId",
        "mlflow.note.content",
    )
    texts = st.none() | st.sampled_from(TEXTS) | st.text(max_size=5)
    numbers = st.sampled_from([0.0, -1.0, 1e308, 1.7976931348623157e308, -1.7976931348623157e308, 1e-320])
    change = st.one_of(
        st.tuples(st.just("tags"), st.sampled_from(tags), texts),
        st.tuples(st.just("tags"), st.sampled_from(tags), texts),
        st.tuples(st.just("params"), st.sampled_from(["lr", "depth", "kind", "more"]), texts),
        st.tuples(
            st.sampled_from(["metrics", "latest_metrics"]),
            st.sampled_from(["val/loss", "value", "hp/lr", "reward", "gain", "constraint/memory"]),
            numbers,
        ),
        st.tuples(
            st.just("runs"), st.sampled_from(["start_time", "end_time"]), st.sampled_from([None, 0, -1, 2**62, 10**18])
        ),
        st.tuples(st.just("runs"), st.just("status"), st.sampled_from(["RUNNING", "SCHEDULED", "KILLED", "FAILED"])),
        st.tuples(st.just("runs"), st.just("name"), texts),
    )
    return st.lists(change, min_size=1, max_size=3)
