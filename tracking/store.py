"""Where records go: an MLflow tracking URI, checked before MLflow is imported.

A store is one of three kinds:

- **file**: an SQLite database on this machine, with its artifacts in the folder `mlartifacts` next to it. This is the
  default, under the name that a plain `mlflow ui` in the same folder looks for (`mlflow.db`).
- **server**: an MLflow server (`http://`, `https://`), which keeps artifacts in its own way.
- **other**: a database server or a hosted service, handed to MLflow as it is.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ..envs.database_driver import with_driver
from ..envs.errors import MissingPackageError, StoreError
from .redaction import has_credentials, one_line, without_credentials
from .sqlite_file import ensure_database
from .switches import set_switches

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE_NAME = "mlflow.db"
ARTIFACTS_NAME = "mlartifacts"
_SQLITE = "sqlite:///"
_EXPECTED = "expected sqlite:///FILE.db, http(s)://HOST:PORT or another MLflow tracking URI"


class Kind(StrEnum):
    """What stands behind a tracking URI."""

    FILE = "file"
    SERVER = "server"
    OTHER = "other"


class Origin(StrEnum):
    """Who named the store."""

    ARGUMENT = "argument"
    ENVIRONMENT = "environment"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Store:
    """A resolved store.

    Attributes:
        uri: As it was given. It may hold credentials: show `shown` instead.
        kind: What stands behind it.
        origin: Who named it.
        database: The SQLite file, absolute; None for the other kinds.
        artifacts: Where artifacts of new experiments go, absolute; None where a server decides.
    """

    uri: str
    kind: Kind
    origin: Origin
    database: Path | None = None
    artifacts: Path | None = None

    @property
    def shown(self) -> str:
        """The URI without credentials."""
        return without_credentials(self.uri)

    @property
    def opened_as(self) -> str:
        """The URI with the driver of our extra, where MLflow would take one that is not installed.

        Raises:
            MissingPackageError: Its database needs a package that is not installed.
        """
        return self.uri if self.kind is not Kind.OTHER else with_driver(self.uri)

    @property
    def ui_command(self) -> str:
        """The command that shows the store in a browser.

        Credentials are not for the screen: there it says what is to be filled in.
        """
        if self.origin is not Origin.ARGUMENT:
            return "metatuner ui"
        return f"metatuner ui --tracking-uri {shlex.quote(self.shown if has_credentials(self.uri) else self.uri)}"

    @property
    def is_missing(self) -> bool:
        """Whether it is a database that nobody has made yet."""
        return self.database is not None and not self.database.exists()

    def prepare(self) -> None:
        """Make the database if there is none. Safe under several processes at once.

        Raises:
            StoreError: If it can be neither opened nor made.
        """
        if self.database is not None and self.artifacts is not None:
            ensure_database(self.database, self.artifacts)


def resolve(tracking_uri: str | None = None) -> Store:
    """Find the store: the argument, else `MLFLOW_TRACKING_URI`, else `mlflow.db` in the current folder.

    Args:
        tracking_uri: An MLflow tracking URI, or None.

    Returns:
        The store, with relative paths made absolute. Nothing is created yet.

    Raises:
        StoreError: If the URI is none that records can go to.
    """
    if tracking_uri is not None:
        return _parse(tracking_uri, Origin.ARGUMENT)
    if from_environment := os.environ.get("MLFLOW_TRACKING_URI"):
        return _parse(from_environment, Origin.ENVIRONMENT)
    return _sqlite(str(Path.cwd() / DATABASE_NAME), Origin.DEFAULT)


def require_databases() -> None:
    """Looks whether MLflow can open any database: not where the versions of what it needs do not fit.

    Raises:
        ImportError: It cannot.
    """
    from mlflow.store.tracking import sqlalchemy_store  # noqa: F401


def connect(store: Store, *, reading: bool = False) -> MlflowClient:
    """Open a store: prepare it, import MLflow, make a client.

    Args:
        store: The store.
        reading: Whether it is only looked at: then none is made where there is none.

    Raises:
        StoreError: If the store can be neither opened nor made.
        MissingPackageError: If its database needs a package that is not installed.
    """
    set_switches()
    if reading and store.is_missing:
        raise StoreError(
            f"there is no store {store.shown}: nothing has been recorded there; name another with "
            "--tracking-uri, or set MLFLOW_TRACKING_URI"
        )
    uri = store.opened_as
    store.prepare()
    from mlflow import MlflowClient

    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri)
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"the store {store.shown} needs the package {error.name}") from error
    except Exception as error:
        why = one_line(error, hide=store.uri)
        if store.database is not None and not os.access(store.database.parent, os.W_OK):
            raise StoreError(
                f"the store {store.shown} cannot be opened, since its folder cannot be written: SQLite needs that to "
                f"read a database in WAL mode; copy {store.database.name} to a folder of yours ({why})"
            ) from None
        if store.kind is Kind.OTHER:
            raise StoreError(f"{_EXPECTED}, got {store.shown}: {why}") from None
        raise StoreError(f"the store {store.shown} cannot be opened: {why}") from None


def _parse(uri: str, origin: Origin) -> Store:
    scheme = uri.split(":", 1)[0].lower() if ":" in uri else ""
    if scheme == "sqlite":
        if not uri.startswith(_SQLITE):
            raise StoreError(
                f"{_EXPECTED}, got {without_credentials(uri)!r}; an SQLite file takes three slashes: sqlite:///mlflow.db"
            )
        return _sqlite(uri.removeprefix(_SQLITE), origin)
    if scheme in ("http", "https"):
        if not _hostname(uri):
            raise StoreError(f"{_EXPECTED}, got {without_credentials(uri)!r}, which names no host")
        return Store(uri.rstrip("/"), Kind.SERVER, origin)
    if scheme in ("", "file") and uri not in ("databricks", "databricks-uc"):
        folder = uri.removeprefix("file://").removeprefix("file:")
        name = folder if folder.endswith(".db") else f"{folder.rstrip('/') or '.'}/{DATABASE_NAME}"
        raise StoreError(
            f"{_EXPECTED}, got {without_credentials(uri)!r}; plain folders are MLflow's old way to keep runs: use "
            f"{_SQLITE}{name} instead; runs that are there already are moved by mlflow migrate-filestore --source "
            f"{folder or '.'} --target {_SQLITE}FILE.db"
        )
    # A database server has no folder of its own for artifacts; a hosted service decides for itself.
    database_server = "://" in uri and scheme.split("+")[0] in ("postgresql", "mysql", "mssql")
    return Store(uri, Kind.OTHER, origin, artifacts=Path.cwd() / ARTIFACTS_NAME if database_server else None)


def _hostname(uri: str) -> str | None:
    try:
        parts = urlsplit(uri)
        _ = parts.port  # raises where the port is no number
    except ValueError:
        return None
    return parts.hostname


def _sqlite(path: str, origin: Origin) -> Store:
    name, question, query = path.partition("?")
    if name in ("", ":memory:") or name.startswith("file:"):
        raise StoreError(f"{_EXPECTED}, got '{_SQLITE}{path}'; a database in memory is gone when the process ends")
    if query and origin is Origin.DEFAULT:
        raise StoreError(f"the folder {Path.cwd()} has a question mark in its name, which a database URI cannot hold")
    meant = name if origin is Origin.DEFAULT else _decoded(name)
    database = Path(os.path.abspath(meant))  # noqa: PTH100 - Path.resolve would follow links, which may be a mount
    uri = f"{_SQLITE}{_encoded(str(database))}{question}{query}"
    return Store(uri, Kind.FILE, origin, database, database.parent / ARTIFACTS_NAME)


def _decoded(name: str) -> str:
    """The path that SQLAlchemy makes of an address: some of its versions take %20 for a blank."""
    if "%" not in name:
        return name
    from sqlalchemy import make_url

    return make_url(f"{_SQLITE}{name}").database or name


def _encoded(path: str) -> str:
    """What SQLAlchemy makes a path of."""
    return next(name for name in (path, path.replace("%", "%25")) if _decoded(name) == path)
