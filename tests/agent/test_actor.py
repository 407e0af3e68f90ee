from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from metatuner.agent.actor import Actor, ActorShape

ACTOR = Actor(ActorShape(global_signals=5, own_signals=4, summary=3, width=8)).double()


@given(st.integers(1, 6), st.integers(0, 2**31))
def test_the_order_and_number_of_hyperparameters_do_not_matter(hyperparameters: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    signals = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    blocks = torch.randn(3, hyperparameters, 4, generator=generator, dtype=torch.float64)
    blocks[..., 0] = 1.0  # adjusted
    order = torch.randperm(hyperparameters, generator=generator)
    plain = ACTOR(torch.cat([signals, blocks.flatten(1)], 1))
    shuffled = ACTOR(torch.cat([signals, blocks[:, order].flatten(1)], 1))
    assert plain.shape == (3, hyperparameters)
    torch.testing.assert_close(plain[:, order], shuffled)
    # Nor does it matter where blocks of zeros stand, which are no hyperparameters.
    nothing = torch.zeros(3, 2, 4, dtype=torch.float64)
    padded = ACTOR(torch.cat([signals, torch.cat([nothing, blocks], 1).flatten(1)], 1))
    torch.testing.assert_close(padded[:, 2:], plain)
