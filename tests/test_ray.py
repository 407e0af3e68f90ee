"""metatuner in Ray Tune, on a real cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import importlib.util
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import metatuner as mt
import pytest
from metatuner.envs.errors import ConfigurationError, SearchSpaceError
from metatuner.tracking.sqlite_file import ensure_database
from optuna.distributions import FloatDistribution, IntDistribution

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
    """Two nodes that work, with one CPU each, and their head.

    Everything listens on the loopback interface, behind a token, and tells nobody.
    """
    handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
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
        for each, handler in handlers.items():
            signal.signal(each, handler)


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
        import time
        from pathlib import Path

        from ray import tune

        def once(what: str) -> bool:
            """Whether it is to happen and has not yet."""
            marker = config.get(what)
            if marker is None or Path(marker).exists():
                return False
            Path(marker).touch()
            return True

        weight, begin = 4.0, 0
        if (checkpoint := tune.get_checkpoint()) is not None:
            with checkpoint.as_directory() as folder:
                weight, begin = json.loads(Path(folder, "state.json").read_text())
        for epoch in range(begin + 1, 9):
            if epoch == 3 and once("doom"):
                os.kill(os.getppid(), signal.SIGKILL)  # the node that this runs on
                time.sleep(60)  # until its death reaches this process
            if epoch == 6 and once("mishap"):
                raise RuntimeError("out of luck")
            for _ in range(10):
                weight -= config["lr"] * weight
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "state.json").write_text(json.dumps([weight, epoch]))
                result = {"val_loss": weight**2 + 0.01, "went_on_from": begin}
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


# Not where a node dies: see PolicyScheduler.
@pytest.mark.filterwarnings("ignore:Consider boosting PBT performance by enabling `reuse_actors`")
def test_a_trial_whose_node_dies_goes_on_from_its_checkpoint_and_is_one_run(
    cluster: Any, tmp_path: Path, uri: str
) -> None:
    from ray import tune

    raylets = [each.process for node in cluster.worker_nodes for each in node.all_processes["raylet"]]
    recorder = mt.TuneRecorder("val_loss", tracking_uri=uri, plots=False)
    scheduler = mt.PolicyScheduler(
        {"lr": tune.loguniform(1e-4, 0.15)}, perturbation_interval=4, total_time=EPOCHS, recorder=recorder
    )
    results = tune.Tuner(
        trainable(),
        param_space={"lr": tune.grid_search([1e-3, 1e-2]), "doom": str(tmp_path / "doom")},
        # Ray may wait for a dead node for ever.
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", scheduler=scheduler, time_budget_s=120),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "ray"),
            callbacks=[recorder],
            failure_config=tune.FailureConfig(max_failures=2),
            verbose=0,
        ),
    ).fit()

    assert [raylet.poll() is None for raylet in raylets].count(False) == 1, "one node was to be killed"
    assert not results.errors
    runs = runs_of(uri, recorder.run_id)
    assert {trial: [run.info.status for run in attempts] for trial, attempts in runs.items()} == {
        0: ["FINISHED"],
        1: ["FINISHED"],
    }
    (hit,) = [run for (run,) in runs.values() if run.data.tags.get("metatuner.retries") == "1"]
    assert "actor died" in hit.data.tags["metatuner.last_failure"]
    assert curve(uri, hit, "went_on_from")[3] == 2, "it went on from its last checkpoint"
    for (run,) in runs.values():
        assert sorted(curve(uri, run, "val_loss")) == list(range(1, EPOCHS + 1))


def test_a_population_is_adjusted_recorded_and_restored(cluster: Any, tmp_path: Path, uri: str) -> None:
    from ray import tune

    recorder = mt.TuneRecorder("val_loss", tracking_uri=uri, name="population", plots=False)
    scheduler = mt.PolicyScheduler({"lr": tune.loguniform(1e-4, 0.05)}, total_time=EPOCHS, recorder=recorder)
    starts = {"lr": tune.grid_search([1e-4, 1e-3, 1e-2]), "mishap": str(tmp_path / "mishap")}
    results = tune.Tuner(
        trainable(),
        param_space=starts,
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), name="ray", callbacks=[recorder], verbose=0),
    ).fit()

    assert len(results.errors) == 1
    runs = runs_of(uri, recorder.run_id)
    assert sorted(run.info.status for (run,) in runs.values()) == ["FAILED", "FINISHED", "FINISHED"]
    (failed,) = [trial for trial, (run,) in runs.items() if run.info.status == "FAILED"]
    assert "out of luck" in runs[failed][0].data.tags["metatuner.message"]
    for (run,) in runs.values():
        rates = curve(uri, run, "hp/lr")
        assert float(run.data.params["lr"]) == rates[0]
        assert len(set(rates.values())) >= 3, "the rate was not adjusted"
        assert all(1e-4 <= rate <= 0.05 for rate in rates.values())
        assert curve(uri, run, "adjust/lr"), "no decision was recorded"
        if run.info.status == "FINISHED":
            assert run.data.metrics["value"] == run.data.metrics["val_loss"]
    # At the best of the rates that trials started with, unadjusted, it is 3.2.
    assert min(run.data.metrics["val_loss"] for (run,) in runs.values()) < 1

    restored = tune.Tuner.restore(str(tmp_path / "ray"), trainable(), resume_errored=True).fit()

    assert not restored.errors
    again = runs_of(uri, recorder.run_id)
    assert [run.info.status for run in again.pop(failed)] == ["FAILED", "FINISHED"]
    assert [[run.info.run_id for run in each] for each in again.values()] == [
        [run.info.run_id for run in runs[trial]] for trial in again
    ], "trials that had finished are left alone"


DRIVER = """
import os, sys
import metatuner as mt
import ray
from ray import tune

ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")

def train(config):
    for epoch in range(3):
        tune.report({"val_loss": config["lr"] / (epoch + 1)})

class Dies(tune.Callback):
    def on_trial_complete(self, iteration, trials, trial, **info):
        if len(sys.argv) == 4 and sum(each.is_finished() for each in trials) >= 2:
            os.kill(os.getpid(), 9)

if len(sys.argv) == 4:
    recorder = mt.TuneRecorder("val_loss", tracking_uri=sys.argv[3], name="killed", plots=False)
    tuner = tune.Tuner(
        train,
        param_space={"lr": tune.uniform(0.1, 1)},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", num_samples=3, max_concurrent_trials=1),
        run_config=tune.RunConfig(name="killed", storage_path=sys.argv[2], callbacks=[recorder, Dies()], verbose=0),
    )
else:
    tuner = tune.Tuner.restore(sys.argv[2] + "/killed", train)
results = tuner.fit()
assert len(results) == 3 and not results.errors
"""


def test_an_experiment_whose_driver_was_killed_goes_on_in_its_study(cluster: Any, tmp_path: Path, uri: str) -> None:
    import os
    import subprocess
    import sys

    from mlflow import MlflowClient

    def driven(*arguments: str) -> int:
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        command = [sys.executable, "-c", DRIVER, cluster.address, str(tmp_path), *arguments]
        return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=False, timeout=120).returncode

    assert driven(uri) == -signal.SIGKILL
    # Ray's file is older than the record: it does a trial again that had finished.
    assert driven() == 0
    client = MlflowClient(uri)
    (experiment,) = [each.experiment_id for each in client.search_experiments() if each.name == "metatuner"]
    (study,) = [run for run in client.search_runs([experiment]) if run.info.run_name == "killed"]
    assert study.info.status == "FINISHED"
    runs = runs_of(uri, study.info.run_id)
    assert sorted(runs) == [0, 1, 2]
    assert all(attempts[-1].info.status == "FINISHED" for attempts in runs.values())
    names = [{run.data.tags["ray.trial_id"] for run in attempts} for attempts in runs.values()]
    assert [len(each) for each in names] == [1, 1, 1] and len(set.union(*names)) == 3


def test_another_experiment_of_the_same_name_is_another_study(
    cluster: Any, tmp_path: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        tune.report({"val_loss": config["lr"]})

    studies = []
    recorder = mt.TuneRecorder("val_los", tracking_uri=uri, name="again", plots=False)
    for _ in range(2):
        tune.Tuner(
            train,
            param_space={"lr": tune.uniform(0.1, 1)},
            run_config=tune.RunConfig(name="again", storage_path=str(tmp_path), callbacks=[recorder], verbose=0),
        ).fit()
        studies.append(recorder.run_id)
    assert studies[0] != studies[1]
    assert [[run.info.status for (run,) in runs_of(uri, study).values()] for study in studies] == [["FINISHED"]] * 2
    assert "no result has the metric 'val_los'" in caplog.text and "'val_loss'" in caplog.text


def test_a_loss_that_no_policy_can_judge_stops_its_trial_alone(
    cluster: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from ray import tune

    def train(config: dict[str, Any]) -> None:
        import tempfile

        for epoch in range(4):
            with tempfile.TemporaryDirectory() as folder:
                checkpoint = tune.Checkpoint.from_directory(folder)
                tune.report({"val_loss": config["first"] / (epoch + 1)}, checkpoint=checkpoint)

    scheduler = mt.PolicyScheduler({"lr": tune.loguniform(1e-4, 0.1)}, policy="zero", total_time=4)
    results = tune.Tuner(
        train,
        param_space={"lr": 0.01, "first": tune.grid_search([1.0, 0.0])},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()
    assert not results.errors
    reached = {each.config["first"]: each.metrics["training_iteration"] for each in results if each.metrics}
    assert reached[0.0] == 1 and reached[1.0] >= 4
    assert "is stopped: " in caplog.text


def test_a_lone_trial_that_diverges_goes_back_with_a_lower_rate(cluster: Any, tmp_path: Path, uri: str) -> None:
    from ray import tune

    recorder = mt.TuneRecorder("val_loss", tracking_uri=uri, plots=False)
    scheduler = mt.PolicyScheduler({"lr": tune.loguniform(1e-4, 10)}, "zero", total_time=EPOCHS, recorder=recorder)
    results = tune.Tuner(
        trainable(),
        param_space={"lr": 3.0},
        tune_config=tune.TuneConfig(metric="val_loss", mode="min", scheduler=scheduler, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), callbacks=[recorder], verbose=0),
    ).fit()

    assert not results.errors
    ((run,),) = runs_of(uri, recorder.run_id).values()
    assert run.data.metrics["hp/lr"] == pytest.approx(0.75)
    assert run.data.metrics["val_loss"] == pytest.approx(0.01, rel=0.1)
    assert curve(uri, run, "went_on_from")[2] == 1


def test_wrong_arguments_are_told() -> None:
    from ray import tune

    lr = {"lr": tune.loguniform(1e-4, 1)}
    for mutations in ({}, {"lr": [0.1, 0.2]}, {"lr": tune.choice([0.1, 0.2])}, {"lr": tune.randn(0, 1)}):
        with pytest.raises(SearchSpaceError):
            mt.PolicyScheduler(mutations)
    with pytest.raises(ConfigurationError, match="total_time must be above 0"):
        mt.PolicyScheduler(lr, total_time=0)
    with pytest.raises(ConfigurationError, match="'min' or 'max', got 'minimize'"):
        mt.TuneRecorder("val_loss", "minimize")


def test_the_learned_search_proposes_for_ray(cluster: Any, tmp_path: Path) -> None:
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def train(config: dict[str, Any]) -> None:
        tune.report({"loss": (config["x"] - 1) ** 2 + config["nested"]["k"]})

    search = OptunaSearch(sampler=mt.PolicySampler(seed=0), metric="loss", mode="min")
    results = tune.Tuner(
        train,
        param_space={"x": tune.uniform(-3, 3), "nested": {"k": tune.randint(0, 3)}},
        tune_config=tune.TuneConfig(search_alg=search, num_samples=6, max_concurrent_trials=2, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
    ).fit()

    assert len(results) == 6
    assert not results.errors
    assert {trial.user_attrs["metatuner:why"]["source"] for trial in search._ot_study.trials} != {"chance"}


def define_by_run(trial: Any) -> None:
    trial.suggest_float("x", -3, 3)
    trial.suggest_int("k", 0, 4)


SPACES = {
    "distributions": {"x": FloatDistribution(-3, 3), "k": IntDistribution(0, 4)},
    "function": define_by_run,
}


@pytest.mark.parametrize("kind", SPACES)
def test_the_learned_search_is_driven_saved_and_restored_as_ray_does(kind: str, tmp_path: Path) -> None:
    """Ray's searcher without a cluster: pending trials, failures, NaN, points to begin with, a restored experiment."""
    from ray.tune.search.optuna import OptunaSearch

    def search() -> Any:
        points = [{"x": 2.5, "k": 3}]
        sampler = mt.PolicySampler(seed=1, units=3)
        return OptunaSearch(SPACES[kind], "loss", "min", points_to_evaluate=points, sampler=sampler)

    def run(searcher: Any, trials: int) -> list[dict[str, Any]]:
        """Keeps three trials going."""
        configs: list[dict[str, Any]] = []
        going: list[int] = []
        for number in range(trials):
            configs.append(searcher.suggest(f"t{number}"))
            going.append(number)
            if len(going) == 3:
                end(searcher, going.pop(0), configs)
        for number in going:
            end(searcher, number, configs)
        return configs

    def end(searcher: Any, number: int, configs: list[dict[str, Any]]) -> None:
        config = configs[number]
        if number == 4:
            searcher.on_trial_complete(f"t{number}", error=True)
            return
        result: dict[str, Any] = {}
        for unit in (1, 2, 3):
            loss = math.nan if number == 5 else (config["x"] - 1) ** 2 + config["k"] + 1 / unit
            result = {"loss": loss, "training_iteration": unit}
            searcher.on_trial_result(f"t{number}", result)
        searcher.on_trial_complete(f"t{number}", result)

    one = search()
    configs = run(one, 18)
    assert configs[0] == {"x": 2.5, "k": 3}
    one.save(str(tmp_path / "searcher"))
    two = search()
    two.restore(str(tmp_path / "searcher"))

    assert two.suggest("next") == one.suggest("next"), "a restored search goes on as it would have"
    best = min((config["x"] - 1) ** 2 + config["k"] for config in configs[6:])
    assert best < 0.5
