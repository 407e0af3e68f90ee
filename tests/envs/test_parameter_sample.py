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
    assert torch.equal(sample.of(tensor), tensor.flatten())


def test_a_large_model_is_measured_on_a_sample_that_agrees() -> None:
    model, optimizer = trained(512)
    sample = ParameterSample(parameters(optimizer))
    full = full_sample(optimizer)
    assert full.full
    assert not sample.full
    measured = sum(sample.of(parameter).numel() for parameter in model.parameters())
    assert measured < 2 * SAMPLE
    assert measured < sum(parameter.numel() for parameter in model.parameters()) / 8
    estimates, exact = gradient_statistics(optimizer, sample), gradient_statistics(optimizer, full)
    for estimate, value in zip(estimates, exact, strict=True):
        assert estimate.item() == pytest.approx(value.item(), rel=0.1)
    before = [[one.of(parameter).clone() for parameter in model.parameters()] for one in (sample, full)]
    optimizer.step()
    estimates = update_statistics(optimizer, before[0], sample)
    for estimate, value in zip(estimates, update_statistics(optimizer, before[1], full), strict=True):
        assert estimate.item() == pytest.approx(value.item(), rel=0.1)


def test_a_weight_that_is_not_finite_is_seen_wherever_it_is() -> None:
    model, optimizer = trained(512)
    sample = ParameterSample(parameters(optimizer))
    before = [sample.of(parameter).clone() for parameter in model.parameters()]
    weight = model[2].weight
    with torch.no_grad():
        weight[3, 100] = torch.nan
    assert bool(torch.isfinite(sample.of(weight)).all()), "choose an element that is not in the sample"
    assert not bool(torch.isfinite(update_statistics(optimizer, before, sample)[1]))


def test_half_precision_is_measured_in_single() -> None:
    tensor = torch.full((100,), 300.0, dtype=torch.float16)
    taken = ParameterSample([tensor]).of(tensor)
    assert torch.dot(taken, taken).item() == 9e6
