"""Optuna's tables in MySQL and MariaDB, made so that they tell texts apart.

Their usual collations take C for c and e for é, and their usual characters may be Latin's alone: of two hyperparameters
whose names differ by case, a trial then loses one, and nobody is told; two studies would be one.
"""

from __future__ import annotations

import logging

from optuna.storages import RDBStorage

_CHARACTERS, _COLLATION = "utf8mb4", "utf8mb4_bin"
_COLLATION_OF = (
    "SELECT table_collation FROM information_schema.tables "
    "WHERE table_schema = DATABASE() AND table_name = 'trial_params'"
)
_log = logging.getLogger(__name__)


def ask_for_exact_tables() -> None:
    """From now on Optuna makes its tables, where it makes any in MySQL, with a collation that tells all texts apart."""
    from optuna.storages._rdb.models import BaseModel

    for table in BaseModel.metadata.tables.values():
        for dialect in ("mysql", "mariadb"):
            table.kwargs[f"{dialect}_charset"], table.kwargs[f"{dialect}_collate"] = _CHARACTERS, _COLLATION


def warn_of_inexact_tables(storage: RDBStorage) -> None:
    """Tables that were there before may be others."""
    from sqlalchemy import text

    with storage.engine.connect() as connection:
        collation = str(connection.execute(text(_COLLATION_OF)).scalar())
    if not collation.endswith(("_bin", "_cs")):
        _log.warning(
            "the study's database takes names for the same that differ by case or accents (%s): give no two "
            "hyperparameters or studies such names, or make a new database, whose tables will tell them apart",
            collation,
        )
