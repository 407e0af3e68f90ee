"""What a schedule does about overfitting: the interval in which it begins is taken back."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import Policy
from metatuner.agent.schedule_run import run_schedule
from metatuner.envs.partial_fit_training import PartialFitTraining
from metatuner.envs.records import Decision, Metrics, Record
from metatuner.envs.schedule import ScheduleEnv
from metatuner.tracking.decision_words import sentences
from sklearn.datasets import load_breast_cancer
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import scale
from torch import Tensor, nn


@pytest.fixture
def unlearning(lively: Policy) -> Policy:
    return replace(lively, card={**lively.card, "unlearns": True})


class Overfitted:
    """A training with losses that are told, not measured: from the third decision on it overfits more and more."""

    def __init__(self, policy: Policy, total_steps: int = 100, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.notes: list[str] = []
        self.rewards: list[float] = []
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.tuner = AdaptiveSchedule(
            self.optimizer, total_steps, policy, ("lr",), self, decide_every=5, model=self.model, **options
        )
        self.before, self.after = [self.now()], list[list[Tensor]]()
        """Weights before and after each decision."""

    def now(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.model.parameters()]

    def train(self, until: int) -> None:
        while self.tuner.steps < until:
            number = self.tuner.steps // 5
            self.optimizer.zero_grad()
            self.model(torch.ones(2, 4)).square().mean().backward()
            self.optimizer.step()
            self.tuner.step(0.9**number)
            if self.tuner.due:
                self.before.append(self.now())
                self.tuner.validate([0.9, 0.5, 0.4][number] if number < 3 else 0.8 * 1.2 ** (number - 3))

    def record(self, record: Record, /) -> None:
        if isinstance(record, Decision):
            self.notes.append(record.note)
            self.after.append(self.now())
        elif isinstance(record, Metrics):
            self.rewards += [value for name, value in record.values.items() if name == "reward"]


def test_an_interval_that_overfits_is_rolled_back(unlearning: Policy) -> None:
    training = Overfitted(unlearning)
    training.train(21)
    assert training.notes == ["", "", "", "", "overfitted: rolled back"]
    assert not all(map(torch.equal, training.before[3], training.before[4]))
    assert all(map(torch.equal, training.before[3], training.after[4]))


def test_the_last_interval_stays_as_it_is(unlearning: Policy) -> None:
    training = Overfitted(unlearning, total_steps=20)
    training.train(20)
    training.tuner.close()
    assert all(map(torch.equal, training.before[4], training.now()))
    assert training.rewards[-1] == pytest.approx(math.log(0.4 / 0.8))


def test_overfitting_is_no_reason_to_give_up(unlearning: Policy) -> None:
    training = Overfitted(unlearning)
    training.train(100)
    assert training.notes.count("overfitted: rolled back") >= 8
    assert training.tuner.values["lr"] < 0.01 / 4**4


def test_what_looks_like_overfitting_twice_in_a_row_was_a_lucky_validation_before(unlearning: Policy) -> None:
    training = Overfitted(unlearning)
    training.train(100)
    back = [note == "overfitted: rolled back" for note in training.notes]
    assert any(back)
    assert not any(now and then for now, then in itertools.pairwise(back))


@pytest.mark.parametrize("options", [{"guard": False}, {"on_divergence": "cut"}, {}])
def test_overfitting_is_not_rolled_back_where_it_is_not_to_be(
    options: dict[str, Any], unlearning: Policy, lively: Policy
) -> None:
    training = Overfitted(unlearning if options else lively, **options)
    training.train(30)
    assert not any("rolled back" in note for note in training.notes)
    assert any("overfits" in note for note in training.notes) == ("guard" not in options)


@pytest.mark.parametrize("at", [18, 20, 21])
def test_an_overfitted_training_resumes_bit_for_bit(at: int, unlearning: Policy, tmp_path: Path) -> None:
    whole = Overfitted(unlearning)
    whole.train(at)
    states = [each.state_dict() for each in (whole.model, whole.optimizer, whole.tuner)]
    torch.save(states, tmp_path / "state.pt")
    whole.train(60)
    resumed = Overfitted(unlearning)
    of_model, of_optimizer, of_tuner = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.model.load_state_dict(of_model)
    resumed.optimizer.load_state_dict(of_optimizer)
    resumed.tuner.load_state_dict(of_tuner)
    resumed.train(60)
    assert all(map(torch.equal, whole.now(), resumed.now()))
    assert resumed.notes == whole.notes[-len(resumed.notes) :]


def test_a_model_that_is_not_pytorchs_is_taken_back_as_well() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x, y = scale(x)[:120], y[:120].copy()
    y[:60:4] = 1 - y[:60:4]  # wrong labels, which a network learns by heart

    def last(guard: bool) -> tuple[float, list[str]]:
        network = MLPClassifier((64,), solver="sgd", batch_size=20)
        task = PartialFitTraining(network, x[:60], y[:60], x[60:], y[60:])
        env = ScheduleEnv(task, adjust=("lr",), start={"lr": 0.3}, decisions=12, interval=20)
        run = run_schedule(env, "schedule-bold", seed=0, guard=guard)
        return run.val_loss, [decision.note for decision in run.decisions]

    (guarded, notes), (alone, no_notes) = last(True), last(False)
    assert "overfitted: rolled back" in notes
    assert not any(no_notes)
    assert guarded < 0.8 * alone


def test_what_was_taken_back_is_told_in_words() -> None:
    values, seen = {"lr": 0.1}, {"diverged": 1.0, "val_since_last": 0.0}
    first = Decision(trial=0, number=0, step=0, signals={}, adjustments={"lr": 0.0}, values=values, reward=math.nan)
    notes = "overfitted: rolled back", "diverged: rolled back"
    told = [sentences([first, replace(first, number=1, step=5, signals=seen, note=note)])[1] for note in notes]
    assert "The training had begun to overfit since the decision before. Note: overfitted: rolled back." in told[0]
    assert "The training had diverged since the decision before. Note: diverged: rolled back." in told[1]
