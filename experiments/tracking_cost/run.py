"""What recording costs: milliseconds a trial that the tuner is held up, and that shipping to MLflow takes.

    python experiments/tracking_cost/run.py [--trials 200] [--repeats 5] [--out FOLDER]

One trial: 10 params, 3 metrics x 50 steps, 2 tags, a file of 100 kB. On an SQLite store and on an MLflow server of one
worker, in one run: the bare calls (`create_run`, one `log_batch`, `log_artifact`, `set_terminated`), metatuner, and,
where optuna-integration is installed, its MLflowCallback (which records params, tags and the final value only) and
MLflow's own storage for Optuna. Then: MLflow requests a trial of metatuner over a study of 1,000 trials.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metatuner.envs.records import FileArtifact, Metrics, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.store import connect, resolve
from metatuner.tracking.study_folder import journal_root
from metatuner.tracking.sync import sync
from metatuner.tracking.ui import UiServer

HERE = Path(__file__).parent
STEPS, METRICS, PARAMS = 50, 3, 10
NOBODY = "http://127.0.0.1:9"


def params(trial: int) -> dict[str, float]:
    """Of a trial."""
    return {f"p{i}": trial + i / 7 for i in range(PARAMS)}


def record_trials(recorder: MLflowRecorder, trials: int, payload: Path) -> list[float]:
    """Records trials; returns the milliseconds that each held the tuner up."""
    held = []
    for trial in range(trials):
        begun = time.perf_counter()
        recorder.record(TrialStarted(trial=trial, name=f"t{trial}", params=params(trial), tags={"a": "b", "c": "d"}))
        for step in range(STEPS):
            recorder.record(Metrics(trial=trial, step=step, values={f"m{i}": step / (i + 1) for i in range(METRICS)}))
        recorder.record(FileArtifact(trial=trial, path="payload.bin", source=str(payload)))
        recorder.record(TrialFinished(trial=trial))
        held.append(1e3 * (time.perf_counter() - begun))
    return held


def held_up(uri: str, trials: int, payload: Path, folder: Path) -> dict[str, float]:
    """Milliseconds a trial in `record`, while the thread ships in the background."""
    recorder = MLflowRecorder(uri, "held-up", plots=False, journal=folder / "held", close_seconds=600)
    with recorder:
        recorder.record(StudyStarted(name="study"))
        held = record_trials(recorder, trials, payload)
    return {"median": statistics.median(held), "mean": statistics.fmean(held), "p99": sorted(held)[int(0.99 * trials)]}


def shipping(uri: str, trials: int, payload: Path, folder: Path) -> float:
    """Milliseconds a trial to ship a journal that is there already."""
    with MLflowRecorder(NOBODY, "shipped", plots=False, journal=folder / "ship", close_seconds=1) as recorder:
        recorder.record(StudyStarted(name="study"))
        record_trials(recorder, trials, payload)
    connect(resolve(uri)).search_experiments(max_results=1)
    begun = time.perf_counter()
    (result,) = sync(journal_root(folder / "ship"), uri)
    assert not result.problem, result.problem
    return 1e3 * (time.perf_counter() - begun) / trials


def bare(uri: str, trials: int, payload: Path) -> float:
    """Milliseconds a trial of MLflow's own calls, as few as there can be."""
    from mlflow.entities import Metric, Param, RunTag

    client = connect(resolve(uri))
    experiment = client.create_experiment("bare", artifact_location=_location(uri))
    parent = client.create_run(experiment, run_name="study")
    begun = time.perf_counter()
    for trial in range(trials):
        now = int(time.time() * 1000)
        tags = {"mlflow.parentRunId": parent.info.run_id}
        run_id = client.create_run(experiment, run_name=f"t{trial}", tags=tags).info.run_id
        metrics = [Metric(f"m{i}", step / (i + 1), now, step) for step in range(STEPS) for i in range(METRICS)]
        values = [Param(name, str(value)) for name, value in params(trial).items()]
        client.log_batch(run_id, metrics, values, [RunTag("a", "b"), RunTag("c", "d")])
        client.log_artifact(run_id, str(payload))
        client.set_terminated(run_id)
    return 1e3 * (time.perf_counter() - begun) / trials


def optuna_callback(uri: str, trials: int) -> float | None:
    """Milliseconds a trial of optuna-integration's MLflowCallback, on top of Optuna's own."""
    try:
        from optuna_integration.mlflow import MLflowCallback
    except ImportError:
        return None
    import mlflow

    mlflow.set_tracking_uri(uri)
    callback = MLflowCallback(tracking_uri=uri, metric_name="value")
    return _optuna(trials, None, [callback]) - _optuna(trials, None, [])


def optuna_storage(uri: str, trials: int) -> float | None:
    """Milliseconds a trial of MLflow's storage for Optuna, on top of Optuna's in-memory one."""
    try:
        from mlflow.optuna.storage import MlflowStorage
    except ImportError:
        return None
    import mlflow

    mlflow.set_tracking_uri(uri)  # the storage knows no other way
    client = connect(resolve(uri))
    storage = MlflowStorage(experiment_id=client.create_experiment("optuna-storage", artifact_location=_location(uri)))
    return _optuna(trials, storage, []) - _optuna(trials, None, [])


def _optuna(trials: int, storage: Any, callbacks: list[Any]) -> float:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)

    def objective(trial: optuna.Trial) -> float:
        values = [trial.suggest_float(f"p{i}", 0, 1) for i in range(PARAMS)]
        for step in range(STEPS):
            trial.report(sum(values) / (step + 1), step)
        return sum(values)

    study = optuna.create_study(storage=storage, sampler=optuna.samplers.RandomSampler(seed=0))
    begun = time.perf_counter()
    study.optimize(objective, n_trials=trials, callbacks=callbacks)
    return 1e3 * (time.perf_counter() - begun) / trials


def _location(uri: str) -> str | None:
    return (Path(uri.removeprefix("sqlite:///")).parent / "artifacts").as_uri() if uri.startswith("sqlite") else None


def requests_a_trial(uri: str, trials: int, payload: Path, folder: Path) -> dict[str, float]:
    """MLflow calls of metatuner for each trial, in the first tenth and in the last tenth of a study."""
    from mlflow import MlflowClient

    counts: list[str] = []
    names = ("create_run", "log_batch", "log_artifact", "log_text", "set_terminated", "search_runs", "update_run")
    originals = {name: getattr(MlflowClient, name) for name in names}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counts.append(name)
            return originals[name](*arguments, **options)

        return call

    with MLflowRecorder(NOBODY, "counted", plots=False, journal=folder / "count", close_seconds=1) as recorder:
        recorder.record(StudyStarted(name="study"))
        record_trials(recorder, trials, payload)
    for name in names:
        setattr(MlflowClient, name, counting(name))
    try:
        sync(journal_root(folder / "count"), uri)
    finally:
        for name, original in originals.items():
            setattr(MlflowClient, name, original)
    starts = [i for i, name in enumerate(counts) if name == "create_run"][1:]  # the first is the study's
    tenth = trials // 10
    return {
        "calls_a_trial_first_tenth": (starts[tenth] - starts[0]) / tenth,
        "calls_a_trial_last_tenth": (starts[-1] - starts[-1 - tenth]) / tenth,
    }


@contextmanager
def stores(folder: Path, name: str) -> Iterator[str]:
    """A fresh store's URI: "sqlite" or "http"."""
    uri = f"sqlite:///{folder}/{name}.db"
    connect(resolve(uri)).search_experiments(max_results=1)
    if name == "sqlite":
        yield uri
        return
    with UiServer(uri, port=0) as server:
        yield server.url


def in_turn(name: str, trials: int, repeats: int) -> dict[str, Any]:
    """The bare calls and shipping in turn, each pair on a fresh store: medians, and the ratio of each pair.

    One pair says little: on a machine with two cores the ratio swings by a tenth.
    """
    pairs = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary, stores(Path(temporary), name) as uri:
            payload = Path(temporary) / "payload.bin"
            payload.write_bytes(b"x" * 100_000)
            pairs.append((bare(uri, trials, payload), shipping(uri, trials, payload, Path(temporary))))
    ratios = [shipped / called for called, shipped in pairs]
    return {
        "bare_ms": statistics.median(called for called, _ in pairs),
        "shipping_ms": statistics.median(shipped for _, shipped in pairs),
        "shipping_to_bare": statistics.median(ratios),
        "shipping_to_bare_lowest_and_highest": [min(ratios), max(ratios)],
    }


def main() -> None:
    """Measures, writes results.json, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--long", type=int, default=1000, help="trials of the study whose calls are counted")
    parser.add_argument("--repeats", type=int, default=5, help="of the bare calls and of shipping, in turn")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    logging.getLogger("metatuner").setLevel(logging.ERROR)
    results: dict[str, Any] = {}
    for name in ("sqlite", "http"):
        with tempfile.TemporaryDirectory(prefix="metatuner-") as temporary, stores(Path(temporary), name) as uri:
            folder = Path(temporary)
            payload = folder / "payload.bin"
            payload.write_bytes(b"x" * 100_000)
            figures: dict[str, Any] = in_turn(name, args.trials, args.repeats)
            figures["held_up_ms"] = held_up(uri, args.trials, payload, folder)
            figures["optuna_mlflow_callback_ms"] = optuna_callback(uri, args.trials)
            # It slows down from trial to trial: through a server 200 of them take more than a quarter of an hour.
            some = args.trials if name == "sqlite" else min(args.trials, 40)
            figures["mlflow_optuna_storage_trials"] = some
            figures["mlflow_optuna_storage_ms"] = optuna_storage(uri, some)
            if name == "sqlite":
                figures |= requests_a_trial(uri, args.long, payload, folder)
            results[name] = figures
            print(name, json.dumps(figures, indent=1), flush=True)
    settings = {"trials": args.trials, "params": PARAMS, "metrics": METRICS, "steps": STEPS, "artifact_bytes": 100_000}
    machine = {"processor": platform.machine(), "python": platform.python_version()}
    document = {"settings": settings, "machine": machine, "results": results}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
