"""How often something is done again."""

from __future__ import annotations


class Pace:
    """Allows something once in an interval.

    Args:
        seconds: The interval, by the times of records, so that the answer does not depend on who asks when.
    """

    def __init__(self, seconds: float) -> None:
        self._interval_ms = seconds * 1000
        self._last_ms: int | None = None

    def allows(self, time_ms: int) -> bool:
        """Whether it is due at this time; if so, the interval begins anew. A clock that was set back makes it due."""
        if self._last_ms is not None and 0 <= time_ms - self._last_ms < self._interval_ms:
            return False
        self._last_ms = time_ms
        return True
