"""A PostgreSQL server of one's own in a temporary folder, on loopback only; Debian's package `postgresql` has it."""

from __future__ import annotations

from pathlib import Path

from server import Server


class Postgres(Server):
    """A server, from `with` to the end of it, and its data with it."""

    def __init__(self) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        if not programs:
            raise SystemExit("expected PostgreSQL's server: apt-get install -y postgresql")
        self._bin = programs[-1].parent
        super().__init__("postgres")

    def restart(self, *, crash: bool) -> None:
        """Restarts the server: connections are dropped; after a crash it recovers."""
        self._control("restart", "-m", "immediate" if crash else "fast")

    def _begin(self) -> None:
        self._run(self._bin / "initdb", "-D", self._data, "-A", "trust", "-E", "UTF8", "-U", "postgres")
        self._control("start")

    def _end(self) -> None:
        self._control("stop", "-m", "immediate")

    def _make(self, database: str) -> str:
        self._run(self._bin / "createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "postgres", database)
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _control(self, *what: object) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -c max_connections=200"
        self._run(self._bin / "pg_ctl", "-D", self._data, "-l", self.folder / "log", "-w", "-o", options, *what)
