"""Ctrl-C at a moment when nothing is half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """While it is entered, Ctrl-C interrupts what runs `within`, and waits everywhere else.

    A study's storage may be in the middle of writing, and then an exception out of nowhere does harm. A second Ctrl-C
    does not wait. In threads other than the main one, and where somebody has taken the signal over, nothing changes.

    Attributes:
        pending: Whether there was a Ctrl-C that still waits.
    """

    def __init__(self) -> None:
        self.pending = False
        self._within = 0

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """What may be interrupted, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.raise_pending()
        self._within += 1
        try:
            yield
        finally:
            self._within -= 1

    def raise_pending(self) -> None:
        """Now is the time.

        Raises:
            KeyboardInterrupt: There was a Ctrl-C.
        """
        if self.pending:
            self.pending = False
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def taken_over(self) -> Iterator[None]:
        """Ctrl-C is heard here; one that has waited until the end is raised then."""
        before = signal.getsignal(signal.SIGINT)
        ours = threading.current_thread() is threading.main_thread() and before is signal.default_int_handler
        if ours:
            signal.signal(signal.SIGINT, self._heard)
        try:
            yield
        finally:
            if ours:
                signal.signal(signal.SIGINT, before)
        self.raise_pending()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._within or self.pending:
            self.pending = False
            raise KeyboardInterrupt
        self.pending = True
