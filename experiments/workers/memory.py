"""Trials that take memory without end: with a limit, and killed as the system kills what takes too much of it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import greedy
from crew import STUDY, Crew
from metatuner.envs.linux_process import process_memory, processes
from mlflow import MlflowClient
from optuna.trial import TrialState

HERE = Path(__file__).parent
TOO_MUCH_MB = 2**-20 * greedy.BLOCK * greedy.MOST_BLOCKS
CASES = {
    "a process a trial, whose memory has a limit": ("limited", ["--isolated"]),
    "a process a trial, killed from outside": ("unlimited", ["--isolated"]),
    "no process of its own: the worker is killed": ("unlimited", []),
}


def run(case: str, seed: int, trials: int, folder: Path, limit_s: float) -> dict[str, Any]:
    """Runs it.

    Args:
        case: Which of `CASES`.
        seed: Of the configurations.
        trials: The study's budget.
        folder: Where everything is kept.
        limit_s: Seconds after which it is given up.

    Returns:
        What was done, and what was found.
    """
    function, options = CASES[case]
    crew = Crew(
        folder,
        str(folder / "study.journal"),
        trials,
        2,
        objective=f"{HERE / 'greedy.py'}:{function}",
        options=[*options, "--seed", str(seed)],
    )
    began, killed = time.monotonic(), 0
    try:
        crew.fill()
        while crew.live:
            if time.monotonic() - began > limit_s:
                raise SystemExit(f"the study of greedy trials has not ended in {limit_s:g} s: {crew.said}")
            # Those that have a limit are left to it.
            for process, times in processes().items() if function != "limited" else ():
                if _takes_too_much(process):
                    if process in crew.live:
                        killed += crew.kill(process)
                    elif times.parent in crew.live:
                        killed += 1
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(process, signal.SIGKILL)
            crew.fill()
            time.sleep(0.05)
        return {"case": case, "killed from outside": killed, "exit codes": crew.codes(1.0), **_told(crew)}
    finally:
        crew.end()


def _takes_too_much(process: int) -> bool:
    memory = process_memory(process)
    return memory is not None and memory.rss_mb > TOO_MUCH_MB


def _told(crew: Crew) -> dict[str, Any]:
    trials = crew.study.trials
    failed = [each for each in trials if "metatuner:message" in each.user_attrs]
    done = [each for each in trials if each.state is TrialState.COMPLETE]
    client = MlflowClient(crew.uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == STUDY]
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    tags = [run.data.tags for run in runs if "mlflow.parentRunId" in run.data.tags]
    return {
        "finished": len(done),
        "failed": len(failed),
        "failed with other configurations than greedy ones": sum(each.params["x"] >= greedy.GREEDY for each in failed),
        "messages": Counter(each.user_attrs["metatuner:message"] for each in failed),
        "cut off, and tried again": sum(each.state is TrialState.FAIL for each in trials) - len(failed),
        "in MLflow": {
            "parents": [run.info.status for run in parents],
            "states": Counter(each["metatuner.state"] for each in tags),
            "messages of failed ones": Counter(
                each.get("metatuner.message", "none") for each in tags if each["metatuner.state"] == "failed"
            ),
        },
    }
