from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from metatuner.agent.actor import Actor, ActorShape
from metatuner.agent.standardiser import LEAST_DEVIATION, Standardiser
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS

SHAPE = ActorShape(global_signals=3, own_signals=len(HYPERPARAMETER_SIGNALS))


def observations(rows: int, seed: int = 0) -> torch.Tensor:
    """Two hyperparameters, of which the second is adjusted in every other row."""
    generator = torch.Generator().manual_seed(seed)
    signals = torch.randn(rows, 3, generator=generator) * torch.tensor([1.0, 0.2, 1e-4]) + torch.tensor([2.0, 0.0, 1.0])
    blocks = torch.randn(rows, 2, SHAPE.own_signals, generator=generator) * 3 - 1
    blocks[..., 0], blocks[..., -1] = 1.0, 1.0
    blocks[::2, 1] = 0.0
    return torch.cat([signals, blocks.flatten(1)], 1)


@given(st.lists(st.integers(2, 50), min_size=1, max_size=4))
def test_running_figures_are_those_of_all_observations_together(sizes: list[int]) -> None:
    parts = [observations(size, seed) for seed, size in enumerate(sizes)]
    standardiser = Standardiser(SHAPE)
    for part in parts:
        standardiser.update(part)
    signals = torch.cat(parts)[:, :3].double()
    torch.testing.assert_close(standardiser.signals_mean, signals.mean(0))
    torch.testing.assert_close(standardiser.signals_variance, signals.var(0, correction=0))


@given(st.lists(st.integers(2, 50), min_size=1, max_size=4))
def test_ranges_are_those_of_all_observations(sizes: list[int]) -> None:
    parts = [observations(size, seed) for seed, size in enumerate(sizes)]
    standardiser = Standardiser(SHAPE)
    for part in parts:
        standardiser.widen_ranges(part)
    signals = torch.cat(parts)[:, :3]
    assert torch.equal(standardiser.signals_low, signals.amin(0))
    assert torch.equal(standardiser.signals_high, signals.amax(0))


def test_flags_and_what_hardly_varies_are_not_blown_up() -> None:
    standardiser, seen = Standardiser(SHAPE), observations(400)
    standardiser.update(seen)
    scaled = standardiser(seen)
    torch.testing.assert_close(scaled[:, :2].std(0), torch.ones(2), atol=0.01, rtol=0.01)
    assert float(scaled[:, 2].abs().max()) < 1e-3 / LEAST_DEVIATION
    blocks, before = scaled[:, 3:].view(400, 2, -1), seen[:, 3:].view(400, 2, -1)
    flags = [i for i, name in enumerate(HYPERPARAMETER_SIGNALS) if name == "adjusted" or name.startswith("is_")]
    assert torch.equal(blocks[..., flags], before[..., flags])


def test_folded_in_it_changes_no_decision() -> None:
    standardiser, seen, actor = Standardiser(SHAPE), observations(60), Actor(SHAPE)
    standardiser.update(seen)
    standardised, folded = actor(standardiser(seen)), standardiser.folded_into(actor)(seen)
    there = seen[:, 3:].view(60, 2, -1)[..., 0] > 0
    torch.testing.assert_close(folded[there], standardised[there], atol=1e-4, rtol=1e-4)
