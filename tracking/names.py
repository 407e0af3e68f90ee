"""Names and values that MLflow accepts, without losing the ones that people chose.

MLflow allows letters, digits and `/ _ . - : space` in a key, at most 250 of them, and only as a path in its plainest
form (no `a//b`, no `../a`). A character that is not allowed becomes `_x25_` (its code point in hexadecimal), so that
`original_name` finds it back and two names never become one. A name that is too long is cut and ends in a fingerprint.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

LONGEST_NAME = 200  # MLflow's limit is 250; tags that note the original name put a prefix before it
LONGEST_PARAM = 6_000
LONGEST_TAG = 8_000
NAME_TAG = "metatuner.name/"  # and the key: the name that was meant, where MLflow did not take it

_FORBIDDEN = re.compile(r"[^/\w.\- :]")
_ESCAPE = re.compile(r"_x([0-9a-f]*)_")
_ESCAPE_START = re.compile(r"_(?=x)")
_FINGERPRINT = 12
_LAST_POINT = 0x10FFFF  # Unicode's


def clean_name(name: str) -> str:
    """The key under which MLflow takes this name: the name itself wherever it is valid."""
    cleaned = name if _is_valid(name) else _escape_name(name)
    if len(cleaned) <= LONGEST_NAME:
        return cleaned
    fingerprint = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_FINGERPRINT]
    return f"{cleaned[: LONGEST_NAME - _FINGERPRINT - 1].rstrip('/')}-{fingerprint}"


def original_name(key: str) -> str:
    """The name that became this key, unless it was too long: then the run's tag `metatuner.name/KEY` holds it."""
    return _ESCAPE.sub(_original, key)


def _original(match: re.Match[str]) -> str:
    if not match.group(1):
        return ""
    point = int(match.group(1), 16)
    return chr(point) if point <= _LAST_POINT and not 0xD800 <= point <= 0xDFFF else match.group()


def meant_name(key: str, tags: Mapping[str, str]) -> str:
    """The name that was meant by a run's key, given the run's tags."""
    return tags.get(f"{NAME_TAG}{key}") or original_name(key)


def shorten(value: str, limit: int, whole_at: str = "") -> str:
    """Cut a value to a limit, and say so, and where all of it is."""
    if len(value) <= limit:
        return value
    notice = f" ... (cut from {len(value)} characters{f'; all of it: {whole_at}' if whole_at else ''})"
    return value[: limit - len(notice)] + notice


def _is_valid(name: str) -> bool:
    plain = not _FORBIDDEN.search(name) and not _ESCAPE.search(name)
    return plain and _clean_path(name) == name


def _escape_name(name: str) -> str:
    # Every "_x" of the name itself goes first: in the result, "_x" then always starts an escape.
    name = _ESCAPE_START.sub(_escape("_"), name)
    return _clean_path(_FORBIDDEN.sub(lambda match: _escape(match.group()), name))


def _clean_path(name: str) -> str:
    """Escape what would change when the key is read as a path: empty segments, `.`, `..`, and a leading `..name`."""
    return "/".join(_clean_segment(segment, first=i == 0) for i, segment in enumerate(name.split("/")))


def _clean_segment(segment: str, *, first: bool) -> str:
    if not segment:
        return "_x_"
    if segment in (".", "..") or (first and segment.startswith("..")):
        return _escape(".") + segment[1:]
    return segment


def _escape(character: str) -> str:
    return f"_x{ord(character):x}_"
