"""Databases that hold studies: Optuna makes its tables in whatever it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import create_engine, inspect

from .errors import ConfigurationError


def require_no_mlflow_store(url: str, connect_args: Mapping[str, Any] | None = None) -> None:
    """Looks at a database before Optuna opens it: both keep their version in a table of the same name.

    Args:
        url: Its address, as SQLAlchemy takes it. Where it cannot be opened, nothing is said.
        connect_args: For its driver.

    Raises:
        ConfigurationError: It is an MLflow store, and has no studies.
    """
    try:
        tables = _tables(url, dict(connect_args or {}))
    except Exception:
        return  # drivers raise what they like: whoever opens it for good says what is wrong, or waits
    if {"experiments", "runs"} <= tables and "version_info" not in tables:
        raise ConfigurationError(
            "this database is an MLflow store, which cannot hold studies as well: give another one as the storage, and "
            "this one as the tracking URI"
        )


def _tables(url: str, connect_args: dict[str, Any]) -> set[str]:
    engine = create_engine(url, connect_args=connect_args)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()
