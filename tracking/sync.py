"""Finishes what recording left: ships the journals of processes that died or could not reach their store."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..envs.errors import MissingPackageError, StoreError
from . import journal
from .completion import left_open
from .journal import JournalWriter
from .shipper import Shipper
from .store import resolve
from .study_folder import StudyFolder, Target
from .transport import Transport, UnsentError


@dataclass(frozen=True, slots=True)
class Synced:
    """What became of one study.

    Attributes:
        folder: Where it waited.
        target: Where it goes.
        sent: Records sent now.
        remaining: Records that are still to be sent.
        refused: Pieces that the store will never take.
        problem: Why anything remains; empty where nothing does.
    """

    folder: Path
    target: Target
    sent: int
    remaining: int
    refused: int
    problem: str = ""


def sync(
    root: Path, tracking_uri: str | None = None, progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Synced]:
    """Ships every study that waits in a journal folder. Doing it twice changes nothing.

    A study whose process died is closed as killed first. One that a living process records is left to that process.

    Args:
        root: The journal folder.
        tracking_uri: Send to this store instead of the one that each study names. It is needed for a store whose URI
            holds a password, which no journal does, unless `MLFLOW_TRACKING_URI` names that store.
        progress: Told after each study: how many are done, and how many there are.

    Raises:
        StoreError: There is no such folder, or it does not say where a study goes; all others are sent then.
    """
    if not root.is_dir():
        raise StoreError(f"there is no journal folder {root}: name one, or set METATUNER_JOURNAL")
    folders = StudyFolder.all(root)
    results: list[Synced] = []
    damaged: list[StoreError] = []
    for index, folder in enumerate(folders):
        try:
            target = folder.target
        except StoreError as error:
            damaged.append(error)
        else:
            results.append(_sync_study(folder, target, tracking_uri))
        progress(index + 1, len(folders))
    if damaged:  # once all others are sent
        raise damaged[0]
    return results


def _sync_study(folder: StudyFolder, target: Target, tracking_uri: str | None) -> Synced:
    try:
        before = folder.remaining
    except StoreError as error:
        return Synced(folder.path, target, 0, 0, folder.refused, str(error))
    problem = ""
    try:
        with folder.needed(), folder.lock("writer") as nobody_writes, folder.lock("shipper") as nobody_ships:
            if not (nobody_writes and nobody_ships):
                raise StoreError("a running process records it and sends it itself")
            _close_what_died(folder)
            shipper = Shipper(folder, Transport(resolve(_uri(target, tracking_uri)), target.experiment))
            while shipper.ship():
                pass
            if not folder.refused:
                folder.remove()
    except (UnsentError, StoreError, MissingPackageError) as error:
        problem = str(error)
    remaining = folder.remaining
    return Synced(folder.path, target, max(before - remaining, 0), remaining, folder.refused, problem)


def _close_what_died(folder: StudyFolder) -> None:
    """Journals the ends that are missing.

    Raises:
        OSError: There is no room for them: the study must not go before its end has been sent.
    """
    ends = left_open(entry.record for entry in journal.read(folder.records))
    if ends:
        writer = JournalWriter(folder.records)
        for record in ends:
            writer.append(record)
        writer.close()
        if writer.unwritten:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder.records))


def _uri(target: Target, given: str | None) -> str:
    """The store's URI; the password that the journal lacks may be in the environment's."""
    if given is not None:
        return given
    named = os.environ.get("MLFLOW_TRACKING_URI")
    return named if named and resolve(named).shown == target.tracking_uri else target.tracking_uri
