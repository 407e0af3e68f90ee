"""Optimisers whose steps, signs and states are not Adam's."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import Policy
from metatuner.agent.rollback import Rollback
from metatuner.envs.errors import SearchSpaceError
from metatuner.envs.optimizers import first_update, parameters
from metatuner.envs.parameter_sample import ParameterSample
from torch import Tensor, nn
from torch.optim import Optimizer

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
Y = X @ torch.randn(8, 1, generator=torch.Generator().manual_seed(1))


def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def train(network: nn.Module, optimizer: Optimizer, tuner: AdaptiveSchedule, until: int, sign: float = 1.0) -> None:
    while tuner.steps < until:
        rows = slice(8 * (tuner.steps % 8), 8 * (tuner.steps % 8) + 8)

        def closure(rows: slice = rows) -> float:
            optimizer.zero_grad()
            loss = (network(X[rows]) - Y[rows]).pow(2).mean()
            (sign * loss).backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        loss = optimizer.step(closure)
        assert loss is not None
        tuner.step(loss)


@pytest.mark.parametrize(
    "kind", [torch.optim.Adam, torch.optim.RAdam, torch.optim.Adagrad, torch.optim.SGD, torch.optim.Muon]
)
def test_the_first_step_is_as_long_as_is_told_or_nothing_is(kind: Any) -> None:
    weight = nn.Parameter(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))
    optimizer = kind([weight], lr=1e-3)
    (weight.square() / 2).sum().backward()
    told, before = float(first_update(optimizer, ParameterSample([weight]))), weight.detach().clone()
    optimizer.step()
    real = float((weight.detach() - before).norm() / before.norm())
    assert math.isnan(told) if kind is torch.optim.Muon else told == pytest.approx(real, rel=0.01)


def test_descending_and_ascending_the_negative_are_one_training(lively: Policy) -> None:
    seen = []
    for maximize in (False, True):
        network = model()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, maximize=maximize)
        with AdaptiveSchedule(optimizer, 40, lively) as tuner:
            train(network, optimizer, tuner, 30, sign=-1.0 if maximize else 1.0)
            seen.append(tuner.signals)
    assert seen[0]["gradient_alignment"] != 0
    assert seen[0] == pytest.approx(seen[1], abs=1e-6)


def test_both_parts_of_complex_weights_are_measured() -> None:
    weight = nn.Parameter(torch.complex(torch.zeros(4), torch.ones(4)))
    row = ParameterSample([weight]).row([weight])
    assert float(torch.dot(row, row)) == pytest.approx(4.0)


def test_rprop_is_refused_since_it_does_not_follow_its_rate(lively: Policy) -> None:
    with pytest.raises(SearchSpaceError, match="another optimiser"):
        AdaptiveSchedule(torch.optim.Rprop(model().parameters()), 10, lively, adjust=("lr",))


@pytest.mark.parametrize("kind", [torch.optim.Adafactor, torch.optim.LBFGS])
def test_a_training_is_resumed_whatever_state_its_optimizer_has(kind: Any, lively: Policy) -> None:
    def made() -> tuple[nn.Module, Optimizer, AdaptiveSchedule]:
        network = model()
        optimizer = kind(network.parameters(), lr=0.01)
        return network, optimizer, AdaptiveSchedule(optimizer, 35, lively, adjust=("lr",))

    network, optimizer, tuner = made()
    train(network, optimizer, tuner, 13)
    file = io.BytesIO()
    torch.save([network.state_dict(), optimizer.state_dict(), tuner.state_dict()], file)
    train(network, optimizer, tuner, 35)
    again = made()
    file.seek(0)
    for part, state in zip(again, torch.load(file), strict=True):
        part.load_state_dict(state)
    train(*again, 35)
    for a, b in zip(network.parameters(), again[0].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


class Counting(torch.optim.SGD):
    """Counts in its groups, as Prodigy and Schedule-Free do."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] = group.get("k", 0.0) + sum(float(p.grad.sum()) for p in group["params"])
        return super().step(closure)


def test_what_an_optimizer_counts_in_its_groups_goes_back_too() -> None:
    network = model()
    optimizer = Counting(network.parameters(), lr=0.01)
    (network(X) - Y).pow(2).mean().backward()
    optimizer.step()
    rollback, counted = Rollback(optimizer), optimizer.param_groups[0]["k"]
    rollback.keep()
    for parameter in parameters(optimizer):
        parameter.grad = torch.full_like(parameter, torch.nan)
    optimizer.step()
    optimizer.param_groups[0] |= {"lr": 0.5, "dampening": 0.25}
    assert np.isnan(optimizer.param_groups[0]["k"])
    rollback.restore()
    assert optimizer.param_groups[0]["k"] == counted
    assert (optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["dampening"]) == (0.5, 0.25)  # somebody's affair


def test_averages_of_the_weights_and_statistics_of_layers_go_back_with_them() -> None:
    network = nn.Sequential(model(), nn.BatchNorm1d(1))
    network.register_buffer("most", torch.tensor([0.0, -torch.inf]))
    network.register_buffer("graph", torch.eye(3).to_sparse())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    average = torch.optim.swa_utils.AveragedModel(network)
    rollback = Rollback(optimizer, nn.ModuleList([network, average]))
    network(X)
    average.update_parameters(network)
    rollback.keep()
    beside: list[Tensor] = [each.clone() for each in rollback.beside]
    network.most[0] = 7.0
    beside[[each is network.most for each in rollback.beside].index(True)] = network.most.clone()
    network(torch.full_like(X, torch.nan))
    rollback.keep()  # the batch that has spoilt the statistics is noticed after its step
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    average.update_parameters(network)
    rollback.restore()
    assert len(beside) == 5 + (1 + 5 + len(list(network.parameters())))
    for now, before in zip(rollback.beside, beside, strict=True):
        if now.dtype != torch.long:
            torch.testing.assert_close(now, before, rtol=0, atol=0)


def test_a_state_that_is_taken_after_the_end_goes_on_as_one_from_before(lively: Policy) -> None:
    states = []
    for closed in (False, True):
        network = model()
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
        tuner = AdaptiveSchedule(optimizer, 40, lively)
        train(network, optimizer, tuner, 40)
        if closed:
            tuner.close()
        longer = AdaptiveSchedule(optimizer, 80, lively)
        longer.load_state_dict(tuner.state_dict())
        train(network, optimizer, longer, 80)
        states.append(longer.values)
    assert states[0] == states[1]


def test_a_training_that_is_extended_goes_on_from_where_its_reference_is_now() -> None:
    network = model()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    with AdaptiveSchedule(optimizer, 100, "schedule-bold") as tuner:
        train(network, optimizer, tuner, 100)
        low = tuner.values["lr"]
        tuner.extend(300)
        loss = (network(X) - Y).pow(2).mean()
        loss.backward()
        optimizer.step()
        used = optimizer.param_groups[0]["lr"]
        tuner.step(loss)
        assert low < used == pytest.approx(tuner.values["lr"], rel=0.05)


def test_a_weight_decay_that_nobody_asked_for_does_not_outweigh_the_gradient(lively: Policy) -> None:
    network = model()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    with AdaptiveSchedule(optimizer, 100, lively, adjust=("weight_decay",)) as tuner:
        most = 0.0
        for step in range(100):
            loss = (network(X) - Y).pow(2).mean() * 1e-6
            optimizer.zero_grad()
            loss.backward()
            gradient = torch.cat([each.grad.flatten() for each in parameters(optimizer) if each.grad is not None])
            weights = torch.cat([each.detach().flatten() for each in parameters(optimizer)])
            optimizer.step()
            tuner.step(loss)
            if step > 3:  # no gradient is known at the first decision
                most = max(most, tuner.values["weight_decay"] * float(weights.norm() / gradient.norm()))
    assert 0.05 < most < 0.2
