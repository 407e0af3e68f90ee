"""Keeps credentials out of everything that is shown."""

from __future__ import annotations

import base64
import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

_LONGEST = 240
# Greedy up to the last @: a password may itself hold an @ or a slash.
_USERINFO = re.compile(r"(?<=://)(?<!sqlite://)[^\s'\"]*@")
_NO_SCHEME = re.compile(r"(?<![\w/:.@-])[^\s'\"/@:]+:(?!/|\w+:/)[^\s'\"@]+@(?=[\w.-]+:\d)")
_SECRET_QUERY = re.compile(
    r"(?i)([?&][^=&\s]*(?:password|passwd|pwd|token|secret|key|odbc_connect)[^=&\s]*=)[^&\s'\"]*"
)


def without_credentials(text: str) -> str:
    """Replace user names, passwords and secret query values of every URI in the text by `***`."""
    return _NO_SCHEME.sub("***@", _SECRET_QUERY.sub(r"\1***", _USERINFO.sub("***@", text)))


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
    for secret in sorted(_secrets(hide) | _of_environment(), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def without_userinfo(uri: str) -> str:
    """The URI with no user name and password at all, for a browser or a command line."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _of_environment() -> set[str]:
    """What MLflow's client sends along, which a server may quote."""
    user, password, token = (
        os.environ.get(f"MLFLOW_TRACKING_{name}", "") for name in ("USERNAME", "PASSWORD", "TOKEN")
    )
    both = base64.b64encode(f"{user}:{password}".encode()).decode() if password else ""
    return {secret for secret in (password, token, both) if secret}


def _secrets(uri: str) -> set[str]:
    userinfo = _USERINFO.search(uri)
    if userinfo is None:
        return set()
    password = userinfo.group().removesuffix("@").partition(":")[2]
    return {secret for secret in (password, unquote(password)) if secret}
