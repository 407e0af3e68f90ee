"""Stores to record into. Making one takes a second: it is made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from metatuner.tracking.sqlite_file import ensure_database
from metatuner.tracking.switches import set_switches

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
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    shutil.copy(empty_database, tmp_path / "mlflow.db")
    yield f"sqlite:///{tmp_path}/mlflow.db"
    # MLflow keeps an engine a URI for ever; its open connections would be warnings when they are collected.
    for name in [name for name in SqlAlchemyStore._engine_map if str(tmp_path) in name]:
        SqlAlchemyStore._engine_map.pop(name).dispose()
