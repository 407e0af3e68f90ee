"""metatuner in Ray Tune, on a real cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import importlib.util
import math
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import metatuner as mt
import pytest
from metatuner.tracking.sqlite_file import ensure_database

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed"),
    # Ray's own: pipes and sockets that it leaves to the collector, and what it is about to rename.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
]

EPOCHS = 8


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes that work, with one CPU each, and their head. Everything listens on the loopback interface, behind a token, and tells nobody."""
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so that a node's address is the loopback interface
        "RAY_USAGE_STATS_ENABLED": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 200, "health_check_failure_threshold": 3}
        node = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0, "_system_config": quick})
        try:
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
            for _ in range(2):
                cluster.add_node(**node, num_cpus=1, wait=False)
            cluster.wait_for_nodes()
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "journal"))
    ensure_database(tmp_path / "mlflow.db", tmp_path / "mlartifacts")
    yield f"sqlite:///{tmp_path}/mlflow.db"
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in [name for name in SqlAlchemyStore._engine_map if str(tmp_path) in name]:
        SqlAlchemyStore._engine_map.pop(name).dispose()


def trainable() -> Callable[[dict[str, Any]], None]:
    """Gradient descent on a parabola, with checkpoints. Ray ships a function without a module of its own."""

    def train(config: dict[str, Any]) -> None:
        import json
        import os
        import signal
        import tempfile
        from pathlib import Path

        from ray import tune

        weight, begin = 4.0, 0
        if (checkpoint := tune.get_checkpoint()) is not None:
            with checkpoint.as_directory() as folder:
                weight, begin = json.loads(Path(folder, "state.json").read_text())
        for epoch in range(begin, 8):
            for _ in range(10):
                weight -= config["lr"] * weight
            if epoch == config.get("breaks_at"):
                raise RuntimeError("out of luck")
            if epoch == 3 and "doom" in config and not Path(config["doom"]).exists():
                Path(config["doom"]).touch()
                os.kill(os.getppid(), signal.SIGKILL)  # the node that this runs on
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "state.json").write_text(json.dumps([weight, epoch + 1]))
                result = {"val_loss": weight**2 + 0.01, "epoch": epoch + 1, "went_on_from": begin}
                tune.report(result, checkpoint=tune.Checkpoint.from_directory(folder))

    return train


def runs_of(uri: str, study: str | None) -> dict[int, list[Any]]:
    """MLflow's runs of each trial's attempts."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    assert study is not None
    experiment = client.get_run(study).info.experiment_id
    found: dict[int, list[Any]] = {}
    for run in client.search_runs([experiment], f"tags.mlflow.parentRunId = '{study}'", order_by=["start_time"]):
        found.setdefault(int(run.data.tags["metatuner.trial"]), []).append(run)
    return found


def curve(uri: str, run: Any, key: str) -> dict[int, float]:
    from mlflow import MlflowClient

    return {point.step: point.value for point in MlflowClient(uri).get_metric_history(run.info.run_id, key)}


def test_a_population_outlives_a_node(cluster: Any, tmp_path: Path, uri: str) -> None:
    from ray import tune

    raylets = [each for node in cluster.worker_nodes for each in node.all_processes["raylet"]]
    recorder = mt.TuneRecorder("val_loss", tracking_uri=uri, plots=False)
    scheduler = mt.PolicyScheduler(
        {"lr": tune.loguniform(1e-4, 0.15)}, total_time=EPOCHS, adaptive=False, recorder=recorder
    )
    results = tune.Tuner(
        trainable(),
        param_space={"lr": tune.grid_search([1e-4, 1e-3, 1e-2]), "doom": str(tmp_path / "doom")},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "ray"),
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=3),
            verbose=0,
        ),
    ).fit()

    assert sum(process.process.poll() is not None for process in raylets) == 1, "no node was killed"
    print("STATUS", [(t.trial_id, t.status, t.num_failures) for t in results._experiment_analysis.trials])
    assert not results.errors
    runs = runs_of(uri, recorder.run_id)
    assert sorted(runs) == [0, 1, 2]
    assert all(len(attempts) == 1 for attempts in runs.values()), "a trial that is tried again is one run"
    assert Counter(run.info.status for (run,) in runs.values()) == {"FINISHED": 3}
    retried = [run for (run,) in runs.values() if "metatuner.retries" in run.data.tags]
    assert retried, "no trial was on the node"
    for (run,) in runs.values():
        losses, rates = curve(uri, run, "val_loss"), curve(uri, run, "hp/lr")
        assert sorted(losses) == list(range(1, EPOCHS + 1))
        assert set(range(EPOCHS)) <= set(rates)
        assert len(set(rates.values())) > 2, "the rate was not adjusted"
        assert max(rates.values()) <= 0.15 + 1e-12
    # Without adjustments the best of these rates ends above 3.

    assert all(max(curve(uri, run, "went_on_from").values()) > 0 for run in retried), "no checkpoint was used"
