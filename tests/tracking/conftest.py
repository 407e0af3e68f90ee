"""Stores to record into. Making one takes a second: it is made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from metatuner.tracking.sqlite_file import ensure_database
from metatuner.tracking.switches import set_switches
from metatuner.tracking.ui import UiServer

set_switches()


@pytest.fixture(autouse=True)
def journal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The test's own journal folder; no store from outside."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "journal"))
    return tmp_path / "journal"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    ensure_database(folder / "mlflow.db", folder / "mlartifacts")
    return folder / "mlflow.db"


@pytest.fixture
def uri(tmp_path: Path, empty_database: Path) -> Iterator[str]:
    """The URI of an empty SQLite store of its own."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    yield f"sqlite:///{tmp_path}/mlflow.db"
    _close_connections(tmp_path)


def _close_connections(folder: Path) -> None:
    """MLflow keeps an engine a URI for ever; its open connections would be warnings when they are collected."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in [name for name in SqlAlchemyStore._engine_map if str(folder) in name]:
        SqlAlchemyStore._engine_map.pop(name).dispose()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[tuple[str, Path]]:
    """A server's address and its database. All tests share it, as it takes seconds to start: by names of their own."""
    database = tmp_path_factory.mktemp("served") / "mlflow.db"
    shutil.copy(empty_database, database)
    with UiServer(f"sqlite:///{database}", port=0) as server:
        yield server.url, database
    _close_connections(database.parent)


@pytest.fixture
def server(served: tuple[str, Path]) -> str:
    """The address of a server that other tests record with too."""
    return served[0]
