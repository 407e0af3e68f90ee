"""The actor and its critic as a stable-baselines3 policy, so that its algorithms can train them."""

from __future__ import annotations

from typing import Any, Self

import torch
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from .actor import Actor, ActorShape, Critic
from .standardiser import Standardiser, adjusted


class MaskedGaussian(DiagGaussianDistribution):
    """A Gaussian that only those actions count in whose hyperparameters are adjusted.

    Its parameters are means and masks side by side, shape (n, 2 h).
    """

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> Self:
        """Takes means with masks, shape (n, 2 h), and log standard deviations, shape (h,)."""
        means, self._mask = mean_actions.chunk(2, dim=-1)
        super().proba_distribution(means, log_std)
        return self

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log probabilities of actions (n, h), shape (n,)."""
        of_each: Tensor = self.distribution.log_prob(actions)  # type: ignore[no-untyped-call]
        return (of_each * self._mask).sum(-1)

    def entropy(self) -> Tensor:
        """Entropies, shape (n,)."""
        of_each: Tensor = self.distribution.entropy()  # type: ignore[no-untyped-call]
        return (of_each * self._mask).sum(-1)


class _Torso(nn.Module):
    """What stable-baselines3 calls the extractor: observations to what its heads take."""

    def __init__(self, shape: ActorShape, hyperparameters: int) -> None:
        super().__init__()
        self.actor, self.critic, self.standardiser = Actor(shape), Critic(shape), Standardiser(shape)
        self.latent_dim_pi, self.latent_dim_vf = hyperparameters, shape.width

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(observation), self.forward_critic(observation)

    def forward_actor(self, observation: Tensor) -> Tensor:
        observation = self.standardiser(observation)
        _, blocks = self.actor.encoder.split(observation)
        return torch.cat([self.actor(observation), adjusted(blocks)], dim=-1)

    def forward_critic(self, observation: Tensor) -> Tensor:
        features: Tensor = self.critic(self.standardiser(observation))
        return features


class ScheduleActorCritic(ActorCriticPolicy):
    """A Gaussian policy whose mean is an `Actor`.

    Args:
        shape: Sizes of the networks.
        args: As for `ActorCriticPolicy`.
        kwargs: As for `ActorCriticPolicy`.
    """

    def __init__(self, *args: Any, shape: ActorShape, **kwargs: Any) -> None:
        self._shape = shape
        super().__init__(*args, **kwargs)

    @property
    def standardiser(self) -> Standardiser:
        """What observations go through first."""
        return self._torso.standardiser

    def learnt_actor(self) -> Actor:
        """The part that is kept when training is over; it takes observations as they are."""
        return self.standardiser.folded_into(self._torso.actor)

    @property
    def _torso(self) -> _Torso:
        assert isinstance(self.mlp_extractor, _Torso)
        return self.mlp_extractor

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Torso(self._shape, self.action_space.shape[0])  # type: ignore[assignment, index]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # The torso ends in adjustments already; what super() put behind it goes, and so does the optimiser over it.
        self.action_net = nn.Identity()
        self.action_dist = MaskedGaussian(self.action_space.shape[0])  # type: ignore[index]
        with torch.no_grad():
            self._torso.actor.head.weight.mul_(0.01)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]
