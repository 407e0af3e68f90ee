"""Studies that no store has yet, since whoever recorded them was killed before it could send anything."""

from __future__ import annotations

from itertools import islice

from ..envs.records import StudyStarted
from . import journal
from .study_folder import StudyFolder, journal_root


def waiting_hint(study: str) -> str:
    """What to do where a study's journal waits; empty where none of this name does.

    Args:
        study: The study's name.
    """
    for folder in StudyFolder.all(journal_root()):
        first = [entry.record for entry in islice(journal.read(folder.records), 1)]
        if first and isinstance(first[0], StudyStarted) and first[0].name == study:
            where = f"{folder.target.tracking_uri}, experiment {folder.target.experiment!r}"
            return f"; its journal waits to be sent to {where}: metatuner sync"
    return ""
