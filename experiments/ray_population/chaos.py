"""300 trials of the learned search on a Ray cluster on this machine, of whose nodes one is killed every few seconds.

OMP_NUM_THREADS=1 python experiments/ray_population/chaos.py
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Before Ray is imported: everything listens on loopback, behind a token, and tells nobody.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

import metatuner as mt  # noqa: E402
import ray  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from ray import tune  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.tune import Callback  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

NODE = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
QUICK = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}


def main() -> None:
    """Runs it, looks what became of all trials, and writes `chaos.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="of which node is killed")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--nodes", type=int, default=3, help="with two trials at a time each")
    parser.add_argument("--every", type=float, default=15.0, help="seconds between two kills")
    parser.add_argument("--out", type=Path, default=HERE / "chaos.json")
    args = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": QUICK})
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        for _ in range(args.nodes):
            cluster.add_node(**NODE, num_cpus=2, wait=False)
        cluster.wait_for_nodes()
        with tempfile.TemporaryDirectory() as folder:
            results = {"command": " ".join(["python", *sys.argv]), **_tuned(cluster, Path(folder), args)}
    finally:
        ray.shutdown()
        cluster.shutdown()
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _train(config: dict[str, Any]) -> None:
    time.sleep(0.5)
    tune.report({"loss": (config["x"] - 3) ** 2 + (config["y"] - 2) ** 2 + 1})


def _tuned(cluster: Cluster, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    uri, killer = f"sqlite:///{folder / 'mlflow.db'}", Killer(cluster, random.Random(args.seed), args.every)
    space = {"x": tune.uniform(-5, 5), "y": tune.uniform(-5, 5)}
    search = OptunaSearch(space, sampler=mt.PolicySampler(seed=0), metric="loss", mode="min")
    recorder = mt.TuneRecorder("loss", tracking_uri=uri, experiment="chaos", plots=False)
    began = time.monotonic()
    found = tune.Tuner(
        _train,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=args.trials, max_concurrent_trials=2 * args.nodes, reuse_actors=False
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder / "ray"),
            callbacks=[recorder, killer],
            failure_config=tune.FailureConfig(max_failures=-1),
            verbose=0,
        ),
    ).fit()
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "chaos"]
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    trials = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    numbers = Counter(run.data.tags["metatuner.trial"] for run in trials if run.info.status == "FINISHED")
    losses = sorted(each.metrics["loss"] for each in found)
    return {
        "seconds": round(time.monotonic() - began),
        "nodes killed": killer.killed,
        "finished in Ray": len(found) - found.num_errors,
        "errors": found.num_errors,
        "different configurations": len({(each.config["x"], each.config["y"]) for each in found}),
        "in MLflow": {
            "finished, each once": len(numbers),
            "finished more than once": sum(count > 1 for count in numbers.values()),
            "states": Counter(run.info.status for run in trials),
            "same losses as in Ray": losses == sorted(run.data.metrics["loss"] for run in trials),
            "retried": sum("metatuner.retries" in run.data.tags for run in trials),
            "study": next(run.info.status for run in runs if "mlflow.parentRunId" not in run.data.tags),
        },
    }


class Killer(Callback):
    """Kills a node now and then, and adds another one in its place.

    Args:
        cluster: The cluster.
        chance: Which node.
        every_s: Seconds between two.
    """

    def __init__(self, cluster: Cluster, chance: random.Random, every_s: float) -> None:
        self.killed = 0
        self._cluster, self._chance, self._every_s, self._last_s = cluster, chance, every_s, time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Ray keeps callbacks in a file, where a cluster cannot be."""
        return {}

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Kills one, if it is time."""
        if time.monotonic() - self._last_s > self._every_s:
            self._cluster.remove_node(self._chance.choice(list(self._cluster.worker_nodes)), allow_graceful=False)
            self._cluster.add_node(**NODE, num_cpus=2, wait=False)
            self.killed += 1
            self._last_s = time.monotonic()


if __name__ == "__main__":
    main()
