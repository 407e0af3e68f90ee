"""Networks small enough to be trained by the hundred: perceptrons, convolutions, transformers, recurrent ones.

All of them run in a batch of networks (`torch.func.vmap`), which is why attention and recurrence are spelt out: torch's
own layers take paths there that vmap does not know.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .layers import Dropout, NoisyInput, Reparametrised

Activation = Callable[[], nn.Module]


@dataclass(frozen=True)
class Style:
    """What networks of any architecture can have.

    Attributes:
        activation: Makes the nonlinearity.
        norm: "none", "layer" or "batch"; transformers always have layer norms.
        regularised: With layers for dropout and for noise on the input.
        reparametrised: Whether every weight layer has a random gain, see `Reparametrised`.
    """

    activation: Activation = nn.ReLU
    norm: str = "none"
    regularised: bool = False
    reparametrised: bool = False

    def weights(self, layer: nn.Module) -> nn.Module:
        """The layer as it is used."""
        return Reparametrised(layer) if self.reparametrised else layer

    def input(self) -> list[nn.Module]:
        """What the input goes through first."""
        return [NoisyInput()] if self.regularised else []

    def after(self, norm: nn.Module | None = None) -> list[nn.Module]:
        """What follows a weight layer."""
        return [*([norm] if norm else []), self.activation(), *([Dropout()] if self.regularised else [])]


def perceptron(features: int, outputs: int, width: int, depth: int, style: Style) -> nn.Module:
    """A multilayer perceptron with `depth` hidden layers."""
    norms: dict[str, Callable[[], nn.Module | None]] = {
        "none": lambda: None,
        "layer": lambda: nn.LayerNorm(width),
        "batch": lambda: _uncounted(nn.BatchNorm1d(width)),
    }
    layers = style.input()
    for inner in [features, *[width] * (depth - 1)]:
        layers += [style.weights(nn.Linear(inner, width)), *style.after(norms[style.norm]())]
    return nn.Sequential(*layers, style.weights(nn.Linear(width, outputs)))


class ResidualPerceptron(nn.Module):
    """Residual blocks of two layers on a stream of `width`, each behind a layer norm."""

    def __init__(self, features: int, outputs: int, width: int, depth: int, style: Style) -> None:
        super().__init__()
        self.inputs = nn.Sequential(*style.input(), style.weights(nn.Linear(features, width)))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), *style.after(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.head = style.weights(nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, outputs) of inputs (batch, features)."""
        x = self.inputs(x)
        for block in self.blocks:
            x = x + block(x)
        outputs: Tensor = self.head(x)
        return outputs


def convnet(channels: int, side: int, outputs: int, width: int, depth: int, style: Style) -> nn.Module:
    """Convolutions of 3 x 3 for square images; all but the first have twice the channels and halve the side."""
    layers = style.input()
    for i in range(depth):
        wider, stride = width * (1 if i == 0 else 2), 1 if i == 0 else 2
        norm: dict[str, Callable[[], nn.Module | None]] = {
            "none": lambda: None,
            "layer": lambda wider=wider: nn.GroupNorm(1, wider),  # type: ignore[misc]
            "batch": lambda wider=wider: _uncounted(nn.BatchNorm2d(wider)),  # type: ignore[misc]
        }
        layers.append(style.weights(nn.Conv2d(channels, wider, 3, stride=stride, padding=1)))
        layers += style.after(norm[style.norm]())
        channels, side = wider, -(-side // stride)
    return nn.Sequential(*layers, nn.Flatten(), style.weights(nn.Linear(channels * side**2, outputs)))


class Transformer(nn.Module):
    """A causal transformer that predicts the next token at every place.

    Args:
        tokens: Size of the vocabulary.
        length: Longest text.
        width: Of the stream, a multiple of `heads`.
        depth: Blocks.
        heads: Of attention.
        style: Its norm is not used.
        norm_first: Layer norms before each part (Xiong et al. 2020) instead of behind it (Vaswani et al. 2017).
    """

    def __init__(
        self, tokens: int, length: int, width: int, depth: int, heads: int, style: Style, norm_first: bool = True
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        self.places = nn.Parameter(0.1 * torch.randn(length, width))
        self.blocks = nn.ModuleList(_Block(width, heads, style, norm_first) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, tokens))

    def forward(self, text: Tensor) -> Tensor:
        """Logits (batch, length, tokens) of the tokens that follow on tokens (batch, length)."""
        x = self.tokens(text) + self.places[: text.shape[-1]]
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, style: Style, norm_first: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [
                nn.Sequential(_Attention(width, heads, style), *([Dropout()] if style.regularised else [])),
                nn.Sequential(
                    style.weights(nn.Linear(width, 2 * width)),
                    *style.after(),
                    style.weights(nn.Linear(2 * width, width)),
                ),
            ]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in self.parts)
        self.norm_first = norm_first

    def forward(self, x: Tensor) -> Tensor:
        for part, norm in zip(self.parts, self.norms, strict=True):
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int, style: Style) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.output = style.weights(nn.Linear(width, 3 * width)), style.weights(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        by_head = self.inputs(x).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = by_head.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) / math.sqrt(width // self.heads)
        later = torch.full((length, length), -torch.inf, device=x.device).triu(1)
        mixed = (scores + later).softmax(-1) @ value
        output: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, length, width))
        return output


class Recurrent(nn.Module):
    """A recurrent network that reads sequences.

    Args:
        inputs: Features at each place, or the size of the vocabulary where it reads text.
        outputs: Classes, or targets.
        width: Of the state.
        style: Its norm, where there is one, is a layer norm of the states.
        reads_text: Whether inputs are token numbers.
        at_every_place: Whether there is an output at every place instead of one at the end.
        cell: What makes the next state from an input and the last state; None takes `GatedCell`.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        width: int,
        style: Style,
        *,
        reads_text: bool = False,
        at_every_place: bool = False,
        cell: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.width, self.at_every_place = width, at_every_place
        self.inputs = nn.Embedding(inputs, width) if reads_text else nn.Sequential(*style.input())
        self.cell = (cell or GatedCell)(width if reads_text else inputs, width)
        self.norm = nn.Identity() if style.norm == "none" else nn.LayerNorm(width)
        self.head = nn.Sequential(*([Dropout()] if style.regularised else []), style.weights(nn.Linear(width, outputs)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (batch, outputs), or (batch, length, outputs), of sequences (batch, length, ...)."""
        x = self.inputs(x)
        states = [x.new_zeros(len(x), self.width)]
        for place in x.unbind(1):
            states.append(self.cell(place, states[-1]))
        read = torch.stack(states[1:], 1) if self.at_every_place else states[-1]
        outputs: Tensor = self.head(self.norm(read))
        return outputs


class GatedCell(nn.Module):
    """The cell of a GRU (Cho et al. 2014), as in `torch.nn.GRUCell`."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inward, self.onward = nn.Linear(inputs, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state (batch, width)."""
        inward, onward = self.inward(x), self.onward(state)
        (r_in, z_in, n_in), (r_on, z_on, n_on) = inward.chunk(3, -1), onward.chunk(3, -1)
        reset, keep = torch.sigmoid(r_in + r_on), torch.sigmoid(z_in + z_on)
        candidate = torch.tanh(n_in + reset * n_on)
        return candidate + keep * (state - candidate)


class MinimalGatedCell(nn.Module):
    """A recurrent cell with one gate (Zhou et al. 2016)."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(inputs + width, width), nn.Linear(inputs + width, width)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """The next state (batch, width)."""
        forget = torch.sigmoid(self.gate(torch.cat([x, state], -1)))
        candidate = torch.tanh(self.candidate(torch.cat([x, forget * state], -1)))
        return (1 - forget) * state + forget * candidate


def _uncounted(norm: nn.Module) -> nn.Module:
    """A batch norm without the counter that a running mean of fixed rate has no use for."""
    norm.num_batches_tracked = None  # type: ignore[assignment]
    return norm
