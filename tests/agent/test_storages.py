"""Studies that lie behind servers: Optuna's gRPC proxy, PostgreSQL and MySQL where they are installed."""

from __future__ import annotations

import gc
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from metatuner.agent.patient_storage import is_away
from metatuner.agent.storages import open_storage
from metatuner.agent.tune import tune
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution
from optuna.study import Study

PROXY = """
import sys, warnings
import optuna
warnings.simplefilter("ignore")
optuna.storages.run_grpc_proxy_server(
    optuna.storages.get_storage(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2])
)
"""
MARIADB = Path("/usr/sbin/mariadbd")
HAS_MYSQL = MARIADB.exists() and importlib.util.find_spec("pymysql") is not None
POSTGRESQL = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Proxy:
    """Optuna's gRPC proxy in front of a database file."""

    def __init__(self, folder: Path) -> None:
        self._command = [sys.executable, "-c", PROXY, f"sqlite:///{folder / 'study.db'}", str(port := free_port())]
        self.address = f"grpc://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class PostgreSQL:
    """A server of one's own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._as_other: dict[str, Any] = {}
        if os.getuid() == 0:
            self._as_other = {"user": "postgres", "group": "postgres"}
            for each in (folder, *list(folder.parents)[:3]):
                each.chmod(0o755)
            shutil.chown(folder, "postgres")
        self._run("initdb", "-D", folder / "data", "-A", "trust", "-E", "UTF8", "-U", "postgres")
        self._control("start")
        self.address = f"postgresql://postgres@127.0.0.1:{self._port}/postgres"

    def restart(self) -> None:
        self._control("restart", "-m", "immediate")

    def stop(self) -> None:
        self._control("stop", "-m", "immediate")

    def _control(self, *what: object) -> None:
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -k {self._folder}"
        self._run("pg_ctl", "-D", self._folder / "data", "-l", self._folder / "log", "-w", "-o", options, *what)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(POSTGRESQL[-1].parent / program), *map(str, arguments)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as_other)


class MySQL:
    """A server of one's own: MariaDB."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._as_other: dict[str, Any] = {}
        if os.getuid() == 0:
            self._as_other = {"user": "mysql", "group": "mysql"}
            for each in (folder, *list(folder.parents)[:3]):
                each.chmod(0o755)
            shutil.chown(folder, "mysql")
        self._places = ["--no-defaults", f"--datadir={folder / 'data'}", f"--tmpdir={folder}"]
        command = ["mariadb-install-db", *self._places, "--auth-root-authentication-method=normal", "--skip-test-db"]
        subprocess.run(command, check=True, capture_output=True, cwd="/", **self._as_other)
        self._start()
        self._ask("CREATE DATABASE studies CHARACTER SET latin1 COLLATE latin1_swedish_ci")
        self.address = f"mysql://root@127.0.0.1:{self._port}/studies"

    def restart(self) -> None:
        self.stop()
        self._start()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        own = [f"--port={self._port}", "--bind-address=127.0.0.1", f"--socket={self._folder / 'socket'}"]
        own += [f"--log-error={self._folder / 'log'}", f"--pid-file={self._folder / 'pid'}"]
        self._process = subprocess.Popen(
            [str(MARIADB), *self._places, *own], cwd="/", stderr=subprocess.DEVNULL, **self._as_other
        )
        while not self._ask("SELECT 1"):
            assert self._process.poll() is None
            time.sleep(0.05)

    def _ask(self, statement: str) -> bool:
        command = ["mariadb", "--no-defaults", f"--socket={self._folder / 'socket'}", "-u", "root", "-e", statement]
        return subprocess.run(command, check=False, capture_output=True, cwd="/").returncode == 0


Server = Proxy | PostgreSQL | MySQL


@pytest.fixture(
    params=[
        Proxy,
        pytest.param(PostgreSQL, marks=pytest.mark.skipif(not POSTGRESQL, reason="needs the server of PostgreSQL")),
        pytest.param(MySQL, marks=pytest.mark.skipif(not HAS_MYSQL, reason="needs the server of MariaDB, and pymysql")),
    ]
)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    make: Callable[[Path], Server] = request.param
    found = make(tmp_path)
    yield found
    found.stop()
    gc.collect()  # while its warnings are ignored


# SQLAlchemy's pool of connections lasts as long as the storage, and closes none.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_server_that_restarts_in_the_middle_costs_no_trial(server: Server) -> None:
    calls: list[float] = []

    def objective(config: dict[str, Any]) -> float:
        calls.append(config["x"])
        if len(calls) == 4:
            server.restart()
        return float(config["x"])

    space = {"x": FloatDistribution(0.0, 1.0), "X": FloatDistribution(2.0, 3.0), "ü🙂": FloatDistribution(4.0, 5.0)}
    options: dict[str, Any] = {"strategy": "random", "storage": server.address, "name": "study"}
    result = tune(objective, space, 8, recorder=NullRecorder(), **options)
    assert len(calls) == len(set(calls)) == 8
    assert [trial.state.name for trial in result.trials] == ["COMPLETE"] * 8
    server.stop()
    later = threading.Timer(0.5, server.restart)
    later.start()  # so that whoever opens the study finds nobody at first
    assert [trial.value for trial in study_at(server).trials] == calls
    later.join()
    assert all(trial.params.keys() == space.keys() for trial in result.trials)  # which MySQL's usual tables confuse


def study_at(server: Server) -> Study:
    deadline = time.monotonic() + 30
    while True:
        try:
            return optuna.load_study(study_name="study", storage=open_storage(server.address))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_what_a_driver_says_of_a_server_that_stops_is_waited_for() -> None:
    """It arrives as SQLAlchemy's error or bare, and of a kind of its own."""
    errors = pytest.importorskip("psycopg").errors
    assert is_away(errors.AdminShutdown("terminating connection due to administrator command"))
    assert not is_away(errors.UniqueViolation("duplicate key"))
