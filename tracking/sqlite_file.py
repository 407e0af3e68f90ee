"""Makes an MLflow database so that no other process ever sees half of one.

MLflow migrates a new database in place: several processes at once break it, and so does a kill. Here one process at a
time (a file lock, which the system releases when its holder dies) builds the database under another name and moves it
into place when it is whole. Leftovers of a killed builder are removed by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..envs.errors import StoreError
from .redaction import one_line
from .switches import set_switches

_LOCK_TIMEOUT_S = 120.0


def ensure_database(database: Path, artifacts: Path) -> None:
    """Make the database unless it is there.

    Args:
        database: The absolute path of the SQLite file.
        artifacts: The absolute folder for artifacts of MLflow's default experiment.

    Raises:
        StoreError: If the path is no database or cannot be made.
    """
    try:
        if _exists(database):
            return
        database.parent.mkdir(parents=True, exist_ok=True)
        with _lock(database.with_name(f"{database.name}.lock")):
            if not _exists(database):
                _build(database, artifacts)
    except OSError as error:
        raise StoreError(
            f"the experiment store {database} cannot be used ({error.strerror or error}): "
            "expected a folder that can be read and written; name another with --tracking-uri sqlite:///FILE.db"
        ) from error


def _exists(database: Path) -> bool:
    """Whether a database is there. An empty file counts as none: SQLite would fill it in place."""
    try:
        if database.is_dir():
            raise StoreError(
                f"expected an SQLite file at {database}, got a folder; name a file inside it: {database}/mlflow.db"
            )
        if database.stat().st_size == 0:
            return False
    except FileNotFoundError:
        return False
    # Only SQLite may open the file. When a process closes a file, the system drops all locks that it holds on it, also
    # those of its open connections; another process would then take these for gone and remove their write-ahead log.
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.OperationalError:
        return True  # there, but locked or not to be read: whoever opens it says what is the matter
    except sqlite3.DatabaseError as error:
        raise StoreError(
            f"expected an SQLite database at {database}, got a file of another kind ({error}); "
            "move it away or name another file with --tracking-uri sqlite:///FILE.db"
        ) from error
    return True


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock. The file stays: removing it would let two processes lock two files of one name."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while not _try_lock(descriptor):
            if time.monotonic() > deadline:
                raise StoreError(f"another process has been making {path.with_suffix('')} for {_LOCK_TIMEOUT_S:.0f} s")
            time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _build(database: Path, artifacts: Path) -> None:
    half_made = database.with_name(f"{database.name}.new")
    _remove(half_made)
    try:
        _migrate(half_made, artifacts)
        _set_write_ahead(half_made)
        os.replace(half_made, database)  # noqa: PTH105 - the one call whose atomicity everything rests on
    finally:
        _remove(half_made)


def _migrate(database: Path, artifacts: Path) -> None:
    """Run MLflow's migrations in memory and copy the result: on a busy disk they take many times longer."""
    set_switches()
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # A name of its own, so that no other database in memory is meant.
    memory = f"sqlite:///file:metatuner-{uuid.uuid4().hex}?mode=memory&uri=true"
    try:
        store = SqlAlchemyStore(memory, artifacts.as_uri())  # type: ignore[no-untyped-call]
        with (
            contextlib.closing(store.engine.raw_connection()) as source,
            contextlib.closing(sqlite3.connect(database)) as target,
        ):
            assert isinstance(source.driver_connection, sqlite3.Connection)
            source.driver_connection.backup(target)
        store.engine.dispose()
    except Exception as error:
        raise StoreError(f"MLflow could not make the database {database}: {one_line(error)}") from error
    finally:
        getattr(SqlAlchemyStore, "_engine_map", {}).pop(memory, None)  # MLflow would keep it for ever


def _set_write_ahead(database: Path) -> None:
    """Let readers and a writer work at once, and cost a trial a quarter less. SQLite remembers it in the file."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        # Some network file systems cannot do it: the default journal is slower, but as safe.
        if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            logging.getLogger(__name__).info("%s keeps SQLite's default journal", database)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _remove(database: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
