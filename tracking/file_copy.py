"""Copies a file, and tells whose fault a failure is: one cannot go on without the source, but without the copy."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_CHUNK = 1 << 20


class NotCopiedError(Exception):
    """The place of the copy does not take it: its disk is full, or cannot be written."""


def copy_file(source: str | Path, to: Path) -> None:
    """Copies a file to where there is none; a failure leaves nothing there.

    Raises:
        OSError: The source cannot be read.
        NotCopiedError: The copy cannot be written.
    """
    with Path(source).open("rb", buffering=0) as readable, _removed_after_failure(to):
        with _fault_of_the_copy():
            to.parent.mkdir(exist_ok=True)
            copy = os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while chunk := readable.read(_CHUNK):
                with _fault_of_the_copy():
                    _write(copy, chunk)
            with _fault_of_the_copy():
                os.fsync(copy)  # or a power cut leaves a record of an empty file
        finally:
            with _fault_of_the_copy():
                os.close(copy)  # a network's disk may say only now that it is full


def _write(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


@contextlib.contextmanager
def _fault_of_the_copy() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise NotCopiedError(error.strerror or str(error)) from error


@contextlib.contextmanager
def _removed_after_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise
