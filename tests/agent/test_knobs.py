from __future__ import annotations

import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.knobs import Attribute, DropoutRate, Knob
from metatuner.agent.policy import Policy
from metatuner.envs.errors import ConfigurationError, SearchSpaceError
from optuna.distributions import FloatDistribution
from torch import nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.3), nn.Dropout(0.1))
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.2)
        self.off = nn.Dropout(0.0)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.off(self.first(x)))
        return out


def train(tuner: AdaptiveSchedule, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(x), x[:, :3].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)


def test_rates_keep_their_ratios_and_come_back_exactly() -> None:
    model = Net()
    rates = lambda: [model.first[2].p, model.first[3].p, model.attention.dropout, model.off.p]  # noqa: E731
    knob = DropoutRate(model)
    assert isinstance(knob, Knob)
    assert knob.get() == 0.3
    knob.set(0.6)
    assert rates() == pytest.approx([0.6, 0.2, 0.4, 0.0])
    knob.set(0.3)
    assert rates() == [0.3, 0.1, 0.2, 0.0]
    off = nn.Sequential(nn.Dropout(0.0), nn.LSTM(2, 2, num_layers=2))
    DropoutRate(off).set(0.25)
    assert [off[0].p, off[1].dropout] == [0.25, 0.25]


def test_an_attribute_keeps_its_type() -> None:
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    knob = Attribute(criterion, "label_smoothing")
    knob.set(0.25)
    assert knob.get() == criterion.label_smoothing == 0.25

    class Sampler:
        batch_size = 32

    sampler = Sampler()
    Attribute(sampler, "batch_size").set(63.6)
    assert sampler.batch_size == 64
    assert isinstance(sampler.batch_size, int)


def test_knobs_that_cannot_be_turned_are_refused(lively: Policy) -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(ConfigurationError, match="no dropout layers"):
        DropoutRate(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match=r"Net\.training to be a number, got True"):
        Attribute(model, "training")
    with pytest.raises(ConfigurationError, match="got None"):
        Attribute(model, "nothing")
    with pytest.raises(ConfigurationError, match=r"knobs \['dropout'\] are not in adjust"):
        AdaptiveSchedule(optimizer, 10, lively, knobs={"dropout": DropoutRate(model)})
    with pytest.raises(ConfigurationError, match="`get` and `set`"):
        AdaptiveSchedule(optimizer, 10, lively, ("dropout",), knobs={"dropout": 0.1})  # type: ignore[dict-item]
    with pytest.raises(SearchSpaceError, match="no hyperparameter 'dropout'"):
        AdaptiveSchedule(optimizer, 10, lively, ("lr", "dropout"))
    with pytest.raises(SearchSpaceError, match="no usual range"):
        AdaptiveSchedule(optimizer, 10, lively, ("temperature",), knobs={"temperature": DropoutRate(model)})


def test_knobs_and_the_optimiser_are_adjusted_alike_and_resumed(lively: Policy) -> None:
    names = ("lr", "dropout", "label_smoothing", "temperature")

    def made() -> tuple[Net, nn.CrossEntropyLoss, torch.optim.Optimizer, AdaptiveSchedule]:
        torch.manual_seed(0)
        model, criterion = Net(), nn.CrossEntropyLoss(label_smoothing=0.1)
        groups = [{"params": model.first.parameters()}, {"params": model.last.parameters(), "lr": 1e-3}]
        optimizer = torch.optim.Adam(groups, lr=1e-2)
        model.last.temperature = 2.0  # type: ignore[assignment]
        knobs = {
            "dropout": DropoutRate(model),
            "label_smoothing": Attribute(criterion, "label_smoothing"),
            "temperature": Attribute(model.last, "temperature"),
        }
        space = {"temperature": FloatDistribution(0.1, 10.0, log=True)}
        return model, criterion, optimizer, AdaptiveSchedule(optimizer, 40, lively, names, knobs=knobs, space=space)

    model, criterion, optimizer, tuner = made()
    assert tuner.values == {"lr": 1e-2, "dropout": 0.3, "label_smoothing": 0.1, "temperature": 2.0}
    train(tuner, model, optimizer, 18)
    values = tuner.values
    assert (values["dropout"], values["label_smoothing"]) == (model.first[2].p, criterion.label_smoothing)
    assert all(values[name] != start for name, start in [("dropout", 0.3), ("label_smoothing", 0.1), ("lr", 1e-2)])
    assert model.first[3].p == pytest.approx(values["dropout"] / 3)
    state, saved = tuner.state_dict(), (model.state_dict(), optimizer.state_dict())
    again = made()
    again[0].load_state_dict(saved[0])
    again[2].load_state_dict(saved[1])
    again[3].load_state_dict(state)
    assert again[3].values == values
    assert (again[0].first[2].p, again[1].label_smoothing) == (model.first[2].p, criterion.label_smoothing)


def test_the_zero_policy_leaves_knobs_alone() -> None:
    model = Net()
    optimizer = torch.optim.Adam(model.parameters())
    tuner = AdaptiveSchedule(optimizer, 30, "zero", ("lr", "dropout"), knobs={"dropout": DropoutRate(model)})
    train(tuner, model, optimizer, 30)
    assert [model.first[2].p, model.first[3].p, model.off.p] == [0.3, 0.1, 0.0]
