"""Shows a store in a browser: MLflow's own server, in a process of its own, on this machine only unless asked."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import webbrowser
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import IO, Self

from ..envs.errors import StoreError
from .redaction import without_credentials, without_userinfo
from .store import Kind, Store, resolve
from .switches import SWITCHES

_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 5.0
_LOG_LINES = 3


class UiServer:
    """MLflow's server on a store. Use as a context manager: leaving the block stops it, with all its processes.

    For a store that is a server already there is nothing to run: `url` is its address.

    Args:
        tracking_uri: The store, as in `metatuner.tracking.store.resolve`.
        host: The address to listen on. The default is reachable from this machine only.
        port: The port; 0 takes a free one.

    Attributes:
        url: Where to look.

    Raises:
        StoreError: If the store cannot be used, the port is taken, or the server does not start.
    """

    def __init__(self, tracking_uri: str | None = None, host: str = "127.0.0.1", port: int = 5000) -> None:
        store = resolve(tracking_uri)
        self._process: subprocess.Popen[bytes] | None = None
        if store.kind is Kind.SERVER:
            self.url = without_userinfo(store.uri)
            return
        if store.kind is Kind.OTHER and "://" not in store.uri:
            raise StoreError(f"{store.shown} has a page of its own: open it there")
        store.prepare()
        port = _usable_port(host, port)
        self.url = f"http://{_browsable(host)}:{port}"
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the server
        self._process = _start(store, host, port, self._log)
        try:
            self._wait_until_healthy()
        except BaseException:
            self.stop()
            raise

    def wait(self) -> None:
        """Wait until the server ends by itself."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """Stop the server and everything that it started. Stopping twice is stopping once."""
        if self._process is None:
            return
        process, self._process = self._process, None
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_TIMEOUT_S)
        _signal_group(process, signal.SIGKILL)  # whoever of the group is left
        process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _wait_until_healthy(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _is_healthy(self.url):
            if self._process.poll() is not None:
                raise StoreError(f"the MLflow server ended while it started: {self._last_lines()}")
            if time.monotonic() > deadline:
                raise StoreError(f"the MLflow server did not answer at {self.url} in {_START_TIMEOUT_S:.0f} s")
            time.sleep(0.1)

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        return without_credentials(" / ".join([line.strip() for line in lines if line.strip()][-_LOG_LINES:]))


def serve(
    tracking_uri: str | None = None,
    host: str = "127.0.0.1",
    port: int = 5000,
    open_browser: bool = False,
    announce: Callable[[str], None] | None = None,
) -> str:
    """Show a store until Ctrl-C or SIGTERM. A store that is a server already is only announced.

    Args:
        tracking_uri: The store, as in `metatuner.tracking.store.resolve`.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        open_browser: Whether to open the page in a browser.
        announce: Called with the address as soon as it answers.

    Returns:
        The address at which it was.

    Raises:
        StoreError: If the store cannot be used, the port is taken, or the server does not start.
    """
    url = ""  # stays so if it is interrupted before it answers
    with (
        _terminated_like_interrupted(),
        contextlib.suppress(KeyboardInterrupt),
        UiServer(tracking_uri, host, port) as server,
    ):
        url = server.url
        if announce is not None:
            announce(url)
        if open_browser:
            webbrowser.open(url)
        server.wait()
    return url


def _start(store: Store, host: str, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    # The URI goes through the environment: a command line, with its password, is there for all users to read.
    environment = {**SWITCHES, **os.environ, "MLFLOW_BACKEND_STORE_URI": store.opened_as}
    # A page to look at needs no job queue, which would start several more processes.
    environment.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    if store.artifacts is not None:
        command += ["--artifacts-destination", str(store.artifacts)]
    # A session of its own: Ctrl-C reaches us alone, and what it starts can be stopped as one group.
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )


def _usable_port(host: str, port: int) -> int:
    """The port, or a free one for 0.

    Raises:
        StoreError: If it is taken or may not be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"cannot listen on {host} port {port} ({reason}): stop what uses it, or choose another with --port "
            "(0 takes a free one)"
        ) from None


def _browsable(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # everywhere is no address to go to
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _is_healthy(url: str) -> bool:
    # No proxy: it is this machine that is asked.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Make SIGTERM, and the end of the terminal, leave by the same way as Ctrl-C. Other threads leave signals alone."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    try:
        before = {each: signal.signal(each, interrupt) for each in ends}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
