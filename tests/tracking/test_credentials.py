"""A server that asks who is there: MLflow's own basic-auth, with credentials from MLflow's own variables."""

from __future__ import annotations

import base64
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from metatuner.__main__ import main
from metatuner.envs.records import Artifact, Metrics, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.history import read_history
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.switches import SWITCHES

CONFIG = """
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/basic_auth.db
admin_username = admin
auth_cache_ttl_seconds = 600
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


@dataclass(frozen=True)
class GuardedServer:
    """Where it is, what opens it, and the folder that holds all it knows."""

    url: str
    password: str
    folder: Path

    def leaks_into(self, folder: Path) -> list[Path]:
        """Files that hold the password, as it is or as HTTP writes it."""
        forms = [self.password.encode(), base64.b64encode(f"admin:{self.password}".encode())]
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert files
        return [path for path in files if any(form in path.read_bytes() for form in forms)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[GuardedServer]:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    (folder / "auth.ini").write_text(CONFIG.format(folder=folder))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    guarded = GuardedServer(f"http://127.0.0.1:{port}", secrets.token_hex(16), folder)
    environment = {
        **os.environ,
        **SWITCHES,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": guarded.password,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(guarded, process)
        yield guarded
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def wait_for(server: GuardedServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
        except OSError:
            assert process.poll() is None, (server.folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


@pytest.fixture
def log_in(server: GuardedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)


def record_study(recorder: MLflowRecorder) -> None:
    recorder.record(StudyStarted(name="study"))
    recorder.record(TrialStarted(trial=0, name="t", params={"lr": 0.1}))
    for step in range(5):
        recorder.record(Metrics(trial=0, step=step, values={"val/loss": 1 / (step + 1)}))
    recorder.record(Artifact(trial=0, path="note.txt", text="kept"))
    recorder.record(TrialFinished(trial=0))


def check_study(server: GuardedServer, experiment: str) -> None:
    (trial,) = read_history(experiment, with_curves=["val/loss"], tracking_uri=server.url)
    assert (trial.study, trial.state, trial.params) == ("study", "finished", {"lr": "0.1"})
    assert list(trial.curves["val/loss"]) == list(range(5))
    assert b"kept" in [path.read_bytes() for path in server.folder.rglob("note.txt")]


@pytest.mark.usefixtures("log_in")
def test_a_study_arrives_and_the_password_is_nowhere(
    server: GuardedServer,
    journal: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(0)
    with MLflowRecorder(server.url, "guarded", plots=False) as recorder:
        record_study(recorder)
        assert server.leaks_into(journal) == []
        assert server.password not in recorder.ui_command + recorder.tracking_uri
        assert recorder.flush()
    assert not any(journal.iterdir())
    check_study(server, "guarded")
    assert server.leaks_into(server.folder) == [], "in tags, params, artifacts or the server's log"
    assert server.password not in caplog.text + "".join(capfd.readouterr())


def test_who_is_not_let_in_loses_nothing(
    server: GuardedServer,
    journal: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-pa55word")
    with MLflowRecorder(server.url, "shut out") as recorder:
        record_study(recorder)
    assert f"{server.url} does not let you in" in caplog.text
    assert "MLFLOW_TRACKING_PASSWORD" in caplog.text
    assert "are still to be sent" in caplog.text
    assert main(["sync"]) == 1
    said = capsys.readouterr().out
    assert "are still to be sent" in said
    assert "does not let you in" in said
    assert "wr0ng-pa55word" not in said + caplog.text
    assert not [path for path in journal.rglob("*") if path.is_file() and b"wr0ng" in path.read_bytes()]

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)
    assert main(["sync"]) == 0
    assert server.password not in "".join(capsys.readouterr())
    assert not any(journal.iterdir())
    check_study(server, "shut out")


@pytest.mark.usefixtures("log_in")
def test_who_is_shut_out_on_the_way_is_heard_when_let_in_again(
    server: GuardedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a token runs out in the middle of a study, and is renewed."""
    with MLflowRecorder(server.url, "on the way", plots=False, flush_seconds=0.05) as recorder:
        recorder.record(StudyStarted(name="study"))
        assert recorder.flush()
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wr0ng-pa55word")
        recorder.record(TrialStarted(trial=0, name="t", params={"lr": 0.1}))
        assert not recorder.flush(0.5)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)
        for step in range(5):
            recorder.record(Metrics(trial=0, step=step, values={"val/loss": 1 / (step + 1)}))
        recorder.record(Artifact(trial=0, path="note.txt", text="kept"))
        recorder.record(TrialFinished(trial=0))
    assert "records are kept in" in caplog.text
    check_study(server, "on the way")
