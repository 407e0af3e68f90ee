"""Where studies lie: a journal file, a database, or Optuna's gRPC proxy."""

from __future__ import annotations

import importlib.util
import time
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage, get_storage

from ..envs.errors import ConfigurationError, MissingPackageError
from .patient_storage import PatientStorage
from .study_journal import open_journal

_GRPC_WAIT_S = 10.0
_WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0)
# A wire that was cut says nothing: whoever waits for an answer is to notice it in half a minute, not in hours.
_NOTICING = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
_IN_THE_MAKING = ("already exists", "duplicate key", "unique constraint", "duplicate entry", "database is locked")


def open_storage(address: str | Path) -> BaseStorage:
    """The storage at an address, which is waited for where it goes away later.

    Args:
        address: A journal file's path, a database URL as Optuna takes it, or `grpc://HOST:PORT`.

    Raises:
        ConfigurationError: The address is none.
        MissingPackageError: A package that it needs is not installed.
        Exception: The storage cannot be opened.
    """
    text = str(address)
    if isinstance(address, Path) or "://" not in text:
        return open_journal(text)
    if text.startswith("grpc://"):
        return PatientStorage(_proxy(text))
    if text.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
        if importlib.util.find_spec("psycopg") is None:
            raise MissingPackageError(
                "a study in PostgreSQL needs the package psycopg: pip install metatuner[postgresql]"
            )
        text = text.replace("postgresql://", "postgresql+psycopg://", 1)
    return PatientStorage(_database(text))


def _database(url: str) -> BaseStorage:
    """A database, with Optuna's tables in it; other workers may be making them at this moment."""
    known = {"connect_args": _NOTICING} if url.startswith("postgresql+psycopg") else None
    for wait_s in _WAITS_S:
        try:
            return get_storage(RDBStorage(url, known))
        except Exception as error:
            if not any(sign in str(error).lower() for sign in _IN_THE_MAKING):
                raise
            time.sleep(wait_s)
    return get_storage(RDBStorage(url, known))


def _proxy(address: str) -> BaseStorage:
    if importlib.util.find_spec("grpc") is None:
        raise MissingPackageError("Optuna's gRPC proxy needs the package grpcio: pip install metatuner[grpc]")
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.path.strip("/"):
        raise ConfigurationError(f"expected a gRPC proxy's address as grpc://HOST:PORT, got {address!r}")
    with warnings.catch_warnings():
        # What of it is new in Optuna and may change there is for us to follow.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        proxy = GrpcStorageProxy(host=host, port=port)
    proxy.wait_server_ready(timeout=_GRPC_WAIT_S)
    return proxy
