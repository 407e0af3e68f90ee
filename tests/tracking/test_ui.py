from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from metatuner.envs.errors import StoreError
from metatuner.envs.records import Artifact, Description, Metrics, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.ui import UiServer, serve

SERVE = """
import sys
from metatuner.tracking.ui import serve
serve(sys.argv[1], port=0, announce=lambda url: print(url, flush=True))
print("left", flush=True)
"""


def processes_of_session(session: int) -> list[int]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == session and "\nState:\tZ" not in (folder / "status").read_text():
                found.append(int(folder.name))
        except (ProcessLookupError, FileNotFoundError):
            continue
    return found


def child_of(process: int) -> int:
    return int(Path(f"/proc/{process}/task/{process}/children").read_text().split()[0])


def test_recording_over_http_and_looking(uri: str) -> None:
    """A store behind a real server gets the same record, and the server stops without leaving anything."""
    from mlflow import MlflowClient

    with UiServer(uri, port=0) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with MLflowRecorder(server.url, "remote") as recorder:
            recorder.record(Description(markdown="# Remote"))
            recorder.record(TrialStarted(trial=0, name="t", params={"lr": 0.1}))
            recorder.record(Metrics(trial=0, step=3, values={"val/loss": 0.5, "hp/lr": 0.1, "odd": float("nan")}))
            recorder.record(Artifact(trial=0, path="a/b.txt", text="kept"))
        assert recorder.ui_command == f"metatuner ui --tracking-uri {server.url}"
        client = MlflowClient(server.url)
        run = client.get_run(recorder.trial_run_id(0))
        assert (run.info.status, run.data.params, run.data.metrics["val/loss"]) == ("FINISHED", {"lr": "0.1"}, 0.5)
        assert Path(client.download_artifacts(run.info.run_id, "a/b.txt")).read_text() == "kept"
        with pytest.raises(StoreError, match=r"cannot listen on 127\.0\.0\.1 port"):
            UiServer(uri, port=int(server.url.rpartition(":")[2]))
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{server.url}/health", timeout=5)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks at /proc")
def test_signals_end_it_without_orphans(uri: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVE, uri], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline().startswith("http://127.0.0.1:")
        session = child_of(program.pid)
        assert processes_of_session(session)
        program.send_signal(signal.SIGTERM)
        assert program.stdout.read() == "left\n"
        assert program.wait(20) == 0
    deadline = time.monotonic() + 5
    while processes_of_session(session):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_is_only_announced() -> None:
    announced: list[str] = []
    assert serve("http://me:s3cret@example.invalid:5000/", announce=announced.append) == "http://example.invalid:5000"
    assert announced == ["http://example.invalid:5000"]


def test_a_port_that_is_taken_is_one_clear_line(uri: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(StoreError, match=r"port \d+ \(.*\): stop what uses it, or choose another with --port"):
            serve(uri, port=taken.getsockname()[1])


def test_a_store_that_cannot_be_opened_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("my diary")
    with pytest.raises(StoreError, match="file of another kind"):
        serve(f"sqlite:///{tmp_path}/mlflow.db", port=0)
