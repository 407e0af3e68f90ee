"""Where studies lie: a journal file, a database, or Optuna's gRPC proxy."""

from __future__ import annotations

import importlib.util
import warnings
from pathlib import Path
from urllib.parse import urlsplit

import optuna
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, get_storage
from optuna.storages.journal import JournalFileBackend

from ..envs.errors import ConfigurationError, MissingPackageError
from .journal_lock import OwnedLock
from .patient_storage import PatientStorage

_GRPC_WAIT_S = 10.0


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
        return JournalStorage(JournalFileBackend(text, lock_obj=OwnedLock(text)))
    if text.startswith("grpc://"):
        return PatientStorage(_proxy(text))
    if text.startswith("postgresql://") and importlib.util.find_spec("psycopg2") is None:
        if importlib.util.find_spec("psycopg") is None:
            raise MissingPackageError(
                "a study in PostgreSQL needs the package psycopg: pip install metatuner[postgresql]"
            )
        text = text.replace("postgresql://", "postgresql+psycopg://", 1)
    return PatientStorage(get_storage(text))


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
