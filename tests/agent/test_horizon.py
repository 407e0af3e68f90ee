"""Trainings without a known end, with another end than they had, and on data that changes."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.horizon import OPEN_INTERVAL, Horizon
from metatuner.agent.policy import Policy
from metatuner.envs.errors import ConfigurationError, TrainingError
from metatuner.envs.records import Decision, Record
from metatuner.envs.references import DECAY
from torch import nn


class Memory:
    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, record: Record, /) -> None:
        if isinstance(record, Decision):
            self.decisions.append(record)

    @property
    def steps(self) -> list[int]:
        return [decision.step for decision in self.decisions]


class Loop:
    """A small training whose losses follow from the seed."""

    def __init__(self, policy: Policy, total_steps: int | None, lr: float = 1e-3, **options: object) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
            self.x, self.generator = torch.randn(200, 8), torch.Generator().manual_seed(1)
        self.y = self.x[:, :3].argmax(1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.memory = Memory()
        self.tuner = AdaptiveSchedule(self.optimizer, total_steps, policy, recorder=self.memory, **options)  # type: ignore[arg-type]

    def loss(self, rows: torch.Tensor | slice) -> torch.Tensor:
        return nn.functional.cross_entropy(self.model(self.x[rows]), self.y[rows])

    def train(self, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            loss = self.loss(torch.randint(0, 150, (16,), generator=self.generator))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.tuner.step(loss)
            if self.tuner.steps % 5 == 0:
                self.tuner.validate(self.loss(slice(150, None)).item())
            losses.append(loss.item())
        return losses


@given(st.integers(1, 500), st.integers(1, 60))
def test_the_steps_between_decisions_add_up_to_the_whole(total: int, decisions: int) -> None:
    horizon = Horizon(total, decisions)
    assert horizon.decisions == min(total, decisions)
    step, lengths = 0, []
    for decision in range(horizon.decisions or 0):
        lengths.append(horizon.steps_after(decision, step))
        step += lengths[-1]
    assert step == total
    assert max(lengths) - min(lengths) <= 1


@given(st.integers(1, 500), st.integers(1, 60), st.integers(0, 300))
def test_a_given_distance_is_kept_to_the_last_interval(total: int, every: int, more: int) -> None:
    horizon = Horizon(total, 25, every)
    begins, step = [], 0
    while step < total:
        begins.append(step)
        step += horizon.steps_after(len(begins) - 1, step)
    assert step == total and len(begins) == horizon.decisions
    assert begins == [every * i for i in range(len(begins))]
    assert len(begins) == 1 or every / 2 <= total - begins[-1] <= 1.5 * every
    horizon.extend(total + more + 1, len(begins), total)
    assert horizon.steps_after(len(begins), total) == (every if horizon.decisions > len(begins) + 1 else more + 1)  # type: ignore[operator]


@given(st.integers(2, 200), st.integers(1, 20), st.integers(1, 300))
def test_an_extended_horizon_keeps_the_distance_and_ends_where_it_should(total: int, decisions: int, more: int) -> None:
    horizon = Horizon(total, decisions)
    before = total / (horizon.decisions or 1)
    horizon.extend(total + more, horizon.decisions or 0, total)
    step, count = total, 0
    while step < total + more:
        length = horizon.steps_after((min(total, decisions)) + count, step)
        assert length <= 2 * before + 1 or more < before
        step, count = step + length, count + 1
    assert step == total + more
    assert horizon.decisions == min(total, decisions) + count


def test_without_a_known_end_decisions_come_at_equal_distances_and_hide_the_horizon(lively: Policy) -> None:
    loop = Loop(lively, None, decide_every=7)
    loop.train(71)
    assert loop.memory.steps == list(range(0, 71, 7))
    for decision in loop.memory.decisions:
        shown = [decision.signals[name] for name in ("horizon_known", "progress", "decisions_left")]
        assert shown == [0.0, 0.0, 0.0]
    assert loop.tuner.total_steps is None
    assert Loop(lively, None).tuner.total_steps is None
    default = Loop(lively, None)
    default.train(OPEN_INTERVAL + 1)
    assert default.memory.steps == [0, OPEN_INTERVAL]


def test_an_open_training_learns_of_its_end(lively: Policy) -> None:
    loop = Loop(lively, None, decide_every=5)
    loop.train(12)
    loop.tuner.extend(30)
    loop.train(20)
    assert loop.memory.steps == [0, 5, 10, 15, 20, 25]
    known = [decision.signals["horizon_known"] for decision in loop.memory.decisions]
    assert known == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert loop.memory.decisions[-1].signals["progress"] == pytest.approx(5 / 6)


@pytest.mark.parametrize("at", [0, 13, 20, 23])
def test_a_training_gets_a_later_end_before_within_and_after_it(at: int, lively: Policy) -> None:
    loop = Loop(lively, 20)
    loop.train(at)
    loop.tuner.extend(40)
    loop.train(40 - at)
    distances = np.diff(loop.memory.steps)
    # A step beyond the first end belongs to the interval that it found.
    assert sorted(distances.tolist())[-2] == 2
    assert distances.max() <= 2 + max(at - 20, 0)
    assert loop.memory.steps[0] == 0
    assert 20 <= loop.memory.steps[-1] < 40
    assert loop.memory.decisions[-1].signals["progress"] < 1.0
    with pytest.raises(ConfigurationError, match="cannot end after"):
        loop.tuner.extend(39)


def test_a_reference_that_decays_at_the_end_waits_for_an_end_and_returns_for_a_later_one() -> None:
    decaying = replace(Policy.load("zero"), decisions=10, card={"reference": "stable_decay"})
    loop = Loop(decaying, None, lr=1e-3)
    loop.train(30)
    assert loop.tuner.values["lr"] == 1e-3
    loop.tuner.extend(50)
    loop.train(15)
    assert loop.tuner.values["lr"] == pytest.approx(1e-3 * 5 / 50 / DECAY)
    loop.train(5)
    loop.tuner.extend(100)
    loop.train(1)
    assert loop.tuner.values["lr"] == 1e-3


def test_a_finished_training_is_resumed_with_a_later_end(lively: Policy) -> None:
    whole = Loop(lively, 20)
    whole.train(20)
    # torch's optimisers share the tensors of a state that they load.
    state, optimizer = copy.deepcopy((whole.tuner.state_dict(), whole.optimizer.state_dict()))
    again = Loop(lively, 35)
    again.model.load_state_dict(whole.model.state_dict())
    again.optimizer.load_state_dict(optimizer)
    again.generator.set_state(whole.generator.get_state())
    again.tuner.load_state_dict(state)
    whole.tuner.extend(35)
    assert again.train(15) == whole.train(15)
    assert again.memory.steps == whole.memory.steps[-len(again.memory.steps) :]
    assert again.tuner.total_steps == 35


def test_new_data_are_not_compared_with_the_old() -> None:
    zero = replace(Policy.load("zero"), decisions=10)
    told, untold = Loop(zero, 80, lr=0.03), Loop(zero, 80, lr=0.03)
    for loop in (told, untold):
        loop.train(40)
        loop.y = (loop.y + 1) % 3
    told.tuner.new_data(told.loss(slice(150, None)).item())
    for loop in (told, untold):
        loop.train(20)
    worst = [max(d.signals["val_since_best"] for d in loop.memory.decisions) for loop in (told, untold)]
    assert worst[0] < 0.5 < worst[1]
    with pytest.raises(TrainingError, match="new data"):
        told.tuner.new_data(-1.0)


def test_memory_does_not_grow_with_the_training(lively: Policy) -> None:
    loop = Loop(lively, None, decide_every=3, on_divergence="cut")
    loop.train(30)
    early = len(pickle.dumps(loop.tuner.state_dict()))
    loop.memory.decisions.clear()
    loop.train(300)
    assert len(pickle.dumps(loop.tuner.state_dict())) <= early + 64
    assert early < 13_500


def test_bad_horizons_are_refused(lively: Policy) -> None:
    with pytest.raises(ConfigurationError, match="decide_every"):
        Loop(lively, 10, decide_every=0)
    loop = Loop(lively, 10)
    with pytest.raises(ConfigurationError, match="total_steps"):
        loop.tuner.extend(0)
    cosine = Policy("cosine", lively.actor, 10, {"reference": "cosine"})
    with pytest.raises(ConfigurationError, match="depends on the end"):
        Loop(cosine, None)
