from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from metatuner.envs.traced import Recording, TensorFunction
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap


def gradients_of(model: nn.Module) -> TensorFunction:
    names = [name for name, _ in model.named_parameters()]

    def loss(*tensors: Tensor) -> Tensor:
        *weights, inputs, targets = tensors
        outputs = functional_call(model, dict(zip(names, weights, strict=True)), (inputs,))
        return nn.functional.cross_entropy(outputs, targets)

    both = vmap(grad_and_value(loss, argnums=tuple(range(len(names)))), randomness="different")

    def flat(*tensors: Tensor) -> list[Tensor]:
        gradients, losses = both(*tensors)
        return [*gradients, losses]

    return flat


def batch(model: nn.Module, seed: int, n: int = 3, rows: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(n, *weight.shape, generator=generator) for weight in model.parameters()]
    inputs = torch.randn(n, rows, 6, generator=generator)
    return [*weights, inputs, torch.randint(0, 4, (n, rows), generator=generator)]


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 4)),
        lambda: nn.Sequential(nn.Linear(6, 6, bias=False), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 4)),
        lambda: nn.Sequential(nn.Unflatten(-1, (1, 6)), nn.Conv1d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 4)),
    ],
)
def test_what_is_replayed_is_what_was_recorded_bit_for_bit(make: Callable[[], nn.Module]) -> None:
    model = make()
    function, inputs = gradients_of(model), batch(model, seed=0)
    recording = Recording(function, *inputs)
    for seed in (1, 2):
        for place, tensor in zip(inputs, batch(model, seed), strict=True):
            place.copy_(tensor)
        kept = [tensor.clone() for tensor in inputs]
        for one, other in zip(recording.replay(), function(*inputs), strict=True):
            assert torch.equal(one, other)
        assert all(torch.equal(tensor, before) for tensor, before in zip(inputs, kept, strict=True))


def test_results_keep_their_place() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
    recording = Recording(gradients_of(model), *batch(model, seed=0))
    first = [output.data_ptr() for output in recording.replay()]
    assert [output.data_ptr() for output in recording.replay()] == first


def test_dropout_is_drawn_anew_in_every_call_and_for_every_network() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4))
    state = torch.get_rng_state()
    recording = Recording(
        gradients_of(model), *(part[:1].expand(3, *part.shape[1:]).contiguous() for part in batch(model, seed=1))
    )
    assert torch.equal(torch.get_rng_state(), state), "recording must not use up random numbers"
    losses = [loss for _ in range(2) for loss in recording.replay()[-1].tolist()]
    assert len(set(losses)) == 6
