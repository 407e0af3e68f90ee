"""Does anything get lost, or counted twice, when servers and programs are killed?

    python experiments/tracking_faults/run.py [--trials 60] [--kills 20] [--seed 0] [--out FOLDER]

A study of trials with 10 params, 3 metrics x 50 steps and one file each, recorded by a program of its own to a real
MLflow server on loopback. First the server is killed (SIGKILL) and started again three times while the study runs.
Then, in another study, the program is killed at random moments and started again until it is done. Afterwards the store
is counted: one parent, every trial finished exactly once, every point exactly once, true statuses.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from metatuner.tracking.store import connect, resolve
from metatuner.tracking.ui import UiServer

HERE = Path(__file__).parent
PARAMS, METRICS, STEPS = 10, 3, 50


def study(uri: str, name: str, trials: int, payload: str) -> None:
    """The program that records a study: what is finished already is not run again."""
    from metatuner.envs.records import FileArtifact, Metrics, StudyStarted, TrialFinished, TrialStarted
    from metatuner.tracking.recorder import MLflowRecorder

    with MLflowRecorder(uri, name, flush_seconds=0.1, close_seconds=120, plots=False) as recorder:
        recorder.record(StudyStarted(name="study", key=name))
        for trial in sorted(set(range(trials)) - recorder.finished):
            params = {f"p{i}": trial + i / 7 for i in range(PARAMS)}
            recorder.record(TrialStarted(trial=trial, name=f"trial {trial}", params=params))
            for step in range(STEPS):
                values = {f"m{i}": trial + step / (i + 1) for i in range(METRICS)}
                recorder.record(Metrics(trial=trial, step=step, values=values))
                time.sleep(0.002)
            recorder.record(FileArtifact(trial=trial, path="payload.bin", source=payload))
            recorder.record(TrialFinished(trial=trial))


def start(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Starts the program in a process of its own."""
    return subprocess.Popen([sys.executable, __file__, "--study", *arguments], cwd=folder, stderr=subprocess.DEVNULL)


def kill(server: UiServer) -> None:
    """Kills a server with all its workers."""
    assert server._process is not None
    os.killpg(server._process.pid, signal.SIGKILL)
    server.stop()


def runs_of(uri: str, name: str) -> list[Any]:
    """All runs of an experiment so far; the store is read directly, so that a dead server does not matter."""
    client = connect(resolve(uri))
    found = client.get_experiment_by_name(name)
    return [] if found is None else list(client.search_runs([found.experiment_id], max_results=5000))


def count(server: str, name: str, trials: int) -> dict[str, Any]:
    """What arrived, and whether it is what it should be."""
    client = connect(resolve(server))
    runs = runs_of(server, name)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    finished = [run for run in children if run.info.status == "FINISHED"]
    times = Counter(int(run.data.tags["metatuner.trial"]) for run in finished)
    wrong_curves = wrong_params = wrong_files = points = 0
    for run in finished:
        trial = int(run.data.tags["metatuner.trial"])
        for i in range(METRICS):
            history = client.get_metric_history(run.info.run_id, f"m{i}")
            points += len(history)
            expected = [(step, trial + step / (i + 1)) for step in range(STEPS)]
            wrong_curves += sorted((point.step, point.value) for point in history) != expected
        wrong_params += run.data.params != {f"p{i}": str(trial + i / 7) for i in range(PARAMS)}
        wrong_files += [file.path for file in client.list_artifacts(run.info.run_id)] != ["payload.bin"]
    figures = {
        "parents": len(parents),
        "parent_status": parents[0].info.status if parents else None,
        "trials_finished": len(times),
        "trials_finished_more_than_once": sum(number > 1 for number in times.values()),
        "points": points,
        "points_expected": trials * METRICS * STEPS,
        "wrong_curves": wrong_curves,
        "wrong_params": wrong_params,
        "wrong_files": wrong_files,
        "attempts_by_status": dict(Counter(run.info.status for run in children)),
    }
    whole = (figures["parents"], figures["parent_status"], times) == (1, "FINISHED", Counter(range(trials)))
    clean = not (wrong_curves or wrong_params or wrong_files) and points == figures["points_expected"]
    return {**figures, "nothing_lost_nothing_twice": whole and clean}


def kill_servers(uri: str, trials: int, kills: int, folder: Path, payload: str) -> dict[str, Any]:
    """A study during which the server is killed and started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = UiServer(uri, port=port)
    begun = time.monotonic()
    program = start([server.url, "servers", str(trials), payload], folder)
    for number in range(kills):
        while len(runs_of(uri, "servers")) < 2 + (number + 1) * trials // (kills + 2):
            if program.poll() is not None:
                raise SystemExit("the study ended before the server was killed: give more --trials")
            time.sleep(0.05)
        kill(server)
        time.sleep(0.5)
        server = UiServer(uri, port=port)
    code = program.wait(600)
    seconds = time.monotonic() - begun
    figures = count(server.url, "servers", trials)
    server.stop()
    return {"server_kills": kills, "exit_code": code, "seconds": round(seconds, 1), **figures}


def kill_programs(uri: str, trials: int, kills: int, seed: int, folder: Path, payload: str) -> dict[str, Any]:
    """A study whose program is killed at random moments."""
    clock, done = random.Random(seed), 0
    with UiServer(uri, port=0) as server:
        arguments = [server.url, "programs", str(trials), payload]
        while done < kills:
            program = start(arguments, folder)
            before = len(runs_of(uri, "programs"))
            # Start-up takes seconds and records nothing: the clock runs from the first sign of work, or soon after.
            patience = time.monotonic() + 15
            while len(runs_of(uri, "programs")) <= before and time.monotonic() < patience and program.poll() is None:
                time.sleep(0.02)
            time.sleep(clock.uniform(0.0, 0.25))
            if program.poll() is not None:
                raise SystemExit("the study ended before the program was killed: give more --trials")
            program.send_signal(signal.SIGKILL)
            program.wait()
            done += 1
        code = start(arguments, folder).wait(600)
        return {"program_kills": done, "exit_code": code, **count(server.url, "programs", trials)}


def main() -> None:
    """Runs both, writes results.json, prints what was counted."""
    if sys.argv[1:2] == ["--study"]:
        uri, name, trials, payload = sys.argv[2:]
        study(uri, name, int(trials), payload)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--kills", type=int, default=20, help="of the program; the server is killed three times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary:
        folder = Path(temporary)
        uri = f"sqlite:///{folder}/mlflow.db"
        connect(resolve(uri)).search_experiments(max_results=1)
        payload = folder / "payload.bin"
        payload.write_bytes(os.urandom(100_000))
        results["servers"] = kill_servers(uri, args.trials, 3, folder, str(payload))
        print(json.dumps(results["servers"], indent=1), flush=True)
        results["programs"] = kill_programs(uri, args.trials, args.kills, args.seed, folder, str(payload))
        print(json.dumps(results["programs"], indent=1), flush=True)
    settings = {"trials": args.trials, "params": PARAMS, "metrics": METRICS, "steps": STEPS, "seed": args.seed}
    args.out.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"settings": settings, "results": results}, indent=1)
    (args.out / "results.json").write_text(document + "\n", encoding="utf-8")
    if not all(figures["nothing_lost_nothing_twice"] for figures in results.values()):
        raise SystemExit("something was lost or counted twice")


if __name__ == "__main__":
    main()
