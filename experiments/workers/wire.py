"""A wire to a server that may be cut, may stall, and may be slow."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections import deque


class Wire:
    """Takes connections on a port of loopback and hands what they send to another one, and back.

    Args:
        port: The port that it leads to.

    Attributes:
        port: Its own.
        delay_s: How long everything takes, each way.
    """

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self._to, self._silent_until_s = port, 0.0
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._on_its_way: deque[tuple[float, socket.socket, bytes]] = deque()
        self._cut, self._over = threading.Event(), threading.Event()
        self._entrance = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._entrance.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Ends all connections at once; new ones are taken."""
        self._cut.set()

    def stall(self, seconds: float) -> None:
        """For so long nothing passes, and nobody is told."""
        self._silent_until_s = time.monotonic() + seconds

    def close(self) -> None:
        """Ends it."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector, self._entrance:
            selector.register(self._entrance, selectors.EVENT_READ)
            while not self._over.is_set():
                if self._cut.is_set():
                    self._cut.clear()
                    for each in list(self._pairs):
                        self._end(each, selector)
                if time.monotonic() < self._silent_until_s:
                    time.sleep(0.01)
                    continue
                for key, _ in selector.select(0.002 if self._on_its_way else 0.02):
                    assert isinstance(key.fileobj, socket.socket)
                    if key.fileobj is self._entrance:
                        self._take(selector)
                    elif key.fileobj in self._pairs:
                        self._read(key.fileobj, selector)
                self._deliver(selector)
            for each in list(self._pairs):
                self._end(each, selector)

    def _take(self, selector: selectors.BaseSelector) -> None:
        near, _ = self._entrance.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._to), timeout=5)
        except OSError:
            near.close()
            return
        for one, other in ((near, far), (far, near)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._pairs[one] = other
            selector.register(one, selectors.EVENT_READ)

    def _read(self, one: socket.socket, selector: selectors.BaseSelector) -> None:
        try:
            data = one.recv(65536)
        except OSError:
            data = b""
        if data:
            self._on_its_way.append((time.monotonic() + self.delay_s, self._pairs[one], data))
        else:
            self._deliver(selector, everything=True)
            self._end(one, selector)

    def _deliver(self, selector: selectors.BaseSelector, *, everything: bool = False) -> None:
        while self._on_its_way and (everything or self._on_its_way[0][0] <= time.monotonic()):
            _, other, data = self._on_its_way.popleft()
            if other in self._pairs:
                try:
                    other.sendall(data)
                except OSError:
                    self._end(other, selector)

    def _end(self, one: socket.socket, selector: selectors.BaseSelector) -> None:
        for each in (one, self._pairs.get(one)):
            if each is not None and self._pairs.pop(each, None) is not None:
                with contextlib.suppress(KeyError, ValueError):
                    selector.unregister(each)
                each.close()
