"""Where a verb's report goes."""

from __future__ import annotations

import re
from pathlib import Path

_LONGEST_NAME = 80


def report_file(path: str) -> Path:
    """The file for a report; known to be a place for one before anything takes long.

    Args:
        path: What `--output` says, or a `report_name`.

    Raises:
        ConfigurationError: A folder is in the file's place, or there is none for it.
    """
    from ..envs.errors import ConfigurationError

    file = Path(path)
    if file.is_dir() or not file.parent.is_dir():
        raise ConfigurationError(f"expected --output to be a file in a folder that exists, got {path!r}")
    return file


def write_report(file: Path, text: str) -> None:
    """Writes a report.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    from ..envs.errors import ConfigurationError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the report cannot be written to {file} ({error.strerror}): name another file with --output"
        ) from error


def report_name(verb: str, study: str) -> str:
    """The name of a verb's report of a study, as every file system takes it."""
    plain = re.sub(r"[^\w.-]+", "-", study).strip("-.")[:_LONGEST_NAME]
    return f"{verb}-{plain or 'study'}.html"
