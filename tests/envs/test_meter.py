from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from metatuner.envs.meter import SET_ASIDE, IntervalMeter
from metatuner.envs.signals import Interval


def losses_of(steps: int) -> torch.Tensor:
    return 3.0 + torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(steps))


def told(meter: IntervalMeter, losses: torch.Tensor) -> IntervalMeter:
    memory = torch.zeros((), dtype=torch.float64)
    for loss in losses:
        meter.loss(memory.copy_(loss))  # the same memory each time, as CUDA graphs have it
    return meter


def numbers(interval: Interval) -> dict[str, float]:
    return {name: value.item() for name, value in vars(interval).items()}


@settings(max_examples=30)
@given(steps=st.integers(1, 5 * SET_ASIDE), taken=st.floats(0, 1))
def test_an_interval_is_measured_whole_whatever_is_set_aside(steps: int, taken: float) -> None:
    """One that diverged may end early: there, halves are still those of the whole."""
    count = max(1, round(steps * taken))
    losses = losses_of(steps)[:count]
    found = told(IntervalMeter(steps), losses).interval(2.0)
    seen, half = losses.numpy(), steps // 2
    assert found.first_loss.item() == seen[0]
    assert found.train_loss.item() == pytest.approx(seen.mean(), rel=1e-12)
    assert found.train_loss_std.item() == pytest.approx(seen.std(ddof=1) if count > 1 else 0.0, rel=1e-9)
    if 0 < half < count:
        assert found.early_loss.item() == pytest.approx(seen[:half].mean(), rel=1e-12)
        assert found.late_loss.item() == pytest.approx(seen[half:].mean(), rel=1e-12)
    assert not found.diverged.item()


@settings(max_examples=20)
@given(steps=st.integers(2, 3 * SET_ASIDE), cut=st.floats(0, 1))
def test_a_state_in_the_middle_goes_on_bit_for_bit(steps: int, cut: float) -> None:
    losses, at = losses_of(steps), round(steps * cut)

    def gradient(meter: IntervalMeter, size: float) -> None:
        meter.gradient(*torch.tensor([size, 0.5, 1.0]).unbind())

    whole = IntervalMeter(steps)
    gradient(whole, 2.0)
    told(whole, losses[:at])
    resumed = IntervalMeter(1)
    resumed.load_state_dict(whole.state_dict())
    for meter in (whole, resumed):
        gradient(meter, 3.0)
        told(meter, losses[at:])
    assert numbers(resumed.interval(None)) == pytest.approx(numbers(whole.interval(None)), rel=0, abs=0, nan_ok=True)


@pytest.mark.parametrize("at", [0, SET_ASIDE - 1, SET_ASIDE, 2 * SET_ASIDE])
def test_a_loss_that_is_not_finite_is_seen_wherever_it_is(at: int) -> None:
    losses = losses_of(2 * SET_ASIDE + 1)
    losses[at] = torch.inf
    assert told(IntervalMeter(len(losses)), losses).interval(None).diverged.item()


def test_trainings_side_by_side_are_measured_each_for_itself() -> None:
    losses = torch.stack([losses_of(100), 5.0 * losses_of(100)], dim=1)
    meter = IntervalMeter(100)
    for loss in losses:
        meter.loss(loss)
    at_once = IntervalMeter(100)
    at_once.losses(losses)
    for name, value in vars(meter.interval(None)).items():
        assert np.allclose(value, vars(at_once.interval(None))[name], rtol=1e-12, equal_nan=True)
