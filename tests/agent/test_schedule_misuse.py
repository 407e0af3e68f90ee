"""An AdaptiveSchedule in a loop that does something wrong: it says what, instead of adjusting something else."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.knobs import Attribute, DropoutRate
from metatuner.agent.loop_watch import NEVER, SUSPICIOUS
from metatuner.agent.policy import Policy
from metatuner.envs.errors import CheckpointError, ConfigurationError, MetatunerError, SearchSpaceError, TrainingError
from metatuner.envs.records import Record, TrialFinished, TrialState
from optuna.distributions import FloatDistribution
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler


class Kept:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)


class Loop:
    """A small training whose validation loss is told whenever it is due."""

    def __init__(self, policy: Policy | str, total_steps: int | None = 40, **options: Any) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
            self.x = torch.randn(96, 4)
        self.y = self.x[:, :3].argmax(1)
        self.optimizer = options.pop("kind", torch.optim.Adam)(self.model.parameters(), lr=1e-3)
        self.tuner = AdaptiveSchedule(self.optimizer, total_steps, policy, **options)

    def loss(self, rows: slice) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.x[rows]), self.y[rows])

    def advance(self, after: Callable[[], object] = lambda: None) -> Tensor:
        """One step of the optimiser."""
        loss = self.loss(slice(64))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        after()
        return loss.detach()

    def train(self, steps: int, after: Callable[[], object] = lambda: None) -> list[float]:
        losses = []
        for _ in range(steps):
            loss = self.advance()
            self.tuner.step(loss)
            after()
            if self.tuner.due:
                with torch.no_grad():
                    self.tuner.validate(self.loss(slice(64, None)))
            losses.append(float(loss))
        return losses

    def saved(self) -> tuple[Any, ...]:
        return copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), self.tuner.state_dict()))

    def load(self, saved: tuple[Any, ...]) -> None:
        self.model.load_state_dict(saved[0])
        self.optimizer.load_state_dict(saved[1])
        self.tuner.load_state_dict(saved[2])


@pytest.mark.parametrize(("total", "at"), [(40, 0), (40, 1), (40, 3), (40, 4), (None, 1), (None, 20)])
def test_a_checkpoint_of_the_very_beginning_is_resumed(total: int | None, at: int, lively: Policy) -> None:
    whole = Loop(lively, total)
    whole.train(at)
    saved, rest = whole.saved(), whole.train(40 - at)
    resumed = Loop(lively, total)
    resumed.load(saved)
    assert resumed.train(40 - at) == rest
    assert resumed.tuner.values == whole.tuner.values


def test_a_checkpoint_after_a_change_of_the_data_is_resumed(lively: Policy) -> None:
    whole = Loop(lively)
    whole.train(10)
    whole.tuner.new_data()
    whole.train(1)
    saved, rest = whole.saved(), whole.train(29)
    resumed = Loop(lively)
    resumed.load(saved)
    assert resumed.train(29) == rest


@pytest.mark.parametrize(
    "other",
    [
        {"kind": torch.optim.SGD},
        {"decide_every": 5},
        {"guard": False},
        {"space": {"lr": FloatDistribution(1e-5, 1e-1, log=True)}},
        {"reference": "optimizer"},
    ],
)
def test_a_state_of_another_configuration_is_refused(other: dict[str, Any], lively: Policy) -> None:
    begun, another = Loop(lively), Loop(lively, **other)
    begun.train(10)
    with pytest.raises(CheckpointError, match="construct it with the same arguments"):
        another.tuner.load_state_dict(begun.tuner.state_dict())


def test_a_state_whose_buffers_are_not_rolled_back_is_refused(lively: Policy) -> None:
    begun, with_model = Loop(lively), Loop(lively)
    begun.train(10)
    with_model.tuner = AdaptiveSchedule(with_model.optimizer, 40, lively, model=with_model.model)
    with pytest.raises(CheckpointError, match="same model="):
        with_model.tuner.load_state_dict(begun.tuner.state_dict())
    with_model.tuner.load_state_dict(begun.tuner.state_dict(rollback=False))


def test_an_optimizer_that_nobody_steps_is_told_of(lively: Policy) -> None:
    tuner = Loop(lively).tuner
    with pytest.raises(TrainingError, match="took no step before any of them"):
        for _ in range(NEVER):
            tuner.step(1.0)


def test_steps_that_nobody_tells_of_are_told_of_once(lively: Policy) -> None:
    loop = Loop(lively)
    with pytest.warns(UserWarning, match="without a call of `step`") as told:
        for _ in range(2 * SUSPICIOUS + 2):
            loop.advance()
    assert len(told) == 1


def test_a_closed_schedule_takes_nothing_in(lively: Policy) -> None:
    loop = Loop(lively)
    with loop.tuner as tuner:
        loop.train(12)
    assert not tuner.due and tuner.values["lr"] > 0
    for late in (
        lambda: tuner.step(1.0),
        lambda: tuner.validate(1.0),
        lambda: tuner.extend(100),
        lambda: tuner.new_data(),
    ):
        with pytest.raises(ConfigurationError, match="is closed"):
            late()
    tuner.close()


def test_an_optimizer_has_one_schedule_the_latest(lively: Policy) -> None:
    loop = Loop(lively)
    kept = Kept()
    loop.tuner.close()
    loop.tuner = AdaptiveSchedule(loop.optimizer, 40, lively, recorder=kept)
    loop.train(5)
    loop.optimizer.param_groups[0]["lr"] = 1e-3
    first, loop.tuner = loop.tuner, AdaptiveSchedule(loop.optimizer, 40, "zero")
    (end,) = [each for each in kept.records if isinstance(each, TrialFinished)]
    assert (end.state, end.message) == (TrialState.KILLED, "another schedule took its place after 5 of 40 steps")
    loop.train(20)
    assert loop.optimizer.param_groups[0]["lr"] == 1e-3  # the first one is alive, and adjusts nothing
    with pytest.raises(ConfigurationError, match="another schedule was made on this optimiser"):
        first.step(1.0)
    first.close()


def stepped(scheduler: Callable[[Optimizer], Any]) -> tuple[Loop, Callable[[], object]]:
    loop = Loop("zero")
    return loop, scheduler(loop.optimizer).step


@pytest.mark.parametrize(
    "scheduler",
    [
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 40),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.5),
    ],
)
def test_a_scheduler_that_someone_else_steps_is_told_of(scheduler: Callable[[Optimizer], Any]) -> None:
    loop, step = stepped(scheduler)
    with pytest.warns(UserWarning, match="reference='optimizer'") as told:
        loop.train(40, after=step)
    assert len(told) == 1


def test_plateaus_cannot_be_followed_by_steps_but_from_outside(lively: Policy) -> None:
    loop = Loop(lively)
    plateau = lr_scheduler.ReduceLROnPlateau(loop.optimizer, patience=0)
    with pytest.raises(ConfigurationError, match="give reference='optimizer'"):
        AdaptiveSchedule(loop.optimizer, 40, lively, reference=plateau)
    loop.tuner = AdaptiveSchedule(loop.optimizer, 40, "zero", reference="optimizer")
    loop.train(10, after=lambda: plateau.step(1.0))
    assert loop.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * 0.1**9, abs=1e-8)


def test_a_validation_loss_that_is_not_positive_any_more_is_told_of(lively: Policy) -> None:
    loop = Loop(lively)
    loop.train(5)
    with pytest.warns(UserWarning, match="must be positive") as told:
        loop.tuner.validate(-0.1)
        loop.tuner.validate(-0.2)
    assert len(told) == 1


def test_parameter_groups_that_come_later_are_refused(lively: Policy) -> None:
    loop = Loop(lively)
    loop.train(5)
    loop.optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    with pytest.raises(ConfigurationError, match="2 parameter groups of 7 parameters, and had 1"):
        loop.advance()
    loop.tuner.close()
    loop.tuner = AdaptiveSchedule(loop.optimizer, 35, lively)
    loop.train(5)
    loop.optimizer.param_groups[0]["params"].append(nn.Parameter(torch.ones(2)))
    with pytest.raises(ConfigurationError, match="of 8 parameters, and had 2 parameter groups of 7"):
        loop.advance()


@pytest.mark.parametrize("loss", [None, "abc", [1.0, 2.0], torch.ones(2), {}])
def test_losses_are_single_numbers(loss: Any, lively: Policy) -> None:
    loop = Loop(lively)
    loop.advance()
    for told in (loop.tuner.step, loop.tuner.validate):
        with pytest.raises(ConfigurationError, match=r"expected one (mini-batch|validation) loss"):
            told(loss)
    loop.tuner.step(np.array([1.0]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"policy": 3},
        {"recorder": "mlflow"},
        {"model": 3},
        {"space": 3},
        {"space": {"lrr": FloatDistribution(1e-5, 1.0, log=True)}},
        {"adjust": ("lr", "beta1", "momentum")},
        {"adjust": ("lr", "dropout"), "knobs": {"dropout": DropoutRate}},
        {"decide_every": 1.5},
    ],
)
def test_wrong_arguments_are_told_at_once(wrong: dict[str, Any], lively: Policy) -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    with pytest.raises((ConfigurationError, SearchSpaceError)):
        AdaptiveSchedule(optimizer, 10, **{"policy": lively, **wrong})
    with pytest.raises(ConfigurationError, match="optimizer"):
        AdaptiveSchedule(nn.Linear(2, 2), 10)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD])
def test_an_optimizer_without_momentum_says_what_can_be_adjusted(kind: type[Optimizer], lively: Policy) -> None:
    optimizer = kind([nn.Parameter(torch.ones(2))])  # type: ignore[call-arg]
    with pytest.raises(SearchSpaceError, match=r"give adjust=\['lr'") as told:
        AdaptiveSchedule(optimizer, 10, lively)
    names = str(told.value).split("adjust=[")[1].split("]")[0].replace("'", "").split(", ")
    assert AdaptiveSchedule(optimizer, 10, lively, adjust=names).values.keys() == set(names)


def test_an_attribute_that_cannot_be_set_is_refused_and_a_batch_sampler_s_can(lively: Policy) -> None:
    rows = torch.utils.data.TensorDataset(torch.arange(64.0))
    with pytest.raises(ConfigurationError, match="cannot be set"):
        Attribute(torch.utils.data.DataLoader(rows, batch_size=4), "batch_size")
    batches = torch.utils.data.BatchSampler(torch.utils.data.SequentialSampler(rows), 4, drop_last=False)
    knob = Attribute(batches, "batch_size")
    sizes = []
    for (batch,) in torch.utils.data.DataLoader(rows, batch_sampler=batches):
        sizes.append(len(batch))
        knob.set(knob.get() + 2.0)
    assert sizes[:3] == [4, 6, 8]


@pytest.mark.parametrize("start", [-1.0, 2.0, float("nan")])
def test_a_start_that_its_scale_cannot_express_is_refused(start: float, lively: Policy) -> None:
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    criterion.label_smoothing = start
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(2))], lr=0.1)
    knobs = {"label_smoothing": Attribute(criterion, "label_smoothing")}
    with pytest.raises(SearchSpaceError, match="start of 'label_smoothing'"):
        AdaptiveSchedule(optimizer, 10, lively, ("lr", "label_smoothing"), knobs=knobs)


def test_an_end_before_now_is_refused_whatever_kind_of_number_it_is(lively: Policy) -> None:
    loop = Loop(lively, None)
    loop.train(10)
    for end in (5, np.int64(5)):
        with pytest.raises(MetatunerError, match="cannot end after 5"):
            loop.tuner.extend(end)  # type: ignore[arg-type]
