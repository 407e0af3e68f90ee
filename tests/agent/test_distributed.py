"""AdaptiveSchedule under DistributedDataParallel: two real processes that talk over loopback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metatuner.agent.ranks import Ranks
from metatuner.envs.signals import Interval

LOOP = Path(__file__).with_name("ddp_loop.py")


def start(home: Path, policy: Path, **settings: Any) -> list[subprocess.Popen[str]]:
    home.mkdir(exist_ok=True)
    given = {"folder": str(home), "meeting": str(home / uuid.uuid4().hex), "policy": str(policy), **settings}
    return [
        subprocess.Popen(
            [sys.executable, "-W", "error", str(LOOP), str(rank), json.dumps(given)], stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]


def finish(processes: list[subprocess.Popen[str]]) -> None:
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors


def logs(home: Path) -> list[dict[int, list[Any]]]:
    """For each rank its last line of each step: [step, its loss, values, signals, digest of the weights]."""
    lines = [(home / f"rank{rank}.log").read_text().splitlines() for rank in range(2)]
    return [{entry[0]: entry for entry in map(json.loads, filter(lambda x: x.endswith("]"), one))} for one in lines]


def agreed(ranks: list[dict[int, list[Any]]]) -> bool:
    """Whether hyperparameters, signals and weights are the same on both ranks, bit for bit, at each step."""
    return [entry[2:] for entry in ranks[0].values()] == [entry[2:] for entry in ranks[1].values()]


def test_ranks_stay_bit_identical_and_resume_after_a_kill(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "whole"
    finish(start(home, folder))
    whole = logs(home)
    assert list(whole[0]) == list(range(1, 61))
    assert agreed(whole)
    assert [entry[1] for entry in whole[0].values()] != [entry[1] for entry in whole[1].values()]  # their own batches
    assert len({json.dumps(entry[2]) for entry in whole[0].values()}) > 5
    ends = [json.loads((home / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ends[0]["records"] > 10
    assert ends[1]["records"] == 0
    # They talk at the 10 decisions only: the first compares arguments and starting losses, each has one action.
    assert ends[0]["calls"] == ends[1]["calls"] == {"all_reduce": 2 + 9 * 2, "broadcast": 1 + 10}

    home = tmp_path / "killed"
    processes = start(home, folder, pause=0.02)
    while not (home / "rank0.log").exists() or (home / "rank0.log").read_text().count("\n") < 33:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
    for process in processes:
        process.communicate()
    assert 25 <= max(int(file.stem.split("-")[1]) for file in home.glob("rank0-*.pt")) < 60
    finish(start(home, folder))
    assert logs(home) == whole


def test_from_the_first_ranks_state_all_ranks_resume_alike(folder: Path, tmp_path: Path) -> None:
    home = tmp_path / "first"
    finish(start(home, folder))
    for file in home.glob("rank?-*.pt"):
        if int(file.stem.split("-")[1]) > 35:  # in the middle of an interval
            file.unlink()
    finish(start(home, folder, first_only=True))
    assert agreed(logs(home))


def test_a_loss_that_is_nan_on_one_rank_rolls_all_back(folder: Path, tmp_path: Path) -> None:
    finish(start(tmp_path / "nan", folder, spoil=32))
    ranks = logs(tmp_path / "nan")
    assert agreed(ranks)
    diverged = [step for step, entry in ranks[0].items() if entry[3]["diverged"]]
    # The interval that follows the spoilt one, from the step on that does not count.
    assert diverged == list(range(36, 43))


def test_ranks_that_schedule_differently_are_told_so(folder: Path, tmp_path: Path) -> None:
    processes = start(tmp_path / "different", folder, horizon_of={"1": 70})
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert all(process.returncode != 0 for process in processes)
    assert all("ranks of this training do not schedule the same" in error for error in errors), errors


def test_alone_everything_is_as_it_is() -> None:
    alone = Ranks("default", torch.device("cpu"))
    interval = Interval.of(train_loss=1.0, diverged=True)
    values = np.array([1.0, np.nan])
    assert alone.first
    assert alone.average(interval) is interval
    assert alone.mean(values) is alone.of_first(values) is values
    assert alone.any(True)
    alone.require_same("anything")
