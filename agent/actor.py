"""The network that decides: one set of weights for any set of hyperparameters.

Every hyperparameter is judged by the same small network. It sees the signals of the training, the hyperparameter's own
block (how far it moved, how much room is left, what kind it is), and a summary of all blocks; so the order of the
hyperparameters does not matter, and neither does their number (Deep Sets, Zaheer et al. 2017). A block of zeros stands
for none: it adds nothing to the summary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..envs.adjustments import Kind
from ..envs.controller import HYPERPARAMETER_SIGNALS


@dataclass(frozen=True)
class ActorShape:
    """Sizes of an actor.

    Attributes:
        global_signals: Signals of the training as a whole.
        own_signals: Signals of each hyperparameter.
        summary: Units of the summary of all hyperparameters.
        width: Units of each of the two hidden layers.
        adjusted: Which own signal tells whether a block is of a hyperparameter at all; None where all blocks are.
        memory: Units of what is remembered of the signals from decision to decision; 0 remembers nothing.
        squashed: Whether adjustments go through a hyperbolic tangent, as soft actor-critic learns them.
    """

    global_signals: int
    own_signals: int
    summary: int = 16
    width: int = 96
    adjusted: int | None = HYPERPARAMETER_SIGNALS.index("adjusted")
    memory: int = 0
    squashed: bool = False


class SetEncoder(nn.Module):
    """Splits observations and summarises the hyperparameter blocks."""

    def __init__(self, shape: ActorShape) -> None:
        super().__init__()
        self.shape = shape
        self.block = nn.Sequential(nn.Linear(shape.own_signals, shape.summary), nn.Tanh())

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (n, g + h * o) as signals with the summary (n, g + s), and blocks (n, h, o)."""
        signals, blocks = self.split(observation)
        of_each = self.block(blocks)
        if self.shape.adjusted is not None:
            of_each = of_each * blocks[..., self.shape.adjusted, None]
        return torch.cat([signals, of_each.sum(-2)], dim=-1), blocks

    def split(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Observations (n, g + h * o) as signals (n, g) and blocks (n, h, o)."""
        signals, flat = observation.tensor_split([self.shape.global_signals], dim=-1)
        return signals, flat.reshape(*flat.shape[:-1], -1, self.shape.own_signals)


class Actor(nn.Module):
    """Observations to adjustments: the mean of the policy.

    Where the shape has a memory, the actor takes what is remembered beside the observation; `RecurrentActor` remembers.
    """

    def __init__(self, shape: ActorShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = SetEncoder(shape)
        inputs = shape.global_signals + shape.summary + shape.memory + shape.own_signals
        self.body = nn.Sequential(
            nn.Linear(inputs, shape.width), nn.Tanh(), nn.Linear(shape.width, shape.width), nn.Tanh()
        )
        self.head = nn.Linear(shape.width, 1)

    def forward(self, observation: Tensor, remembered: Tensor | None = None) -> Tensor:
        """Adjustments (n, h), not clipped, for observations (n, g + h * o); those of no hyperparameter mean nothing."""
        context, blocks = self.encoder(observation)
        context = _with(context, remembered)
        repeated = context.unsqueeze(-2).expand(*blocks.shape[:-1], context.shape[-1])
        adjustments: Tensor = self.head(self.body(torch.cat([repeated, blocks], dim=-1))).squeeze(-1)
        return adjustments.tanh() if self.shape.squashed else adjustments


class RecurrentActor(nn.Module):
    """An actor, and a long short-term memory of the training's signals (Hochreiter and Schmidhuber 1997).

    Args:
        actor: Its shape has a memory.
    """

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.shape, self.actor = actor.shape, actor
        self.memory = nn.LSTM(actor.shape.global_signals, actor.shape.memory)

    def forward(self, observation: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Adjustments (n, h) for observations (n, g + h * o) and states (n, 2 m), and the next states."""
        signals, _ = self.actor.encoder.split(observation)
        hidden, cell = (part.contiguous()[None] for part in state.chunk(2, dim=-1))
        remembered, (hidden, cell) = self.memory(signals[None], (hidden, cell))
        return self.actor(observation, remembered[0]), torch.cat([hidden[0], cell[0]], dim=-1)


class Committee(nn.Module):
    """Several actors that learnt apart from each other; what they do is the mean of what each would do.

    An ensemble (Hansen and Salamon 1990, Neural network ensembles). Policies that learn alike but for their seed differ
    more than most changes of how they learn; their mean is about as good as the best of them.

    A learning rate may be moved up by more than the mean, by a share of the standard deviation among the members, as an
    upper confidence bound does (Auer 2002, Using confidence bounds for exploitation-exploration trade-offs; over an
    ensemble Chen et al. 2017, UCB exploration via Q-ensembles). Where members disagree, up is the better bet: a rate
    that was too high shows at the next decision, one that stays too low does not.

    Args:
        members: Actors of one shape, without a memory.
        optimism: That share.
        is_rate: Which own signal tells whether a hyperparameter is a learning rate.
    """

    def __init__(
        self,
        members: Iterable[Actor],
        optimism: float = 0.0,
        is_rate: int = HYPERPARAMETER_SIGNALS.index(f"is_{Kind.LEARNING_RATE}"),
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.optimism, self._is_rate = optimism, is_rate

    @property
    def _first(self) -> Actor:
        first: Actor = self.members[0]  # type: ignore[assignment]
        return first

    @property
    def shape(self) -> ActorShape:
        """The shape of each member."""
        return self._first.shape

    def forward(self, observation: Tensor) -> Tensor:
        """Adjustments (n, h), not clipped, for observations (n, g + h * o)."""
        each = torch.stack([member(observation).clamp(-1, 1) for member in self.members])
        _, blocks = self._first.encoder.split(observation)
        spread: Tensor = each.std(0, correction=0) * blocks[..., self._is_rate]
        return each.mean(0) + self.optimism * spread


class Critic(nn.Module):
    """Observations to features of the expected return; used in meta-training only."""

    def __init__(self, shape: ActorShape) -> None:
        super().__init__()
        self.encoder = SetEncoder(shape)
        self.body = nn.Sequential(
            nn.Linear(shape.global_signals + shape.summary + shape.memory, shape.width),
            nn.Tanh(),
            nn.Linear(shape.width, shape.width),
            nn.Tanh(),
        )

    def forward(self, observation: Tensor, remembered: Tensor | None = None) -> Tensor:
        """Features (n, width) for observations (n, g + h * o), and what is remembered where the shape has a memory."""
        context, _ = self.encoder(observation)
        features: Tensor = self.body(_with(context, remembered))
        return features


def _with(context: Tensor, remembered: Tensor | None) -> Tensor:
    return context if remembered is None else torch.cat([context, remembered], dim=-1)
