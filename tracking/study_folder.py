"""Where a study waits on its way to MLflow: a folder with its journal, and how far the journal has been sent.

records.journal    what happened (`tracking.journal`)
files/             copies of file artifacts that are not sent yet
acknowledged       the offset in the journal up to which MLflow has everything
refused.jsonl      what MLflow will never take, with the reason
target.json        where the study goes; no credentials
writer, shipper    locks: the system releases them when their holder dies, however it dies
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from ..envs.errors import StoreError
from ..envs.plain_files import read_json, read_plain
from . import journal
from .file_copy import copy_file

JOURNAL_VARIABLE = "METATUNER_JOURNAL"
DEFAULT_JOURNAL = ".metatuner/journal"

_KEY = re.compile(r"[0-9a-f]{32}")
_COPY = re.compile(r"files/[0-9a-f]{32}")
_LONGEST_NUMBER = 20


def journal_root(folder: str | Path | None = None) -> Path:
    """Where journals lie: the argument, else `METATUNER_JOURNAL`, else `.metatuner/journal` in the current folder."""
    return Path(folder or os.environ.get(JOURNAL_VARIABLE) or DEFAULT_JOURNAL).absolute()


def run_of(key: str) -> str:
    """The key of the run of a study with this key, which may hold anything."""
    return hashlib.sha256(key.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a study goes.

    Attributes:
        study: The key of its run.
        tracking_uri: The store, without credentials.
        experiment: The experiment's name.
        plots: Whether to draw.
    """

    study: str
    tracking_uri: str
    experiment: str
    plots: bool = True


class StudyFolder:
    """One study's folder.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records = path / "records.journal"
        self._acknowledged = path / "acknowledged"
        self._refused = path / "refused.jsonl"

    @classmethod
    def open(
        cls, root: Path, tracking_uri: str, experiment: str, key: str = "", *, plots: bool = True, place: int = 0
    ) -> StudyFolder:
        """The folder of a study, made unless it exists.

        Args:
            root: Where journals lie.
            tracking_uri: The store, without credentials.
            experiment: The experiment's name.
            key: The study's identity; empty makes one up.
            plots: Whether to draw.
            place: Which of the folders of this study: processes that record it at the same time have one each.

        Raises:
            StoreError: The folder cannot be made or written.
        """
        key = key or uuid.uuid4().hex
        study = run_of(key)
        parts = [tracking_uri, experiment, key, *([str(place)] if place else [])]
        folder = cls(root / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32])
        with folder.needed():
            folder.path.mkdir(parents=True, exist_ok=True)
            if not (folder.path / "target.json").exists():
                target = Target(study, tracking_uri, experiment, plots)
                _replace(folder.path / "target.json", json.dumps(asdict(target), indent=1))
        return folder

    @classmethod
    def all(cls, root: Path) -> list[StudyFolder]:
        """The studies that wait in a journal folder, oldest first."""
        found = [path.parent for path in root.glob("*/target.json")]
        return [cls(path) for path in sorted(found, key=lambda path: (path / "target.json").stat().st_mtime)]

    @contextlib.contextmanager
    def needed(self) -> Iterator[None]:
        """For what makes no sense where the folder cannot be written.

        Raises:
            StoreError: That is so.
        """
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the journal {self.path.parent} cannot be written ({error.strerror or error}): expected a folder on a "
                f"disk with room; free some, or name another folder with journal=... or {JOURNAL_VARIABLE}"
            ) from error

    @property
    def target(self) -> Target:
        """Where the study goes.

        Raises:
            StoreError: The file that says so is damaged.
        """
        path = self.path / "target.json"
        try:
            target = Target(**read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"{path} does not say where the study goes ({error}): restore or delete it") from error
        texts = (target.study, target.tracking_uri, target.experiment)
        if not all(isinstance(each, str) for each in texts) or not _KEY.fullmatch(target.study):
            raise StoreError(f"{path} does not say where the study goes, got {texts!r}: restore or delete it")
        return target

    @property
    def acknowledged(self) -> int:
        """The offset in the journal up to which MLflow has everything."""
        try:
            told = int(read_plain(self._acknowledged, _LONGEST_NUMBER))
            return told if 0 <= told <= self.records.stat().st_size else 0
        except (OSError, ValueError):
            return 0  # sending again what MLflow has changes nothing

    def acknowledge(self, end: int) -> None:
        """MLflow has everything up to this offset."""
        _replace(self._acknowledged, str(end))

    @property
    def remaining(self) -> int:
        """How many records are still to be sent."""
        return sum(1 for _ in journal.read(self.records, self.acknowledged))

    @property
    def refused(self) -> int:
        """How many pieces MLflow will never take."""
        try:
            with self._refused.open("rb") as file:
                return sum(1 for _ in file)
        except (FileNotFoundError, IsADirectoryError):
            return 0

    def refuse(self, what: dict[str, object]) -> None:
        """Keeps what MLflow will never take.

        Raises:
            OSError: It cannot be written; nothing of it is.
        """
        with self._refused.open("ab", buffering=0) as file:
            whole = file.tell()
            line = json.dumps({**what}, default=str).encode() + b"\n"
            if file.write(line) < len(line):
                file.truncate(whole)  # or the next line would begin behind half of this one
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._refused))

    def keep_file(self, source: str) -> str:
        """Copies a file into the folder, so that it may change or go; returns the copy's name.

        Raises:
            OSError: It cannot be read.
            NotCopiedError: The folder's disk has no room for it, or cannot be written.
        """
        name = f"files/{uuid.uuid4().hex}"
        copy_file(source, self.path / name)
        return name

    def keeps(self, name: str) -> bool:
        """Whether this is the name of a copy that `keep_file` may have made: it leads nowhere else."""
        return _COPY.fullmatch(name) is not None

    def kept_file(self, name: str) -> Path:
        """A copy that `keep_file` made."""
        return self.path / "files" / Path(name).name

    @contextlib.contextmanager
    def lock(self, role: str) -> Iterator[bool]:
        """Holds the lock "writer" or "shipper"; gives False where another process holds it."""
        descriptor = os.open(self.path / role, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Deletes the folder: MLflow has everything."""
        shutil.rmtree(self.path, ignore_errors=True)


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
