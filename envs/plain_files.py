"""Files that others wrote, read without trusting them: regular ones, of so many bytes at most, JSON of any shape."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

MOST_JSON = 2**24
"""Bytes of a JSON file; the largest that metatuner writes have some thousands."""


def read_plain(path: Path, most: int) -> bytes:
    """A file's content.

    Args:
        path: The file. A link counts as what it leads to.
        most: Bytes that it may have.

    Raises:
        OSError: It cannot be read, or is a folder, a pipe or a device, which might never end.
        ValueError: It is larger.
    """
    require_regular(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it has {size:,} bytes, expected at most {most:,}")
        return file.read(most)


def require_regular(path: Path) -> None:
    """Refuses what is no regular file.

    Raises:
        OSError: It is none, or is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "no regular file", str(path))


def read_json(path: Path) -> Any:
    """A JSON file's content, of any shape.

    Raises:
        OSError: It cannot be read, or is no regular file.
        ValueError: It is larger than `MOST_JSON`, no JSON, no UTF-8, or has half of a character in it, which could not
            be written anywhere.
    """
    value = json_of(read_plain(path, MOST_JSON).decode("utf-8"))
    json.dumps(value, ensure_ascii=False).encode()
    return value


def json_of(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: It is none, or nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
