"""The schedule of a training that is only heard of, and what a trial measures for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import Policy
from metatuner.agent.reported_schedule import ReportedSchedule
from metatuner.agent.trial_probe import TrialProbe
from metatuner.envs.adjustments import adjustables
from metatuner.envs.errors import ConfigurationError, TrainingError
from metatuner.envs.records import Decision, Record
from metatuner.envs.references import DECAY
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from torch import nn

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "batch_size": IntDistribution(16, 64),
    "patience": FloatDistribution(1.0, 5.0),
}
START = {"lr": 1e-2, "batch_size": 32, "patience": 2.0}


def schedule(policy: Policy, start: Mapping[str, float] = START, **options: Any) -> ReportedSchedule:
    return ReportedSchedule(policy, adjustables(list(SPACE), SPACE), start, **options)


def test_adjustments_follow_the_policy_and_keep_to_the_bounds(lively: Policy) -> None:
    mine = schedule(lively, decisions=40, guard=False)
    seen = [mine.values]
    for step in range(1, 40):
        mine.report(2.0 + math.sin(step), {"train_loss": 1.0 / step})
        mine.decide(step)
        seen.append(mine.values)

    assert seen[0] == START
    assert len({values["lr"] for values in seen}) > 10
    for values in seen:
        assert all(SPACE[name].low <= values[name] <= SPACE[name].high for name in SPACE)  # type: ignore[attr-defined]
        assert values["batch_size"] == int(values["batch_size"])


def test_a_policy_that_adjusts_nothing_leaves_values_as_they_are() -> None:
    outside = {"lr": 0.7, "batch_size": 48, "patience": 2.1}
    mine = schedule(Policy.load("zero"), outside)
    for step in range(1, 5):
        mine.report(1.0 / step)
        assert mine.decide(step).values == outside


def test_the_reference_of_the_policy_is_followed_where_the_end_is_known() -> None:
    decaying = replace(Policy.load("zero"), card={"reference": "stable_decay"})
    known, unknown = schedule(decaying, decisions=10), schedule(decaying)
    for step in range(1, 11):
        for each in (known, unknown):
            each.report(1.0 / step)
            each.decide(step)
    assert known.values["lr"] == pytest.approx(START["lr"] * 0.05 / DECAY)
    assert unknown.values == START


def test_someone_else_may_move_it_within_bounds() -> None:
    mine = schedule(Policy.load("zero"))
    mine.report(1.0)
    mine.decide(1)
    mine.displace({"lr": 1e-3, "batch_size": 500, "patience": 3.0})

    assert mine.values == pytest.approx({"lr": 1e-3, "batch_size": 64, "patience": 3.0})
    mine.report(0.9)
    assert mine.decide(2).values == mine.values


def test_a_branch_goes_on_by_itself_from_the_last_decision(lively: Policy) -> None:
    mine = schedule(lively)
    mine.report(1.0)
    mine.decide(1)
    twin = mine.branch()
    assert twin.values == mine.values

    for each, loss in ((mine, 0.5), (twin, 0.5)):
        each.report(loss)
        each.decide(2)
    assert twin.values == mine.values, "the same past and the same news"
    twin.displace({"lr": 1e-3, "batch_size": 16, "patience": 5.0})
    assert mine.values != twin.values
    assert mine.last is not None
    assert mine.last.values == mine.values


@pytest.mark.parametrize("loss", [math.nan, math.inf, 100.0])
def test_a_loss_that_explodes_is_a_divergence_and_cuts_the_rate(loss: float) -> None:
    mine = schedule(Policy.load("zero"))
    mine.report(1.0)
    mine.decide(1)
    assert not mine.diverged
    mine.report(loss)
    decision = mine.decide(2)

    assert mine.diverged
    assert mine.diverged_in_a_row == 1
    assert decision.note == "diverged: rate cut"
    assert decision.values["lr"] == pytest.approx(START["lr"] / 4)
    mine.report(1.0)
    mine.decide(3)
    assert not mine.diverged


def test_a_training_that_is_heard_of_late_is_told_how_far_it_is() -> None:
    mine = schedule(Policy.load("zero"), decisions=10)
    mine.report(1.0, decision=6)
    decision = mine.decide(700)

    assert decision.number == 7
    assert decision.signals["progress"] == pytest.approx(0.7)


def test_a_loss_that_falls_to_0_is_warned_of_once() -> None:
    mine = schedule(Policy.load("zero"))
    mine.report(1.0)
    with pytest.warns(UserWarning, match="must be positive") as told:
        for loss in (0.0, -1.0):
            mine.report(loss)
    assert len(told) == 1


def test_a_loss_that_cannot_be_compared_is_refused() -> None:
    with pytest.raises(TrainingError, match="must be positive"):
        schedule(Policy.load("zero")).report(-1.0)


class Kept:
    """Keeps decisions."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []

    def record(self, record: Record, /) -> None:
        if isinstance(record, Decision):
            self.decisions.append(record)


@pytest.mark.parametrize("reports", [1, 2])
def test_with_a_probe_the_policy_sees_what_it_sees_in_a_loop_of_its_own(reports: int) -> None:
    """`AdaptiveSchedule` and a probe look at the same optimiser; nobody adjusts it."""
    torch.manual_seed(0)
    x = torch.randn(64, 5)
    y = (x[:, 0] > 0).long()
    model = nn.Linear(5, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    kept, steps = Kept(), 20
    tuner = AdaptiveSchedule(
        optimizer, 4 * steps, "zero", ("lr",), kept, decide_every=steps, on_divergence="cut", process_group=None
    )
    probe = TrialProbe(optimizer, steps // reports)
    told = ReportedSchedule(Policy.load("zero"), adjustables(["lr"]), {"lr": 0.01}, decisions=4)
    decisions = []
    for step in range(1, 4 * steps + 1):
        rows = torch.randint(0, 64, (8,))
        loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        probe.step(loss)
        tuner.step(loss)
        if step % (steps // reports) == 0:
            val_loss = float(nn.functional.cross_entropy(model(x), y).detach())
            told.report(val_loss, probe.report()["measured"])
            tuner.validate(val_loss)
        if step % steps == 0:
            decisions.append(told.decide(step))

    same = ("train_since_start", "train_since_last", "loss_noise", "loss_slope", "gradient_trend", "relative_update")
    for mine, reference in zip(decisions[:3], kept.decisions[1:], strict=True):
        assert mine.step == reference.step
        for name in ("gradient_alignment", *same):
            # Several reports are summed up: gradients were measured at other steps of the interval.
            near = {"rel": 1e-5, "abs": 1e-6} if reports == 1 else {"abs": 0.15}
            assert mine.signals[name] == pytest.approx(reference.signals[name], **near), name


def test_a_probe_measures_only_where_steps_were_taken() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(ConfigurationError, match="steps must be a whole number of at least 1"):
        TrialProbe(optimizer, 0)
    probe = TrialProbe(optimizer, 2)
    probe.step(1.0)  # one that a gradient scaler has skipped
    assert probe.report() == {}
    weight.sum().backward()
    optimizer.step()
    probe.step(3.0)
    measured = probe.report()["measured"]

    assert measured["train_loss"] == measured["first_loss"] == 3.0
    assert measured["first_update"] == pytest.approx(0.1 * math.sqrt(3) / math.sqrt(3))
    assert probe.report() == {}


def test_a_probe_tells_that_a_loss_or_the_weights_are_not_finite() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    probe = TrialProbe(optimizer, 1)
    told = ReportedSchedule(Policy.load("zero"), adjustables(["lr"]), {"lr": 0.1})
    for loss, factor, diverged in ((1.0, 1.0, False), (math.nan, 1.0, True), (1.0, math.inf, True)):
        optimizer.zero_grad()
        (factor * weight.sum()).backward()
        optimizer.step()
        probe.step(loss)
        told.report(1.0, probe.report()["measured"])
        told.decide(1)
        assert told.diverged is diverged
