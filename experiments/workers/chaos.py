"""Six workers of one study, one of which is killed every two seconds, and a database that restarts twice.

OMP_NUM_THREADS=1 python experiments/workers/chaos.py --seed 1 2 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from metatuner.agent.cut_off_trials import RETRY_ATTRIBUTE, is_cut_off
from metatuner.agent.storages import open_storage
from metatuner.envs.records import VOID_ATTRIBUTE
from mlflow import MlflowClient
from optuna.study import Study
from optuna.trial import TrialState
from postgres import Postgres

HERE = Path(__file__).parent
STUDY = "chaos"


def main() -> None:
    """Runs it, looks what became of all trials, and writes `chaos.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="of whom is killed, a run each")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--strategy", default="random")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which it is given up")
    parser.add_argument("--out", type=Path, default=HERE / "chaos.json")
    args = parser.parse_args()
    results = {"command": " ".join(["python", *sys.argv]), "runs": [_run(seed, args) for seed in args.seed]}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _run(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workers-chaos-") as folder, Postgres() as server:
        crew = Crew(Path(folder), server.database(), args.trials, args.workers, strategy=args.strategy)
        try:
            told = crew.live(server, seed, args.every, args.limit)
        finally:
            crew.end()
        return {"seed": seed, **told, **found(crew, args.trials)}


class Crew:
    """The workers: one that is killed is replaced at once.

    Args:
        folder: Where they keep their records.
        storage: Where the study lies.
        trials: Its budget.
        size: How many they are.
        addresses: By which they reach it, in turn; None for the storage's own.
        strategy: Who proposes.
    """

    def __init__(
        self,
        folder: Path,
        storage: str,
        trials: int,
        size: int,
        *,
        addresses: Sequence[str] | None = None,
        strategy: str = "random",
    ) -> None:
        self.storage, self.uri = storage, f"sqlite:///{folder / 'mlflow.db'}"
        self._folder, self._addresses = folder, addresses or [storage]
        self._arguments = [
            *("worker", f"{HERE / 'slow.py'}:train", "--study", STUDY),
            *("--tracking-uri", self.uri, "--experiment", STUDY, "--strategy", strategy),
            *("--budget", str(trials), "--heartbeat", "2", "--json"),
        ]
        self._trials, self._size = trials, size
        self._workers: list[int] = []
        nursery = [sys.executable, str(HERE / "nursery.py"), str(folder / "log")]
        self._nursery = subprocess.Popen(nursery, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()

    @property
    def study(self) -> Study:
        """The study."""
        return optuna.load_study(study_name=STUDY, storage=open_storage(self.storage))

    def live(self, server: Postgres, seed: int, every_s: float, limit_s: float) -> dict[str, Any]:
        """Kills and restarts until the budget is spent, then lets the workers end; returns what it did."""
        chance, began, kills, restarts = random.Random(seed), time.monotonic(), 0, 0
        self.fill()
        while (done := self.done()) < self._trials:
            if time.monotonic() - began > limit_s:
                raise SystemExit(f"only {done} trials have finished in {limit_s:g} s")
            time.sleep(every_s)
            if restarts < 2 and done > self._trials * (restarts + 1) / 3:
                server.restart("immediate" if restarts else "fast")
                restarts += 1
            kills += self._kill(chance.choice(self._workers))
            self.fill()
        spent_s = time.monotonic() - began
        return {
            "seconds": round(spent_s),
            "kills": kills,
            "restarts of the database": restarts,
            "exit codes of the last workers": self.codes(limit_s - spent_s),
        }

    def codes(self, limit_s: float) -> Counter[str]:
        """Waits until all workers have ended; returns their exit codes."""
        began = time.monotonic()
        while any(map(_lives, self._workers)):
            if time.monotonic() - began > limit_s:
                raise SystemExit("the workers do not end")
            time.sleep(0.1)
        codes = Counter(self._code(worker) for worker in self._workers)
        if codes.keys() - {"0"}:
            print((self._folder / "log").read_text()[-5000:], file=sys.stderr)
        return codes

    def _code(self, worker: int) -> str:
        file = self._folder / f"{worker}.ended"
        return file.read_text() if file.exists() else "crashed"

    def end(self) -> None:
        """Ends whoever lives still."""
        for worker in self._workers:
            if _lives(worker):
                os.kill(worker, signal.SIGKILL)
        self._nursery.communicate()

    def _kill(self, worker: int) -> bool:
        if not _lives(worker):
            return False
        os.kill(worker, signal.SIGKILL)
        self._workers.remove(worker)
        return True

    def fill(self) -> None:
        """Starts as many workers as there are too few."""
        while len(self._workers) < self._size:
            assert self._nursery.stdin is not None
            address = self._addresses[len(self._workers) % len(self._addresses)]
            self._nursery.stdin.write(json.dumps([*self._arguments, "--storage", address]) + "\n")
            self._nursery.stdin.flush()
            self._workers.append(int(self._answer()))

    def _answer(self) -> str:
        assert self._nursery.stdout is not None
        return self._nursery.stdout.readline()

    def done(self) -> int:
        """How many trials have finished."""
        try:
            return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        except KeyError:  # nobody has made it yet
            return 0


def _lives(worker: int) -> bool:
    return Path(f"/proc/{worker}").exists()


def found(crew: Crew, budget: int) -> dict[str, Any]:
    """What the storage and MLflow hold."""
    trials = crew.study.trials
    done = {trial.number: trial for trial in trials if trial.state is TrialState.COMPLETE}
    cut_off = [trial for trial in trials if is_cut_off(trial) and VOID_ATTRIBUTE not in trial.user_attrs]
    repeats = Counter(
        trial.user_attrs[RETRY_ATTRIBUTE]
        for trial in trials
        if RETRY_ATTRIBUTE in trial.user_attrs and VOID_ATTRIBUTE not in trial.user_attrs
    )
    client = MlflowClient(crew.uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == STUDY]
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    finished = [run for run in children if run.data.tags["metatuner.state"] == "finished"]
    numbers = Counter(int(run.data.tags["metatuner.trial"]) for run in finished)
    wrong = [
        run
        for run in finished
        if (trial := done.get(int(run.data.tags["metatuner.trial"]))) is None
        or run.data.metrics.get("value") != trial.value
        or {name: str(value) for name, value in trial.params.items()} != run.data.params
    ]
    return {
        "in the storage": {
            "finished": f"{len(done)} of {budget}",
            "different configurations among them": len({tuple(sorted(each.params.items())) for each in done.values()}),
            "cut off": len(cut_off),
            "of these with a configuration": sum(bool(each.params) for each in cut_off),
            "repeated exactly once": sum(repeats[each.number] == 1 for each in cut_off if each.params),
            "given up before they began": sum(VOID_ATTRIBUTE in trial.user_attrs for trial in trials),
            "neither finished nor cut off": Counter(
                trial.state.name for trial in trials if trial.number not in done and not is_cut_off(trial)
            ),
        },
        "in MLflow": {
            "parents": [run.info.status for run in parents],
            "finished, each once": f"{len(numbers)} of {budget}",
            "finished more than once": sum(count > 1 for count in numbers.values()),
            "params or values other than in the storage": len(wrong),
            "states of all trials": Counter(run.data.tags["metatuner.state"] for run in children),
            "still running": sum(run.info.status == "RUNNING" for run in runs),
        },
    }


if __name__ == "__main__":
    main()
