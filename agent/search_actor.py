"""The network that chooses among a search's moves: the same weights score every move, whatever the search space.

A score is what a strong rule says, sharpened, plus what the network has learnt. The rule is what a move promises for
each unit of its cost, see `envs.search_state`. The network says nothing before it has learnt: learning starts from the
rule, and of what it adds as much is trusted as has proved to be better.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..envs.search_moves import CONTEXT, FEATURES, MOVES

_POSSIBLE, _RULE = FEATURES.index("possible"), FEATURES.index("log_worth")
_TASKS = CONTEXT.index("tasks")

SHARPNESS = 8.0
"""Of the rule at first: a move that is half as good as the best one is taken a quarter as often."""


@dataclass(frozen=True)
class SearchActorShape:
    """Sizes.

    Attributes:
        features: Features of each move.
        context: Features of the search as a whole.
        width: Units of each hidden layer.
    """

    features: int = len(FEATURES)
    context: int = len(CONTEXT)
    width: int = 64


class MoveEncoder(nn.Module):
    """Every move by itself, then all of them together."""

    def __init__(self, shape: SearchActorShape) -> None:
        super().__init__()
        self.shape = shape
        self.each = nn.Sequential(
            nn.Linear(shape.features + shape.context, shape.width),
            nn.Tanh(),
            nn.Linear(shape.width, shape.width),
            nn.Tanh(),
        )

    def split(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (n, MOVES * f + c) as features (n, MOVES, f) and context (n, c)."""
        flat, context = observation.tensor_split([MOVES * self.shape.features], dim=-1)
        return flat.reshape(-1, MOVES, self.shape.features), context

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Encodings of moves (n, MOVES, width), and their mean and maximum over the possible ones (n, 2 * width)."""
        features, context = self.split(observation)
        context = context[:, None].expand(-1, MOVES, -1)
        encoded = self.each(torch.cat([features, context], dim=-1))
        possible = features[..., _POSSIBLE, None]
        mean = (encoded * possible).sum(1) / possible.sum(1).clamp(min=1)
        most = torch.where(possible > 0, encoded, -1.0).amax(1)
        return encoded, torch.cat([mean, most], dim=-1)


class SearchActor(nn.Module):
    """Scores of moves.

    Args:
        shape: Sizes of the network.

    Attributes:
        trust: Shares of what was learnt that count, shape (2,): in searches without past tasks, and with them.
    """

    trust: Tensor

    def __init__(self, shape: SearchActorShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = MoveEncoder(shape)
        self.register_buffer("trust", torch.ones(2))
        self.joined = nn.Linear(3 * shape.width, shape.width)
        self.head = nn.Linear(shape.width, 1)
        self.sharpness = nn.Parameter(torch.tensor(SHARPNESS))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, observation: Tensor) -> Tensor:
        """Scores (n, MOVES) of observations (n, MOVES * f + c); those of impossible moves mean nothing."""
        encoded, pooled = self.encoder(observation)
        pooled = pooled[:, None].expand(-1, MOVES, -1)
        features, context = self.encoder.split(observation)
        rule = features[..., _RULE]
        added = self.head(torch.tanh(self.joined(torch.cat([encoded, pooled], dim=-1))))[..., 0]
        learnt = added + (self.sharpness - SHARPNESS) * rule
        scores: Tensor = SHARPNESS * rule + self.trust[(context[:, _TASKS] > 0).long(), None] * learnt
        return scores


class SearchCritic(nn.Module):
    """What is to be expected of a search, from all its moves together: features (n, width)."""

    def __init__(self, shape: SearchActorShape) -> None:
        super().__init__()
        self.encoder = MoveEncoder(shape)
        self.joined = nn.Sequential(nn.Linear(2 * shape.width + shape.context, shape.width), nn.Tanh())

    def forward(self, observation: Tensor) -> Tensor:
        """Features (n, width) of observations (n, MOVES * f + c)."""
        _, pooled = self.encoder(observation)
        features: Tensor = self.joined(torch.cat([pooled, self.encoder.split(observation)[1]], dim=-1))
        return features
