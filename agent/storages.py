"""Where studies lie: a journal file, a database, or Optuna's gRPC proxy."""

from __future__ import annotations

import importlib.util
import time
import warnings
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, get_storage

from ..envs.database_driver import with_driver
from ..envs.errors import ConfigurationError, MissingPackageError, StoreError
from ..envs.study_database import require_no_mlflow_store
from .mysql_tables import ask_for_exact_tables, warn_of_inexact_tables
from .patient_storage import PatientStorage, in_short, is_full
from .study_journal import open_journal

_GRPC_WAIT_S = 10.0
_WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
# A wire that was cut says nothing: whoever waits for an answer is to notice it in a minute, not in hours. MySQL lets a
# call wait for a lock for 50 s.
_NOTICING: dict[str, dict[str, int]] = {
    "psycopg": {
        "connect_timeout": 10,
        "keepalives_idle": 15,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
    },
    "pymysql": {"connect_timeout": 10, "read_timeout": 60, "write_timeout": 60},
}
# In the words of PostgreSQL, MySQL and MariaDB, whoever asks while they stop or start: a moment later they answer.
_RESTARTING = (
    "administrator command",
    "shutting down",
    "starting up",
    "not yet accepting",
    "recovery mode",
    "closed the connection unexpectedly",
    "shutdown in progress",
    "gone away",
    "lost connection",
    "refused",
)
_IN_THE_MAKING = ("already exists", "duplicate key", "unique constraint", "duplicate entry", "database is locked")


def open_storage(address: str | Path) -> BaseStorage:
    """The storage at an address, which is waited for where it goes away later.

    Args:
        address: A journal file's path, a database URL as Optuna takes it, or `grpc://HOST:PORT`.

    Raises:
        ConfigurationError: The address is none, or an MLflow store's.
        MissingPackageError: A package that it needs is not installed.
        Exception: The storage cannot be opened.
    """
    text = str(address)
    if isinstance(address, Path) or "://" not in text:
        return PatientStorage(open_journal(text))
    if text.startswith("grpc://"):
        return PatientStorage(_proxy(text))
    return PatientStorage(_database(with_driver(text)))


def not_opened(error: Exception) -> StoreError:
    """What is raised where `open_storage` fails: without the address, which may hold a password."""
    then = "its disk is full, free some space" if is_full(error) else "check its address"
    return StoreError(f"the study's storage cannot be opened ({in_short(error)}): {then}")


def _database(url: str) -> BaseStorage:
    """A database, with Optuna's tables in it; other workers may be making them at this moment."""
    scheme = url.partition("://")[0]
    known: dict[str, Any] = {}
    if (noticing := _NOTICING.get(scheme.partition("+")[2])) is not None:
        known["connect_args"] = noticing
    is_mysql = scheme.startswith(("mysql", "mariadb"))
    if is_mysql:
        known["pool_pre_ping"] = True  # the server closes connections that are idle
        ask_for_exact_tables()
    require_no_mlflow_store(url, known.get("connect_args"))
    made = _made(url, known)
    if is_mysql:
        warn_of_inexact_tables(made)
    return get_storage(made)


def _made(url: str, known: dict[str, Any]) -> RDBStorage:
    for wait_s in _WAITS_S:
        try:
            return RDBStorage(url, known)
        except Exception as error:
            if not any(sign in str(error).lower() for sign in (*_IN_THE_MAKING, *_RESTARTING)):
                raise
            time.sleep(wait_s)
    return RDBStorage(url, known)


def _proxy(address: str) -> BaseStorage:
    if importlib.util.find_spec("grpc") is None:
        raise MissingPackageError("Optuna's gRPC proxy needs the package grpcio: pip install metatuner[grpc]")
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path.strip("/"):
        shown = f"grpc://{address.removeprefix('grpc://').rpartition('@')[2]}"  # without a password, if there is one
        raise ConfigurationError(f"expected a gRPC proxy's address as grpc://HOST:PORT, got {shown!r}")
    with warnings.catch_warnings():
        # What of it is new in Optuna and may change there is for us to follow.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = GrpcStorageProxy(host=host, port=port)
    proxy.wait_server_ready(timeout=_GRPC_WAIT_S)
    return proxy
