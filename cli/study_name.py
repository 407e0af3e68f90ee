"""The name of a study, and of the file or folder that is named after it."""

from __future__ import annotations

import argparse
import hashlib
from urllib.parse import quote

_LONGEST = 120
"""Letters of a file's name, once those are quoted that it cannot have: systems take 255, and locks add theirs."""


def study_name(args: argparse.Namespace) -> str:
    """The name that is given, or the function's.

    Raises:
        ConfigurationError: It is empty, as where a variable of the shell has no value.
    """
    from ..envs.errors import ConfigurationError

    if args.name is not None and not args.name.strip():
        raise ConfigurationError(f"expected a name with --name, got {args.name!r}: leave the option out, or name it")
    return str(args.name or args.objective.rpartition(":")[2])


def file_name(study: str) -> str:
    """A study's name as a file's: where that is too long, its beginning and what tells it from others."""
    quoted = quote(study, safe=" ")
    if len(quoted) <= _LONGEST:
        return quoted
    return f"{quoted[:_LONGEST]}-{hashlib.sha256(study.encode()).hexdigest()[:12]}"
