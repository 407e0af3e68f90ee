"""What an objective answers, made plain: its value as a number, or in words why it is none; what it raised, in words.

Nothing heavy is imported here: `agent.child_main` needs it too.
"""

from __future__ import annotations

import math
from typing import Any

_LONGEST_VALUE, _LONGEST_MESSAGE = 200, 2_000


def as_number(found: Any) -> float | str:
    """The number that an objective gave, or in words why it is none.

    Numbers of other libraries are numbers, and so are arrays of one element. Booleans, texts and complex numbers are
    none, even where Python would make one of them.
    """
    try:
        plain = found.item() if hasattr(found, "item") else found
        if isinstance(plain, bool | str | bytes | bytearray | complex):
            return _no_number(found)
        value = float(plain)
    except OverflowError:
        return f"the objective gave a number that is too large for a float ({type(found).__name__})"
    except Exception:  # whatever those libraries raise
        return _no_number(found)
    if math.isnan(value):
        return "the objective gave NaN: expected a number; look for what made it so"
    return value


def error_text(error: BaseException) -> str:
    """What was raised, with its type, as a text that can be written anywhere."""
    try:
        text = str(error)
    except Exception as another:
        text = f"(no text: its __str__ raised {type(another).__name__})"
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return _cut(text.encode("utf-8", "backslashreplace").decode(), _LONGEST_MESSAGE)


def _no_number(found: object) -> str:
    try:
        shown = _cut(repr(found).encode("utf-8", "backslashreplace").decode(), _LONGEST_VALUE)
    except Exception:
        shown = "something without a text"
    return f"the objective gave {shown} ({type(found).__name__}): expected a number"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}..."
