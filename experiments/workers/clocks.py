"""Four workers whose clocks differ by hours and days, one of which jumps, and that are killed now and then.

Each is a machine of its own, as far as its name goes, so that a dead worker is known by its silence alone. libfaketime
turns the clocks; what counts seconds (CLOCK_MONOTONIC) is the kernel's on every machine, as it is in life.
"""

from __future__ import annotations

import math
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crew import BEAT_S, STUDY, Crew, Machine, found
from metatuner.agent.cut_off_trials import is_cut_off
from metatuner.envs.records import OWNER_ATTRIBUTE, VOID_ATTRIBUTE
from mlflow import MlflowClient
from optuna.trial import FrozenTrial, TrialState
from postgres import Postgres

CLOCKS = ("+0", "+3h", "-2d")
KILL_EVERY_S, REPLACED_S, JUMP_EVERY_S, LOOK_EVERY_S = 14.0, 13.0, 2.0, 0.2
FURTHEST_S = 2 * 24 * 3600


def run(seed: int, trials: int, folder: Path, limit_s: float) -> dict[str, Any]:
    """Runs it.

    Args:
        seed: Of who is killed, and how the clock jumps.
        trials: The study's budget.
        folder: Where everything is kept.
        limit_s: Seconds after which it is given up.

    Returns:
        What was done, and what was found.
    """
    chance, jumping = random.Random(seed), folder / "clock"
    jumping.write_text("+0")
    with Postgres() as server:
        crew = Crew(folder, server.database(), trials, 4, machines=list(_machines(jumping)))
        try:
            noticed_s = _live(crew, trials, chance, jumping, limit_s)
            return {"clocks": [*CLOCKS, "jumps"], "kills": len(crew.killed), **_told(crew, trials, noticed_s)}
        finally:
            crew.end()


def _machines(jumping: Path) -> Iterator[Machine]:
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        raise SystemExit("expected libfaketime: apt-get install -y faketime")
    own_name = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"']
    if subprocess.run([*own_name, "machine", "true"], capture_output=True).returncode:
        raise SystemExit("expected to be allowed `unshare --uts`, which gives each worker a machine's name of its own")
    fake = {"LD_PRELOAD": str(library), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    each_own: list[dict[str, str]] = [{"FAKETIME": clock} for clock in CLOCKS]
    each_own.append({"FAKETIME_TIMESTAMP_FILE": str(jumping), "FAKETIME_CACHE_DURATION": "1"})
    for number, own in enumerate(each_own):
        yield Machine(environment={**fake, **own}, before=[*own_name, f"machine-{number}"])


def _live(crew: Crew, trials: int, chance: random.Random, jumping: Path, limit_s: float) -> list[float]:
    """Kills and jumps until all workers have ended; returns after how many seconds each dead one was noticed."""
    began = time.monotonic()
    kill_s, replace_s, jump_s = began, math.inf, began
    noticed: dict[int, float] = {}
    crew.fill()
    while crew.live:
        now = time.monotonic()
        if now - began > limit_s:
            raise SystemExit(f"the clocks' study has not ended in {limit_s:g} s")
        if now >= jump_s:
            new = jumping.with_suffix(".new")
            new.write_text(f"{chance.randint(-FURTHEST_S, FURTHEST_S):+d}s")
            new.replace(jumping)
            jump_s = now + JUMP_EVERY_S
        tried = crew.study.get_trials(deepcopy=False) if crew.is_begun else []
        for trial in tried:
            if trial.state is TrialState.FAIL and trial.number not in noticed and _worker(trial) in crew.killed:
                noticed[trial.number] = now - crew.killed[_worker(trial)]
        busy = {_worker(trial) for trial in tried if trial.state is TrialState.RUNNING and trial.params}
        done = sum(trial.state is TrialState.COMPLETE for trial in tried)
        if now >= kill_s and done < 0.8 * trials and (victims := [each for each in crew.live if each in busy]):
            crew.kill(chance.choice(victims))
            kill_s, replace_s = now + KILL_EVERY_S, now + REPLACED_S
        if now >= replace_s:  # not at once: whoever has its machine's name would know that it is gone
            crew.fill()
            replace_s = math.inf
        time.sleep(LOOK_EVERY_S)
    return sorted(noticed.values())


def _worker(trial: FrozenTrial) -> int:
    """The process id of whoever runs, or ran, a trial."""
    return int(str(trial.user_attrs.get(OWNER_ATTRIBUTE, "/0")).split("/")[1])


def _told(crew: Crew, trials: int, noticed_s: list[float]) -> dict[str, Any]:
    ended = [trial for trial in crew.study.trials if trial.duration is not None]
    cut_off = [trial for trial in ended if is_cut_off(trial) and VOID_ATTRIBUTE not in trial.user_attrs]
    client = MlflowClient(crew.uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == STUDY]
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    # A run that the leader made, because its worker was killed before it had sent it, has no costs.
    costs = [run.data.metrics for run in runs if "metatuner.trial" in run.data.tags and run.info.status == "FINISHED"]
    training_s = [each["resource/training_s"] for each in costs if "resource/training_s" in each]
    return {
        "exit codes of the last workers": crew.codes(1.0),
        "a dead worker is to be noticed after": f"{5 * BEAT_S:g} s and up to three signs of life",
        "was noticed after, seconds": [round(each, 1) for each in noticed_s],
        "workers that lived, taken for dead": sum(_worker(trial) not in crew.killed for trial in cut_off),
        "durations below zero in the storage": sum(each.duration.total_seconds() < 0 for each in ended),
        "durations below zero in MLflow": sum(run.info.end_time < run.info.start_time for run in runs),
        "resource/training_s of trials of half a second": [min(training_s, default=0.0), max(training_s, default=0.0)],
        **found(crew, trials),
    }
