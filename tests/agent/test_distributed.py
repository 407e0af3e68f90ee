"""AdaptiveSchedule under DistributedDataParallel: two real processes that talk over loopback."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.agent.ranks import Ranks
from metatuner.envs.signals import Interval

Started = Callable[..., list[Any]]


@pytest.fixture
def started(start: Callable[..., Any]) -> Started:
    """Starts a training in two processes of its own."""

    def started(home: Path, policy: Path, **settings: Any) -> list[Any]:
        home.mkdir(exist_ok=True)
        given = {"folder": str(home), "meeting": str(home / uuid.uuid4().hex), "policy": str(policy), **settings}
        return [
            start("ddp_loop.py", str(rank), json.dumps(given), output=home / f"said{rank}", flags=["-W", "error"])
            for rank in range(2)
        ]

    return started


def finish(ranks: list[Any]) -> None:
    assert [rank.wait() for rank in ranks] == [0, 0], [rank.printed for rank in ranks]


def logs(home: Path) -> list[dict[int, list[Any]]]:
    """For each rank its last line of each step: [step, its loss, values, signals, digest of the weights]."""
    lines = [(home / f"rank{rank}.log").read_text().splitlines() for rank in range(2)]
    return [{entry[0]: entry for entry in map(json.loads, filter(lambda x: x.endswith("]"), one))} for one in lines]


def agreed(ranks: list[dict[int, list[Any]]]) -> bool:
    """Whether hyperparameters, signals and weights are the same on both ranks, bit for bit, at each step."""
    return [entry[2:] for entry in ranks[0].values()] == [entry[2:] for entry in ranks[1].values()]


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_a_gpu)])
def test_ranks_stay_bit_identical_and_resume_after_a_kill(
    device: str, folder: Path, tmp_path: Path, started: Started
) -> None:
    home = tmp_path / "whole"
    finish(started(home, folder, device=device))
    whole = logs(home)
    assert list(whole[0]) == list(range(1, 61))
    assert agreed(whole)
    assert [entry[1] for entry in whole[0].values()] != [entry[1] for entry in whole[1].values()]  # their own batches
    assert len({json.dumps(entry[2]) for entry in whole[0].values()}) > 5
    ends = [json.loads((home / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert ends[0]["records"] > 10
    assert ends[1]["records"] == 0
    # They talk at the 10 decisions only: the first compares steps, arguments and starting losses, each has one action.
    assert ends[0]["calls"] == ends[1]["calls"] == {"all_reduce": 3 + 9 * 2, "broadcast": 2 + 10}

    home = tmp_path / "killed"
    killed = started(home, folder, pause=0.02, device=device)
    while not (home / "rank0.log").exists() or (home / "rank0.log").read_text().count("\n") < 33:
        assert [rank.poll() for rank in killed] == [None, None], [rank.printed for rank in killed]
        time.sleep(0.01)
    killed[0].kill(*killed[1:])
    assert 25 <= max(int(file.stem.split("-")[1]) for file in home.glob("rank0-*.pt")) < 60
    finish(started(home, folder, device=device))
    assert logs(home) == whole


def test_from_the_first_ranks_state_all_ranks_resume_alike(folder: Path, tmp_path: Path, started: Started) -> None:
    home = tmp_path / "first"
    finish(started(home, folder))
    for file in home.glob("rank?-*.pt"):
        if int(file.stem.split("-")[1]) > 35:  # in the middle of an interval
            file.unlink()
    finish(started(home, folder, first_only=True))
    assert agreed(logs(home))


def test_a_loss_that_is_nan_on_one_rank_rolls_all_back(folder: Path, tmp_path: Path, started: Started) -> None:
    finish(started(tmp_path / "nan", folder, spoil=32))
    ranks = logs(tmp_path / "nan")
    assert agreed(ranks)
    diverged = [step for step, entry in ranks[0].items() if entry[3]["diverged"]]
    # The interval that follows the spoilt one, from the step on that does not count.
    assert diverged == list(range(36, 43))


def test_ranks_that_schedule_differently_are_told_so(folder: Path, tmp_path: Path, started: Started) -> None:
    ranks = started(tmp_path / "different", folder, horizon_of={"1": 70})
    assert all(rank.wait() != 0 for rank in ranks)
    errors = [rank.printed for rank in ranks]
    assert all("ranks of this training do not schedule the same" in error for error in errors), errors


def test_a_state_that_one_rank_alone_loads_is_told_of(folder: Path, tmp_path: Path, started: Started) -> None:
    home = tmp_path / "lonely"
    finish(started(home, folder, steps=60))
    for file in home.glob("rank?-*.pt"):
        if int(file.stem.split("-")[1]) > 35:
            file.unlink()
    ranks = started(home, folder, lonely=True)
    assert all(rank.wait() != 0 for rank in ranks)
    errors = [rank.printed for rank in ranks]
    assert all("load a state on every rank, or on none" in error for error in errors), errors


def test_a_schedule_from_before_the_process_group_is_told_of(folder: Path, tmp_path: Path, started: Started) -> None:
    ranks = started(tmp_path / "late", folder, late=True)
    assert all(rank.wait() != 0 for rank in ranks)
    errors = [rank.printed for rank in ranks]
    assert all("make it after init_process_group" in error for error in errors), errors


def test_alone_everything_is_as_it_is() -> None:
    alone = Ranks("default", torch.device("cpu"))
    interval = Interval.of(train_loss=1.0, diverged=True)
    values = np.array([1.0, np.nan])
    assert alone.first
    assert alone.average(interval) is interval
    assert alone.mean(values) is alone.of_first(values) is values
    assert alone.any(True)
    alone.require_same("anything")
