"""The actor and its critic as policies of stable-baselines3's PPO, with a memory or without."""

from __future__ import annotations

from typing import Any, Self

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from .actor import Actor, ActorShape, Critic, RecurrentActor
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
    """What stable-baselines3 calls the extractor: observations, what is remembered beside them, to what its heads take.

    It ends in adjustments already.
    """

    def __init__(self, shape: ActorShape, hyperparameters: int) -> None:
        super().__init__()
        self.shape = shape
        self.actor, self.critic, self.standardiser = Actor(shape), Critic(shape), Standardiser(shape)
        self.latent_dim_pi, self.latent_dim_vf = hyperparameters, shape.width

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(seen), self.forward_critic(seen)

    def forward_actor(self, seen: Tensor) -> Tensor:
        observation, remembered = self._parts(seen)
        _, blocks = self.actor.encoder.split(observation)
        return torch.cat([self.actor(observation, remembered), adjusted(blocks)], dim=-1)

    def forward_critic(self, seen: Tensor) -> Tensor:
        features: Tensor = self.critic(*self._parts(seen))
        return features

    def _parts(self, seen: Tensor) -> tuple[Tensor, Tensor | None]:
        if not self.shape.memory:
            return self.standardiser(seen), None
        observation, remembered = seen.tensor_split([seen.shape[-1] - self.shape.memory], dim=-1)
        return self.standardiser(observation), remembered


class _OnTorso(ActorCriticPolicy):
    """A Gaussian policy whose mean is an `Actor`."""

    _shape: ActorShape

    @property
    def standardiser(self) -> Standardiser:
        """What observations go through first."""
        return self._torso.standardiser

    @property
    def _torso(self) -> _Torso:
        assert isinstance(self.mlp_extractor, _Torso)
        return self.mlp_extractor

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Torso(self._shape, self.action_space.shape[0])  # type: ignore[assignment, index]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # What super() put behind the torso goes, and so does the optimiser over it.
        self.action_net = nn.Identity()
        self.action_dist = MaskedGaussian(self.action_space.shape[0])  # type: ignore[index]
        with torch.no_grad():
            self._torso.actor.head.weight.mul_(0.01)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


class ScheduleActorCritic(_OnTorso):
    """A policy for `PPO`.

    Args:
        shape: Sizes of the networks.
        args: As for `ActorCriticPolicy`.
        kwargs: As for `ActorCriticPolicy`.
    """

    def __init__(self, *args: Any, shape: ActorShape, **kwargs: Any) -> None:
        self._shape = shape
        super().__init__(*args, **kwargs)

    def learnt_actor(self) -> Actor:
        """The part that is kept when training is over; it takes observations as they are."""
        return self.standardiser.folded_into(self._torso.actor)


class RecurrentScheduleActorCritic(_OnTorso, RecurrentActorCriticPolicy):
    """A policy for `RecurrentPPO`: actor and critic remember the signals of the training, each for itself.

    Args:
        shape: Sizes of the networks, the memory's included.
        args: As for `RecurrentActorCriticPolicy`.
        kwargs: As for `RecurrentActorCriticPolicy`.
    """

    def __init__(self, *args: Any, shape: ActorShape, **kwargs: Any) -> None:
        self._shape = shape
        super().__init__(*args, **kwargs | {"lstm_hidden_size": shape.memory})
        # Those of super() would remember whole observations, and depend on the order of the hyperparameters.
        self.lstm_actor = nn.LSTM(shape.global_signals, shape.memory)
        self.lstm_critic = nn.LSTM(shape.global_signals, shape.memory)
        (group,) = self.optimizer.param_groups
        self.optimizer = self.optimizer_class(self.parameters(), lr=group["lr"], **self.optimizer_kwargs)  # type: ignore[call-arg]

    def learnt_actor(self) -> RecurrentActor:
        """The part that is kept when training is over; it takes observations as they are."""
        learnt = RecurrentActor(self.standardiser.folded_into(self._torso.actor))
        learnt.memory = self.standardiser.folded_into_memory(self.lstm_actor)
        return learnt

    def _process_sequence(  # type: ignore[override]
        self, features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: nn.LSTM
    ) -> tuple[Tensor, Tensor]:
        """Observations with what is remembered of them beside, and the next states."""
        signals = self.standardiser(features)[..., : self._shape.global_signals]
        remembered, states = super()._process_sequence(signals, lstm_states, episode_starts, lstm)
        return torch.cat([features, remembered], dim=-1), states
