"""Databases that hold studies: Optuna makes its tables in whatever it is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import create_engine, inspect
from sqlalchemy.exc import SQLAlchemyError

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
        engine = create_engine(url, connect_args=dict(connect_args or {}))
    except (SQLAlchemyError, ImportError):
        return  # whoever opens it for good says what is wrong
    try:
        tables = set(inspect(engine).get_table_names())
    except SQLAlchemyError:
        return  # or waits
    finally:
        engine.dispose()
    if {"experiments", "runs"} <= tables and "version_info" not in tables:
        raise ConfigurationError(
            "this database is an MLflow store, which cannot hold studies as well: give another one as the storage, and "
            "this one as the tracking URI"
        )
