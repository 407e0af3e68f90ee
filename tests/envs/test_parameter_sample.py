from __future__ import annotations

import pytest
import torch
from metatuner.envs.optimizers import gradient_statistics, parameters, update_statistics
from metatuner.envs.parameter_sample import SAMPLE, ParameterSample
from torch import nn


def trained(width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(500, width), nn.Flatten(), nn.Linear(4 * width, width), nn.Linear(width, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        rows = torch.randint(0, 500, (32, 4))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows), rows[:, 0] % 3).backward()
        optimizer.step()
    return model, optimizer


def full_sample(optimizer: torch.optim.Optimizer) -> ParameterSample:
    """One that measures everything, whatever the size."""
    return ParameterSample(parameters(optimizer)[-1:])


def test_a_small_model_is_measured_in_full() -> None:
    tensor = torch.randn(7, 5)
    sample = ParameterSample([tensor])
    assert sample.full
    assert torch.equal(sample.row([tensor, tensor[0]]), torch.cat([tensor.flatten(), tensor[0]]))
    assert len(sample.row([])) == 0


def test_a_large_model_is_measured_on_a_sample_that_agrees() -> None:
    _, optimizer = trained(512)
    sample, weights = ParameterSample(parameters(optimizer)), parameters(optimizer)
    full = full_sample(optimizer)
    assert full.full
    assert not sample.full
    assert len(sample.row(weights)) < 2 * SAMPLE
    assert len(sample.row(weights)) < sum(parameter.numel() for parameter in weights) / 8
    ones = sample.row([torch.ones_like(parameter) for parameter in weights])
    assert torch.dot(ones, ones).item() == pytest.approx(sum(parameter.numel() for parameter in weights), rel=1e-4)
    estimates, exact = gradient_statistics(optimizer, sample), gradient_statistics(optimizer, full)
    for estimate, value in zip(estimates, exact, strict=True):
        assert estimate.item() == pytest.approx(value.item(), rel=0.1)
    before = [one.row(weights) for one in (sample, full)]
    optimizer.step()
    estimates = update_statistics(optimizer, before[0], sample)
    for estimate, value in zip(estimates, update_statistics(optimizer, before[1], full), strict=True):
        assert estimate.item() == pytest.approx(value.item(), rel=0.1)


def test_what_has_no_gradient_or_no_momentum_yet_is_left_out() -> None:
    model, optimizer = trained(8)
    sample, layers = ParameterSample(parameters(optimizer)), list(model.parameters())
    layers[0].grad = None
    optimizer.state[layers[1]]["momentum_buffer"] = None
    squared, dot, momentum = (each.item() for each in gradient_statistics(optimizer, sample))
    buffers = {layer: optimizer.state[layer]["momentum_buffer"] for layer in layers[2:]}
    assert squared == pytest.approx(sum(layer.grad.square().sum().item() for layer in layers[1:]), rel=1e-5)  # type: ignore[union-attr]
    assert dot == pytest.approx(sum((layer.grad * m).sum().item() for layer, m in buffers.items()), rel=1e-4)
    assert momentum == pytest.approx(sum(m.square().sum().item() for m in buffers.values()), rel=1e-5)


def test_a_weight_that_is_not_finite_is_seen_wherever_it_is() -> None:
    model, optimizer = trained(512)
    sample = ParameterSample(parameters(optimizer))
    before = sample.row(parameters(optimizer))
    weight = model[2].weight
    with torch.no_grad():
        weight[3, 100] = torch.nan
    now = sample.row(parameters(optimizer))
    assert bool(torch.isfinite(now).all()), "choose an element that is not in the sample"
    assert not bool(torch.isfinite(update_statistics(optimizer, before, sample)[1]))


def test_half_precision_is_measured_in_single() -> None:
    tensor = torch.full((100,), 300.0, dtype=torch.float16)
    taken = ParameterSample([tensor]).row([tensor])
    assert torch.dot(taken, taken).item() == 9e6
