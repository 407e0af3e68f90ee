"""Keeps credentials out of everything that is shown."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit, urlunsplit

_LONGEST = 240
# Greedy up to the last @ before the path: a password may itself hold an @.
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|passwd|pwd|token|secret|key)[^=&\s]*=)[^&\s]*")


def without_credentials(text: str) -> str:
    """Replace user names, passwords and secret query values of every URI in the text by `***`."""
    return _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("***@", text))


def has_credentials(uri: str) -> bool:
    """Whether a URI holds anything that must not be shown."""
    return without_credentials(uri) != uri


def one_line(error: BaseException, *, hide: str = "") -> str:
    """The first line of an error, short, without credentials.

    Args:
        error: What was raised.
        hide: A URI whose password must not appear, even where the error quotes it on its own.
    """
    lines = str(error).strip().splitlines() or [""]
    text = without_credentials(f"{type(error).__name__}: {lines[0].strip()}".removesuffix(": "))
    for secret in _secrets(hide):
        text = text.replace(secret, "***")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def without_userinfo(uri: str) -> str:
    """The URI with no user name and password at all, for a browser or a command line."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _secrets(uri: str) -> set[str]:
    userinfo = _USERINFO.search(uri)
    if userinfo is None:
        return set()
    password = userinfo.group().removesuffix("@").partition(":")[2]
    return {secret for secret in (password, unquote(password)) if secret}
