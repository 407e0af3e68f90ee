"""Readers of a schedule's saved states, and of meta-training's checkpoints."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzzed import Fuzzed, reader
from hypothesis import strategies as st
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.meta_training import MetaTrainingSettings, train_schedule_policy
from metatuner.agent.policy import Policy
from metatuner.agent.schedule_state import read_state, write_state
from metatuner.agent.search_policy import SearchPolicy
from metatuner.agent.search_training import SearchTrainingSettings, learn_to_search
from metatuner.envs import records as r
from mutations import altered, as_json, json_files, odd_values, tensor_files
from policies import use_search_policy
from spaces import put


def _schedule() -> tuple[AdaptiveSchedule, torch.nn.Linear]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return AdaptiveSchedule(optimizer, 12, _default_policy(), ("lr", "momentum"), model=model, decide_every=4), model


@functools.cache
def _default_policy() -> Policy:
    return Policy.load("schedule-default")


def _train(schedule: AdaptiveSchedule, model: torch.nn.Linear, steps: int) -> None:
    for _ in range(steps):
        loss = (model(torch.ones(3, 2)) - 3.0).square().mean() + 0.1
        schedule._optimizer.zero_grad()
        loss.backward()
        schedule._optimizer.step()
        schedule.step(loss)
    schedule.validate(1.0)


def _saved() -> dict[str, Any]:
    schedule, model = _schedule()
    _train(schedule, model, 5)
    state = schedule.state_dict()
    schedule.close()
    return state


@reader("schedule: saved state")
def _(folder: Path) -> Iterator[Fuzzed]:
    whole = _saved()
    tensors = [
        torch.zeros(0),
        torch.zeros(3),
        torch.full((1,), float("nan")),
        torch.ones(1, 2),
        torch.ones(1, dtype=torch.int64),
        np.ones(2),
    ]

    def read(state: Any) -> None:
        schedule, model = _schedule()
        try:
            schedule.load_state_dict(state)
            _train(schedule, model, 7)
            assert all(np.isfinite(value) for value in schedule.values.values())
        finally:
            schedule._hooks.remove()

    places = [
        ("steps",),
        ("controller", "_offset"),
        ("controller", "_val_best"),
        ("remembered",),
        ("guard", "best"),
        ("meter", "sums", "mean"),
        ("meter", "sums", "x"),
        ("meter", "counts", "losses"),
        ("rollback", "weights"),
        ("horizon", "decisions"),
        ("observed",),
    ]
    exchanged = st.builds(
        lambda names, value: put(whole, names, value), st.sampled_from(places), st.sampled_from(tensors) | odd_values
    )
    yield Fuzzed(altered(whole, raw=False) | exchanged, read)


@reader("schedule: checkpoint file of a callback")
def _(folder: Path) -> Iterator[Fuzzed]:
    write_state(_saved(), folder / "state.safetensors")
    whole = (folder / "state.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def with_state(state: bytes) -> bytes:
        text = as_json({**header, "__metadata__": {"state": state.decode("utf-8", "replace")}})
        return struct.pack("<Q", len(text)) + text + body

    def read(data: bytes) -> None:
        (folder / "state.safetensors").write_bytes(data)
        schedule, model = _schedule()
        try:
            schedule.load_state_dict(read_state(folder / "state.safetensors"))
            _train(schedule, model, 7)
        finally:
            schedule._hooks.remove()

    yield Fuzzed(json_files(header["__metadata__"]["state"].encode()).map(with_state) | tensor_files(whole), read)


class _StoppedError(Exception):
    """Ends a run early."""


class _StopAtCard:
    """Ends a run once its policy is saved: its checkpoint lies there still."""

    def record(self, record: r.Record, /) -> None:
        if isinstance(record, r.Artifact):
            raise _StoppedError


@reader("meta-training: checkpoint of a schedule's")
def _(folder: Path) -> Iterator[Fuzzed]:
    settings = MetaTrainingSettings(
        steps=15, decisions=(3, 3), horizon=(6, 12), groups=1, group_size=5, copies=5, seed=2
    )

    def train() -> None:
        with contextlib.suppress(_StoppedError):
            train_schedule_policy(settings, folder, evaluation_groups=0, recorder=_StopAtCard())

    train()
    whole = (folder / "checkpoint.safetensors").read_bytes()

    def read(data: bytes) -> None:
        (folder / "checkpoint.safetensors").write_bytes(data)
        train()

    yield Fuzzed(tensor_files(whole), read)


@reader("meta-training: checkpoint of a search's")
def _(folder: Path) -> Iterator[Fuzzed]:
    settings = SearchTrainingSettings(steps=100, searches=1, epochs=1, width=4, seed=2)
    learn_to_search(settings, folder, recorder=r.NullRecorder())
    whole = (folder / "checkpoint.safetensors").read_bytes()

    def read(data: bytes) -> None:
        (folder / "checkpoint.safetensors").write_bytes(data)
        actor = learn_to_search(settings, folder, recorder=r.NullRecorder())
        use_search_policy(SearchPolicy("x", actor))

    yield Fuzzed(tensor_files(whole), read)
