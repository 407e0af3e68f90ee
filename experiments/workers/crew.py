"""The workers of one study, any of which may be killed; and what the study's storage and MLflow hold afterwards."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from metatuner.agent.cut_off_trials import RETRY_ATTRIBUTE, is_cut_off
from metatuner.agent.storages import open_storage
from metatuner.envs.records import VOID_ATTRIBUTE
from mlflow import MlflowClient
from optuna.study import Study
from optuna.trial import TrialState

HERE = Path(__file__).parent
STUDY = "shared"
BEAT_S = 2.0


@dataclass(frozen=True)
class Machine:
    """What a worker runs on.

    Attributes:
        address: By which it reaches the study's storage; None for the storage's own.
        environment: Variables that are set there.
        before: What its command begins with.
    """

    address: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Sequence[str] = ()

    @property
    def kind(self) -> object:
        """What machines have in common whose workers can be started by the same nursery."""
        return tuple(sorted(self.environment.items())), tuple(self.before)


class Crew:
    """The workers: one that is killed is replaced at once.

    Args:
        folder: Where they keep their records.
        storage: Where the study lies.
        trials: Its budget.
        size: How many they are.
        machines: What they run on, in turn.
        strategy: Who proposes.
        objective: What they tune, as `metatuner worker` takes it.
        options: Further options of `metatuner worker`.

    Attributes:
        killed: When each that was killed was so, by its process id; of `time.monotonic`.
    """

    def __init__(
        self,
        folder: Path,
        storage: str,
        trials: int,
        size: int,
        *,
        machines: Sequence[Machine] = (Machine(),),
        strategy: str = "random",
        objective: str = f"{HERE / 'slow.py'}:train",
        options: Sequence[str] = (),
    ) -> None:
        self.storage, self.uri = storage, f"sqlite:///{folder / 'mlflow.db'}"
        self.killed: dict[int, float] = {}
        self._folder, self._machines = folder, machines
        self._arguments = [
            *("worker", objective, "--study", STUDY),
            *("--tracking-uri", self.uri, "--experiment", STUDY, "--strategy", strategy),
            *("--budget", str(trials), "--heartbeat", str(BEAT_S), "--json", *options),
        ]
        self._trials, self._size = trials, size
        self._workers: dict[int, int] = {}  # by their places
        self._nurseries: dict[Any, subprocess.Popen[str]] = {}
        for each in machines:
            if each.kind not in self._nurseries:
                self._nurseries[each.kind] = subprocess.Popen(
                    [*each.before, sys.executable, str(HERE / "nursery.py"), str(folder / "log")],
                    cwd=folder,
                    env={**os.environ, **each.environment},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
        for nursery in self._nurseries.values():
            _answer(nursery)

    @functools.cached_property
    def study(self) -> Study:
        """The study."""
        return optuna.load_study(study_name=STUDY, storage=open_storage(self.storage))

    @property
    def workers(self) -> list[int]:
        """Process ids of those that were started last, by their places."""
        return [self._workers[place] for place in sorted(self._workers)]

    @property
    def live(self) -> list[int]:
        """Those of them that have not ended."""
        return [each for each in self.workers if lives(each)]

    @property
    def is_begun(self) -> bool:
        """Whether any of them has made the study."""
        try:
            return self.study is not None
        except KeyError:
            return False

    @property
    def said(self) -> str:
        """What they have printed."""
        log = self._folder / "log"
        return log.read_text() if log.exists() else ""

    def codes(self, limit_s: float) -> Counter[str]:
        """Waits until all workers have ended; returns their exit codes."""
        began = time.monotonic()
        while self.live:
            if time.monotonic() - began > limit_s:
                raise SystemExit("the workers do not end")
            time.sleep(0.1)
        codes = Counter(self._code(worker) for worker in self.workers)
        if codes.keys() - {"0"}:
            print(self.said[-5000:], file=sys.stderr)
        return codes

    def _code(self, worker: int) -> str:
        file = self._folder / f"{worker}.ended"
        return file.read_text() if file.exists() else "crashed"

    def end(self) -> None:
        """Ends whoever lives still."""
        for worker in self.live:
            os.kill(worker, signal.SIGKILL)
        for nursery in self._nurseries.values():
            nursery.communicate()

    def kill(self, worker: int) -> bool:
        """Kills a worker, unless it has ended."""
        if not lives(worker):
            return False
        os.kill(worker, signal.SIGKILL)
        self.killed[worker] = time.monotonic()
        return True

    def fill(self) -> None:
        """Starts as many workers as there are too few: none in the place of one that has ended by itself."""
        for place in range(self._size):
            if place not in self._workers or self._workers[place] in self.killed:
                machine = self._machines[place % len(self._machines)]
                nursery = self._nurseries[machine.kind]
                assert nursery.stdin is not None
                nursery.stdin.write(json.dumps([*self._arguments, "--storage", machine.address or self.storage]) + "\n")
                nursery.stdin.flush()
                self._workers[place] = int(_answer(nursery))

    def begin_anew(self) -> None:
        """Starts all of them, by the same command, after they have ended."""
        self._workers.clear()
        self.fill()

    def done(self) -> int:
        """How many trials have finished."""
        try:
            return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        except KeyError:  # nobody has made it yet
            return 0


def _answer(nursery: subprocess.Popen[str]) -> str:
    assert nursery.stdout is not None
    return nursery.stdout.readline()


def lives(worker: int) -> bool:
    """Whether a process is there."""
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
