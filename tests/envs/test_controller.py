from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metatuner.envs.adjustments import adjustables
from metatuner.envs.controller import DIVERGENCE_PENALTY, ScheduleController, observation_size
from metatuner.envs.errors import TrainingError
from metatuner.envs.signals import GLOBAL_SIGNALS, LIMIT, Interval

HYPERPARAMETERS = adjustables(("lr", "weight_decay", "momentum"))
START = np.array([[0.01, 1e-4, 0.9]])

losses = st.floats(1e-3, 1e2)
measured = st.fixed_dictionaries(
    {
        "first_loss": losses,
        "train_loss": losses,
        "train_loss_std": st.floats(0, 10),
        "early_loss": losses,
        "late_loss": losses,
        "val_loss": losses,
        "log_grad_norm": st.floats(-10, 10),
        "alignment": st.floats(-1, 1),
        "relative_update": st.floats(0, 10),
    }
)
LOSSES = ("first_loss", "train_loss", "train_loss_std", "early_loss", "late_loss", "val_loss")


def controller(val_loss: float = 1.0, decisions: int = 5) -> ScheduleController:
    made = ScheduleController(HYPERPARAMETERS, decisions, np.array([1.0]))
    made.begin(START, Interval.of(val_loss=val_loss))
    return made


@given(st.lists(measured, min_size=1, max_size=5), st.floats(0.1, 10))
def test_observations_are_bounded_and_rewards_add_up(intervals: list[dict[str, float]], start: float) -> None:
    schedule = controller(start)
    total, penalties = 0.0, 0
    for interval in intervals:
        reward, diverged = schedule.observe(Interval.of(**interval))
        seen = schedule.observation()
        assert seen.shape == (1, observation_size(3))
        assert seen.dtype == np.float32
        assert np.all(np.abs(seen) <= LIMIT)
        total, penalties = total + float(reward[0]), penalties + int(diverged[0])
    expected = np.log(start / schedule.val_loss[0]) - DIVERGENCE_PENALTY * penalties
    assert total == pytest.approx(expected, abs=1e-9)


@given(st.lists(measured, min_size=1, max_size=4), st.sampled_from([1e-6, 0.1, 8.0, 1e7]))
def test_rescaled_losses_and_gradients_look_the_same(intervals: list[dict[str, float]], scale: float) -> None:
    plain, scaled = controller(2.0), controller(2.0 * scale)
    for interval in intervals:
        rescaled = {name: value * scale if name in LOSSES else value for name, value in interval.items()}
        rescaled["log_grad_norm"] = interval["log_grad_norm"] + np.log(scale)
        rewards = [schedule.observe(Interval.of(**i))[0] for schedule, i in ((plain, interval), (scaled, rescaled))]
        np.testing.assert_allclose(plain.observation(), scaled.observation(), atol=1e-4)
        np.testing.assert_allclose(*rewards, atol=1e-6)


@given(st.lists(st.lists(st.floats(-2, 2), min_size=3, max_size=3), max_size=60))
def test_values_stay_in_bounds_and_can_turn_back_at_once(actions: list[list[float]]) -> None:
    schedule = controller()
    for action in actions:
        schedule.adjust(np.array([action]))
        for value, each in zip(schedule.values(START)[0], HYPERPARAMETERS, strict=True):
            assert each.distribution.low <= value <= each.distribution.high or value in START
    before = schedule.values(START)[0, 0]
    schedule.adjust(np.array([[-1.0, 0.0, 0.0]]))
    assert schedule.values(START)[0, 0] == pytest.approx(max(before / 3, 1e-8))


def test_no_adjustment_is_the_reference_bit_for_bit() -> None:
    schedule = controller()
    reference = START * np.linspace(1, 0, 7)[:, None, None]
    schedule.adjust(np.zeros((1, 3)))
    assert np.array_equal(schedule.values(reference), reference)


@pytest.mark.parametrize("interval", [{"train_loss": np.nan, "diverged": 1.0}, {"train_loss": 1.0, "val_loss": 25.0}])
def test_divergence_costs_cuts_the_rate_and_keeps_the_last_losses(interval: dict[str, float]) -> None:
    schedule = controller()
    schedule.observe(Interval.of(first_loss=1.0, train_loss=0.8, val_loss=0.9))
    reward, diverged = schedule.observe(Interval.of(**interval))
    assert diverged[0]
    assert reward[0] == -DIVERGENCE_PENALTY
    assert schedule.val_loss[0] == 0.9
    assert schedule.values(START)[0, 0] == pytest.approx(0.01 / 4)
    assert schedule.named_signals()["diverged"] == 1.0


def test_without_validation_the_training_loss_stands_in() -> None:
    schedule = controller(np.nan)
    reward, _ = schedule.observe(Interval.of(first_loss=2.0, train_loss=1.0))
    assert reward[0] == pytest.approx(np.log(2.0))
    schedule.observe(Interval.of(train_loss=0.9, val_loss=1.5))
    held, _ = schedule.observe(Interval.of(train_loss=0.8))
    assert held[0] == 0.0
    assert schedule.val_loss[0] == 1.5


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_is_not_positive_is_refused(loss: float) -> None:
    with pytest.raises(TrainingError, match="positive"):
        controller(loss)


def test_a_state_goes_on_bit_for_bit() -> None:
    one, other = controller(), controller()
    for loss in (0.9, 0.5):
        one.adjust(np.array([[0.3, -0.2, 1.0]]))
        one.observe(Interval.of(first_loss=1.0, train_loss=loss, val_loss=loss, log_grad_norm=0.3))
    other.load_state_dict(one.state_dict())
    after = Interval.of(train_loss=0.4, val_loss=0.6, log_grad_norm=0.1)
    assert np.array_equal(one.observe(after)[0], other.observe(after)[0])
    assert np.array_equal(one.observation(), other.observation())
    assert np.array_equal(one.values(START), other.values(START))


def test_progress_runs_from_zero_to_one() -> None:
    schedule, at = controller(decisions=2), GLOBAL_SIGNALS.index("progress")
    seen = [schedule.observation()[0, at]]
    for _ in range(2):
        schedule.observe(Interval.of(first_loss=1.0, train_loss=1.0))
        seen.append(schedule.observation()[0, at])
    assert seen == [0.0, 0.5, 1.0]


def test_the_first_update_is_seen_before_the_first_decision_only() -> None:
    schedule = ScheduleController(HYPERPARAMETERS, 5, np.array([1.0]))
    schedule.begin(START, Interval.of(val_loss=1.0, first_update=1e-5))
    assert schedule.named_signals()["first_update"] == pytest.approx(np.log(1e-2) / 2)
    schedule.observe(Interval.of(val_loss=0.9))
    assert schedule.named_signals()["first_update"] == 0.0


def told(controller: ScheduleController, val_loss: float, train_loss: float) -> tuple[float, bool]:
    rewards, back = controller.observe(Interval.of(val_loss=val_loss, first_loss=1.0, train_loss=train_loss))
    return float(rewards[0]), bool(back[0])


@pytest.mark.parametrize("unlearns", [True, False])
def test_an_interval_that_overfits_is_taken_back_where_such_are(unlearns: bool) -> None:
    reference = np.array([[0.01, 1e-4]])
    controller = ScheduleController(adjustables(["lr", "weight_decay"]), 40, np.array([1.0]))
    controller.begin(reference, Interval.of(val_loss=1.0))
    controller.unlearns = unlearns
    for val_loss, train_loss in ((0.6, 0.7), (0.5, 0.4)):
        _, back = told(controller, val_loss, train_loss)
        assert not back
    reward, back = told(controller, 0.56, 0.3)
    assert back == bool(controller.overfitted[0]) == unlearns
    assert controller.val_loss[0] == (0.5 if unlearns else 0.56)
    assert reward == (0.0 if unlearns else pytest.approx(np.log(0.5 / 0.56)))
    assert controller.signals()["diverged"][0] == float(unlearns)
    lr, weight_decay = controller.values(reference)[0]
    assert lr == pytest.approx(0.01 / 4 if unlearns else 0.01)
    assert weight_decay == 1e-4
    _, back = told(controller, 0.45, 0.3)
    assert not back
    assert not controller.overfitted[0]


@pytest.mark.parametrize(
    ("val_loss", "train_loss", "what"),
    [
        (0.52, 0.3, "a rise within the noise"),
        (0.56, 0.5, "a training loss that rises as well"),
        (np.nan, 0.3, "a validation loss that nobody told"),
        (np.nan, np.nan, "nothing told"),
    ],
)
def test_what_is_not_overfitting_is_not_taken_back(val_loss: float, train_loss: float, what: str) -> None:
    controller = ScheduleController(adjustables(["lr"]), 40, np.array([1.0]))
    controller.begin(np.array([[0.01]]), Interval.of(val_loss=1.0))
    controller.unlearns = True
    told(controller, 0.5, 0.4)
    assert not told(controller, val_loss, train_loss)[1], what


def test_losses_on_other_data_are_not_overfitting() -> None:
    controller = ScheduleController(adjustables(["lr"]), 40, np.array([1.0]))
    controller.begin(np.array([[0.01]]), Interval.of(val_loss=1.0))
    controller.unlearns = True
    told(controller, 0.5, 0.4)
    controller.rebase(np.array([0.9]))
    assert not told(controller, 0.95, 0.3)[1]
    told(controller, 0.6, 0.25)
    assert told(controller, 0.9, 0.2)[1]


@pytest.mark.parametrize(("unit", "began"), [(1.0, 1.0), (30.0, 30 * 0.55), (0.01, 0.01 * 0.55)])
def test_a_validation_loss_that_is_told_late_is_compared_with_what_it_may_have_been(unit: float, began: float) -> None:
    # A network as bad as at chance is so on any data; another measure than the training loss tells nothing of it.
    schedule = ScheduleController(HYPERPARAMETERS, 9, np.array([1.0]))
    schedule.begin(START, Interval.of(val_loss=np.nan))
    since: list[float] = []
    for train, val in [(0.9, np.nan), (0.7, np.nan), (0.5, 0.55), (0.4, np.nan), (0.3, 0.5), (0.2, 0.6)]:
        interval = Interval.of(first_loss=1.0, train_loss=train, early_loss=train, late_loss=train, val_loss=unit * val)
        _, diverged = schedule.observe(interval)
        assert not diverged
        since.append(schedule.signals()["val_since_best"][0])
    assert schedule.val_start == pytest.approx(began)
    nothing = ScheduleController(HYPERPARAMETERS, 9, np.array([1.0]))
    nothing.begin(START, Interval.of(val_loss=np.nan))
    for loss in (0.0, -1.0):  # no measure to compare with
        assert not nothing.observe(Interval.of(first_loss=1.0, train_loss=1.0, val_loss=loss))[1]
    assert since[2] == pytest.approx(np.log(unit * 0.55 / began))
    assert since[4:] == pytest.approx([np.log(0.5 / 0.55), np.log(0.6 / 0.5)])
