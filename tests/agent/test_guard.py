"""The guard: silent while all goes well, and what it does where it does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.guard import LONGEST_FIRST_STEP, MOST_DIVERGENCES, TRAILING_FOR, Guard
from metatuner.agent.policy import Policy
from metatuner.envs.adjustments import adjustables
from metatuner.envs.controller import ScheduleController
from metatuner.envs.records import Decision, Record
from metatuner.envs.signals import LIMIT, Interval
from torch import nn

START = np.array([[0.01, 1e-4]])
UP = np.array([[1.0, 1.0]])


def begun(first_update: Sequence[float] = (np.nan,), adaptive: float = 1.0) -> ScheduleController:
    n = len(first_update)
    controller = ScheduleController(adjustables(["lr", "weight_decay"]), 40, np.full(n, adaptive))
    controller.begin(np.tile(START, (n, 1)), Interval.of(val_loss=[1.0] * n, first_update=first_update))
    return controller


def decide(
    controller: ScheduleController, guard: Guard, wanted: np.ndarray, val_loss: float, train_loss: float | None = None
) -> tuple[np.ndarray, str]:
    """A decision, followed by an interval; returns what was done and why."""
    action, (why,) = guard.overrule(controller, wanted)
    controller.adjust(action)
    train_loss = min(val_loss, 100.0) if train_loss is None else train_loss
    controller.observe(Interval.of(val_loss=val_loss, first_loss=1.0, train_loss=train_loss))
    return action, why


def test_a_policy_that_gets_on_is_left_alone() -> None:
    controller, guard = begun(), Guard({"val_since_last": (-1.0, 1.0)}, 1, 2)
    for loss in (0.9, 0.8, 0.85, 0.7, 0.6):
        action, why = decide(controller, guard, UP, loss)
        assert why == ""
        assert np.array_equal(action, UP)


def test_where_the_loss_trails_its_best_the_values_go_back_to_it() -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    decide(controller, guard, UP, 0.5)
    best = controller.values(START)
    for _ in range(TRAILING_FOR):
        _, why = decide(controller, guard, UP, 0.8)
        assert why == ""
    for _ in range(6):
        _, why = decide(controller, guard, UP, 0.8)
        assert "trails" in why
    assert controller.values(START) == pytest.approx(best)


def test_where_a_training_overfits_its_rate_comes_down() -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    decide(controller, guard, UP, 0.5)
    decide(controller, guard, UP, 0.53, train_loss=0.4)
    for val_loss, train_loss in ((0.56, 0.3), (0.55, 0.2)):
        action, why = decide(controller, guard, UP, val_loss, train_loss)
        assert why == "guard: overfits"
        assert action.tolist() == [[-1.0, 1.0]]
    # Where the validation loss has stopped to rise it is the policy's to judge again.
    action, why = decide(controller, guard, UP, 0.54, train_loss=0.2)
    assert why == ""
    assert np.array_equal(action, UP)


@pytest.mark.parametrize(
    ("best", "val_loss", "train_loss"),
    [
        (0.5, 0.52, 0.4),  # losses vary by as much
        (0.5, 0.6, 0.55),  # the training loss rises, too: it is the rate that is too high
        (0.02, 0.05, 0.01),  # more than twice as much, but of a start at 1
        (1.1, 1.2, 0.5),  # nothing was gained that could be lost
    ],
)
def test_what_looks_like_overfitting_and_is_none(best: float, val_loss: float, train_loss: float) -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    decide(controller, guard, UP, best)
    decide(controller, guard, UP, val_loss, train_loss)
    assert guard.overrule(controller, UP)[1] == [""]


def test_a_validation_loss_that_is_not_new_tells_of_no_overfitting() -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    decide(controller, guard, UP, 0.5)
    decide(controller, guard, UP, 0.6, train_loss=0.4)
    assert guard.overrule(controller, UP)[1] == ["guard: overfits"]
    controller.observe(Interval.of(train_loss=0.3))
    assert guard.overrule(controller, UP)[1] == [""]


@pytest.mark.parametrize("known", [True, False])
def test_after_a_change_of_the_data_it_looks_at_the_new_ones_alone(known: bool) -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    decide(controller, guard, UP, 0.3, train_loss=0.05)
    decide(controller, guard, UP, 0.6, train_loss=0.04)  # overfits, but that is of the old data by then
    controller.rebase(np.array([0.5 if known else np.nan]))
    losses = [(0.45, 0.45), (0.4, 0.4), (0.45, 0.3), (0.5, 0.2)]
    said = [decide(controller, guard, UP, val_loss, train_loss)[1] for val_loss, train_loss in losses]
    assert said == ["", "", "", "guard: overfits"]
    assert guard.overrule(controller, UP)[1] == ["guard: overfits"]
    # Where the new data are harder than the old ever were, nothing trails, and all is well as long as both losses fall.
    controller.rebase(np.array([2.0]))
    said = [decide(controller, guard, UP, loss, train_loss=loss)[1] for loss in (1.9, 1.8, 1.7, 1.6, 1.5, 1.4, 1.3)]
    assert said == [""] * 7


def test_it_lowers_a_rate_and_never_raises_it() -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    decide(controller, guard, UP, 0.5)
    for _ in range(TRAILING_FOR + 2):
        decide(controller, guard, -UP, 0.8)
    assert controller.values(START)[0, 0] < START[0, 0] / 20
    # Weight decay does go back up.
    before = controller.offset[0]
    decide(controller, guard, -UP, 0.8)
    assert controller.offset[0, 1] > before[1]
    assert controller.offset[0, 0] == before[0]


def test_after_many_divergences_no_rate_is_raised() -> None:
    controller, guard = begun(), Guard({}, 1, 2)
    for _ in range(MOST_DIVERGENCES + 1):
        _, why = decide(controller, guard, UP, 1e9)
        assert why == ""
    action, why = decide(controller, guard, UP, 0.9)
    assert "taken back again" in why
    assert action.tolist() == [[0.0, 1.0]]
    action, why = decide(controller, guard, -UP, 0.9)
    assert why == ""
    assert action.tolist() == [[-1.0, -1.0]]


def test_signals_that_the_policy_never_saw_are_named() -> None:
    controller, guard = begun(), Guard({"generalisation_gap": (-0.5, 0.5)}, 1, 2)
    decide(controller, guard, UP, 0.9)
    controller.observe(Interval.of(val_loss=0.9, train_loss=0.01))
    action, (why,) = guard.overrule(controller, UP)
    assert "generalisation_gap" in why
    assert action[0, 0] <= 0.0


def test_signals_count_as_the_policy_sees_them() -> None:
    # The loss falls so fast that its outlook is far beyond where signals are clipped: a policy sees the limit.
    controller, guard = begun(), Guard(dict.fromkeys(("train_outlook", "val_outlook"), (-LIMIT, LIMIT)), 1, 2)
    for loss in (0.3, 0.1, 0.03, 0.01):
        action, why = decide(controller, guard, UP, loss)
        assert why == ""
        assert np.array_equal(action, UP)
    assert controller.signals()["val_outlook"][0] < -2 * LIMIT


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_first_step_is_no_longer_than_weights_can_bear(sign: float) -> None:
    controller, guard = begun(first_update=[0.9, 0.1, 0.01]), Guard({}, 3, 2)
    action, reasons = guard.overrule(controller, np.full((3, 2), sign))
    controller.adjust(action)
    assert np.array_equal(action, np.full((3, 2), sign))
    far, near, never = controller.values(np.tile(START, (3, 1)))[:, 0] / START[0, 0] * [0.9, 0.1, 0.01]
    assert far == pytest.approx(LONGEST_FIRST_STEP)
    assert near == pytest.approx(LONGEST_FIRST_STEP if sign > 0 else 0.1 / 3)
    assert never == pytest.approx(0.01 * 3**sign)
    assert reasons == ["guard: first step too long", "guard: first step too long" if sign > 0 else "", ""]
    assert controller.values(np.tile(START, (3, 1)))[:, 1] == pytest.approx(controller.values(START[[0] * 3])[0, 1])
    controller.observe(Interval.of(val_loss=[0.9] * 3))
    assert guard.overrule(controller, np.full((3, 2), sign))[1] == [""] * 3  # later ones may be long


def test_a_long_first_step_is_left_alone_where_it_tells_nothing() -> None:
    wanted = np.zeros((1, 2))
    for controller in (
        begun(first_update=[1.0], adaptive=0.0),  # its length follows from the gradient
        begun(first_update=[1e9]),  # the weights are next to nothing
        begun(),  # nobody knows it
    ):
        assert Guard({}, 1, 2).overrule(controller, wanted)[1] == [""]
        assert not controller.offset.any()


def test_a_state_goes_on_bit_for_bit() -> None:
    losses = [0.5, 0.9, 1e9, 0.9, 0.9, 1e9, 0.9, 1e9, 0.9, 0.9]
    done = []
    for stop in (None, 5):
        controller, guard = begun(), Guard({}, 1, 2)
        for i, loss in enumerate(losses):
            if i == stop:
                saved, (fresh, guard) = (controller.state_dict(), guard.state_dict()), (begun(), Guard({}, 1, 2))
                fresh.load_state_dict(saved[0])
                guard.load_state_dict(saved[1])
                controller = fresh
            decide(controller, guard, UP, loss)
        done.append(controller.offset)
    assert np.array_equal(*done)


class Memory:
    def __init__(self) -> None:
        self.notes: list[str] = []

    def record(self, record: Record, /) -> None:
        if isinstance(record, Decision):
            self.notes.append(record.note)


@pytest.mark.parametrize("guard", [True, False])
def test_a_schedule_records_what_the_guard_did(lively: Policy, guard: bool) -> None:
    knows_little = Policy("narrow", lively.actor, lively.decisions, {"signal_ranges": {"train_since_last": [0.0, 0.0]}})
    torch.manual_seed(0)
    model, memory = nn.Linear(3, 1), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tuner = AdaptiveSchedule(optimizer, 50, knows_little, ("lr",), memory, guard=guard)
    for _ in range(50):
        loss = (model(torch.randn(16, 3)) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)
    assert any("train_since_last" in note for note in memory.notes) == guard


@pytest.mark.parametrize("guard", [True, False])
def test_a_schedule_begins_with_a_step_that_does_not_destroy_its_model(lively: Policy, guard: bool) -> None:
    torch.manual_seed(0)
    model, memory = nn.Linear(64, 64), Memory()
    before = model.weight.detach().clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5)
    tuner = AdaptiveSchedule(optimizer, 50, lively, ("lr",), memory, guard=guard)
    loss = (model(torch.randn(16, 64)) - 1).square().mean()
    loss.backward()
    optimizer.step()
    tuner.step(loss)
    moved = float((model.weight.detach() - before).norm() / before.norm())
    assert (moved < 1.1 * LONGEST_FIRST_STEP) == guard
    assert ("first step too long" in memory.notes[0]) == guard
