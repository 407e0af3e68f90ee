"""A MySQL server of one's own in a temporary folder, on loopback only: MariaDB, Debian's package `mariadb-server`."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

from server import Server

_PATIENCE_S = 60.0


class MySQL(Server):
    """A server, from `with` to the end of it, and its data with it."""

    def __init__(self) -> None:
        if shutil.which("mariadbd") is None:
            raise SystemExit("expected MariaDB's server: apt-get install -y mariadb-server")
        super().__init__("mysql")

    def restart(self, *, crash: bool) -> None:
        """Restarts the server: connections are dropped; after a crash it recovers."""
        if crash:
            self._process.kill()
        else:
            self._process.terminate()
        self._process.wait()
        self._start()

    def _begin(self) -> None:
        self._run(
            *("mariadb-install-db", "--no-defaults", f"--datadir={self.folder / 'data'}", "--skip-test-db"),
            *("--auth-root-authentication-method=normal", f"--tmpdir={self.folder}"),
        )
        self._start()

    def _start(self) -> None:
        path = os.environ.get("PATH", os.defpath) + ":/usr/sbin"
        command = [
            *("mariadbd", "--no-defaults", f"--datadir={self.folder / 'data'}", f"--port={self.port}"),
            *("--bind-address=127.0.0.1", f"--socket={self.folder / 'socket'}", f"--tmpdir={self.folder}"),
            *(f"--pid-file={self.folder / 'pid'}", f"--log-error={self.folder / 'log'}", "--max-connections=200"),
        ]
        self._process = subprocess.Popen(command, cwd="/", env={**os.environ, "PATH": path}, **self.as_other)
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._ask("SELECT 1")
                return
            except subprocess.CalledProcessError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((self.folder / "log").read_text()[-2000:]) from None
                time.sleep(0.1)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _make(self, database: str) -> str:
        self._ask(f"CREATE DATABASE {database}")
        return f"mysql://root@127.0.0.1:{self.port}/{database}"

    def _ask(self, statement: str) -> None:
        command = ["mariadb", "--no-defaults", f"--socket={self.folder / 'socket'}", "-u", "root", "-e", statement]
        subprocess.run(command, check=True, capture_output=True, cwd="/")
