"""Which package talks to a database, by its address."""

from __future__ import annotations

import importlib.util

from .errors import MissingPackageError

_DRIVERS = {
    "postgresql": ("psycopg2", "psycopg", "postgresql"),
    "mysql": ("MySQLdb", "pymysql", "mysql"),
    "mariadb": ("MySQLdb", "pymysql", "mysql"),
}
"""What SQLAlchemy takes unless the address names another, what our extra brings, and the extra."""


def with_driver(url: str) -> str:
    """The address with the driver of our extra, where it names none and the one that would be taken is not there.

    Args:
        url: The database, as SQLAlchemy takes it; other addresses stay as they are.

    Raises:
        MissingPackageError: The driver is not installed.
    """
    scheme, _, rest = url.partition("://")
    database, _, named = scheme.partition("+")
    if database not in _DRIVERS:
        return url
    usual, ours, extra = _DRIVERS[database]
    if named not in ("", ours) or (not named and importlib.util.find_spec(usual) is not None):
        return url
    if importlib.util.find_spec(ours) is None:
        name = {"postgresql": "PostgreSQL", "mysql": "MySQL"}[extra]
        raise MissingPackageError(f"{name} needs the package {ours}: pip install metatuner[{extra}]")
    return f"{database}+{ours}://{rest}"
