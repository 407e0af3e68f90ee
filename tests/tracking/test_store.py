from __future__ import annotations

import base64
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from metatuner.envs.errors import StoreError
from metatuner.envs.records import StudyStarted
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.redaction import one_line, without_credentials
from metatuner.tracking.sqlite_file import ensure_database
from metatuner.tracking.store import Kind, Origin, resolve

EIGHT = """
import os, sys, traceback
from metatuner.envs.records import TrialStarted
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.switches import set_switches
set_switches()
import mlflow, mlflow.store.tracking.sqlalchemy_store  # once for all: it is what takes a process most of its time

def record():
    try:
        with MLflowRecorder(sys.argv[1], "together") as recorder:
            recorder.record(TrialStarted(trial=0, name="only"))
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

starting, start = os.pipe()
processes = []
for _ in range(8):
    if not (process := os.fork()):
        os.close(start)
        os.read(starting, 1)  # until all are there
        os._exit(record())
    processes.append(process)
os.close(start)
print(*(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes))
"""
CREATE = "import sys, pathlib; from metatuner.tracking.sqlite_file import ensure_database as e; " + (
    "p = pathlib.Path(sys.argv[1]); e(p, p.parent / 'mlartifacts')"
)


def test_the_default_is_what_a_plain_mlflow_ui_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = resolve()
    assert (store.uri, store.origin, store.kind) == (f"sqlite:///{tmp_path}/mlflow.db", Origin.DEFAULT, Kind.FILE)
    assert store.artifacts == tmp_path / "mlartifacts"


def test_the_argument_goes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/")
    assert resolve().uri == "http://127.0.0.1:5000"
    assert resolve().origin is Origin.ENVIRONMENT
    assert resolve(f"sqlite:///{tmp_path}/a.db").database == tmp_path / "a.db"


def test_a_database_server_is_spoken_to_by_what_is_installed() -> None:
    assert resolve("mysql://me@host/db").opened_as == "mysql+pymysql://me@host/db"
    assert resolve("mysql+pymysql://me@host/db").opened_as == "mysql+pymysql://me@host/db"
    assert resolve("mysql://host/db").shown == "mysql://host/db"


def test_relative_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("sqlite:///runs/a.db").uri == f"sqlite:///{tmp_path}/runs/a.db"
    assert resolve("sqlite:///runs/a.db").artifacts == tmp_path / "runs" / "mlartifacts"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("mlruns", "sqlite:///mlruns/mlflow.db"),
        ("runs.db", "sqlite:///runs.db"),
        ("file:///data/runs", "sqlite:////data/runs/mlflow.db"),
        ("", "sqlite:///./mlflow.db"),
        ("sqlite://runs.db", "three slashes"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///", "in memory"),
        ("http://", "names no host"),
        ("https://host:port", "names no host"),
    ],
)
def test_a_wrong_uri_is_one_clear_line(uri: str, says: str) -> None:
    with pytest.raises(StoreError) as caught:
        resolve(uri)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://me:s3cret@host/db", "postgresql://***@host/db"),
        ("http://me:p@ss@host:5000/path", "http://***@host:5000/path"),
        ("mysql+pymysql://host/db?user=me&password=s3cret&x=1", "mysql+pymysql://host/db?user=me&password=***&x=1"),
        ("sqlite:////a@b/mlflow.db", "sqlite:////a@b/mlflow.db"),
    ],
)
def test_credentials_are_never_shown(uri: str, shown: str) -> None:
    assert resolve(uri).shown == shown
    assert "s3cret" not in one_line(RuntimeError(f"cannot reach {uri}: s3cret"), hide="x://me:s3cret@host")
    assert without_credentials(shown) == shown


def test_an_unreachable_server_is_one_clear_line_and_the_password_is_nowhere(
    journal: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MLflowRecorder("http://me:s3cret@127.0.0.1:9") as recorder:
        assert "no MLflow server answers at http://***@127.0.0.1:9" in caplog.text
        recorder.record(StudyStarted(name="study"))
    assert "are still to be sent" in caplog.text
    assert "s3cret" not in caplog.text
    assert not [line for line in caplog.messages if "\n" in line]
    kept = [path.read_bytes() for path in journal.rglob("*") if path.is_file()]
    assert kept
    assert not [data for data in kept if b"s3cret" in data]


@pytest.mark.parametrize("name", ["runs", "fünf % 5 @ #1"])
def test_a_new_store_is_made_in_any_folder(tmp_path: Path, name: str) -> None:
    from mlflow import MlflowClient

    folder = tmp_path / name
    with MLflowRecorder(f"sqlite:///{folder}/mlflow.db", "e") as recorder:
        from metatuner.envs.records import Artifact

        recorder.record(Artifact(trial=None, path="note.txt", text="kept"))
    connection = sqlite3.connect(folder / "mlflow.db")
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    assert next((folder / "mlartifacts").rglob("note.txt")).read_text() == "kept"
    assert MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(recorder.run_id).info.status == "FINISHED"
    assert {path.name for path in folder.iterdir()} <= {
        "mlflow.db", "mlflow.db.lock", "mlflow.db-wal", "mlflow.db-shm", "mlartifacts"
    }  # fmt: skip


def check_runs_of(uri: str, processes: int) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("together").experiment_id])
    assert len(runs) == 2 * processes
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_eight_processes_may_make_one_store(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    answer = subprocess.run([sys.executable, "-c", EIGHT, uri], capture_output=True, text=True, timeout=300)
    assert answer.stdout.split() == ["0"] * 8, answer.stderr
    check_runs_of(uri, 8)


def holder_of(lock: Path) -> int | None:
    """The process that holds a lock, as the system tells."""
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        _, kind, _, _, process, place, *_ = line.replace("->", "").split()
        if kind == "FLOCK" and int(place.split(":")[2]) == inode:
            return int(process)
    return None


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="looks at /proc")
def test_whoever_of_eight_makes_it_may_be_killed(tmp_path: Path) -> None:
    uri, lock = f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "mlflow.db.lock"
    with subprocess.Popen([sys.executable, "-c", EIGHT, uri], stdout=subprocess.PIPE, text=True) as program:
        killed: set[int] = set()
        while len(killed) < 3:
            assert program.poll() is None
            maker = holder_of(lock) if lock.exists() else None
            if maker is not None and maker not in killed:
                time.sleep(0.05 * len(killed))  # at once, and when it is at work
                os.kill(maker, signal.SIGKILL)
                killed.add(maker)
        assert program.stdout is not None
        assert sorted(program.stdout.read().split()) == ["-9"] * 3 + ["0"] * 5
    check_runs_of(uri, 5)


@pytest.mark.parametrize("delay", [0.0, None])
def test_a_kill_in_the_making_leaves_nothing_broken(tmp_path: Path, delay: float | None) -> None:
    """Killed while it makes the store: at once, somewhat later, or when the half-made file is there."""
    database, lock, half_made = (tmp_path / f"mlflow.db{suffix}" for suffix in ("", ".lock", ".new"))
    with subprocess.Popen([sys.executable, "-c", CREATE, str(database)]) as maker:
        while not (half_made if delay is None else lock).exists():
            assert maker.poll() is None
            time.sleep(0.0005)
        time.sleep(delay or 0)
        os.kill(maker.pid, signal.SIGKILL)
    # Whether or not the kill came in time: the database is whole or not there, and the next one makes it.
    assert not (database.exists() and half_made.exists())
    ensure_database(database, tmp_path / "mlartifacts")
    connection = sqlite3.connect(database)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT name FROM experiments").fetchall() == [("Default",)]
    connection.close()
    assert not half_made.exists()


def test_what_a_killed_maker_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db.new").write_bytes(b"half a database")
    (tmp_path / "mlflow.db.new-journal").write_bytes(b"half a journal")
    ensure_database(tmp_path / "mlflow.db", tmp_path / "mlartifacts")
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("my diary")
    with pytest.raises(StoreError, match="file of another kind"):
        MLflowRecorder(f"sqlite:///{tmp_path}/mlflow.db")
    assert (tmp_path / "mlflow.db").read_text() == "my diary"


LOOK_AND_LEAVE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("UPDATE experiments SET name = name")
connection.commit()
connection.close()  # who closes a database last, removes its write-ahead log
"""


def test_opening_a_store_again_keeps_the_locks_of_its_open_connections(uri: str, tmp_path: Path) -> None:
    """Else another process would remove the write-ahead log under them, and what they write would be lost."""
    with MLflowRecorder(uri, "first") as first:
        first.record(StudyStarted(name="study"))
        assert first.flush()
        with MLflowRecorder(uri, "second"):
            subprocess.run([sys.executable, "-c", LOOK_AND_LEAVE, str(tmp_path / "mlflow.db")], check=True, timeout=60)
            assert (tmp_path / "mlflow.db-wal").exists()


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="got a folder"):
        MLflowRecorder(f"sqlite:///{tmp_path}")


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be used"):
        MLflowRecorder(f"sqlite:///{tmp_path}/file/mlflow.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be used"):
        MLflowRecorder(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_corrupted_database_is_one_clear_line(
    tmp_path: Path, empty_database: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "mlflow.db"
    shutil.copy(empty_database, damaged)
    with damaged.open("r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 50_000)
    with pytest.raises(StoreError) as caught:
        MLflowRecorder(f"sqlite:///{damaged}")
    assert str(damaged) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err


def test_a_store_of_another_mlflow_version_says_what_to_do(tmp_path: Path, empty_database: Path) -> None:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with sqlite3.connect(tmp_path / "mlflow.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'abc'")
    connection.close()
    with pytest.raises(StoreError, match="mlflow db upgrade"):
        MLflowRecorder(f"sqlite:///{tmp_path}/mlflow.db")


def test_a_deleted_experiment_says_what_to_do(uri: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(StoreError, match="mlflow experiments restore"):
        MLflowRecorder(uri, "gone")


@pytest.mark.parametrize(
    "address",
    [
        "http://user:se/cret@127.0.0.1:9",
        "postgresql://user:se/cret@127.0.0.1:1/db",
        "mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BUID%3Dsa%3BPWD%3Dse/cret",
        "user:se/cret@127.0.0.1:9",
        "user:cret@127.0.0.1:9",
    ],
)
def test_passwords_of_any_kind_are_hidden(address: str) -> None:
    assert "cret" not in without_credentials(f"expected another, got {address!r}: {address} is none")


def test_what_the_environment_opens_doors_with_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "opens")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-1")
    both = base64.b64encode(b"ann:opens").decode()
    assert one_line(ValueError(f"Bearer tok-1, Basic {both}, opens")) == "ValueError: Bearer ***, Basic ***, ***"
