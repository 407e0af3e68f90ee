"""Soft actor-critic (Haarnoja et al. 2018) for schedules: stable-baselines3's, on the networks of the other algorithms.

Rewards are undiscounted over whole trainings, so the critic's targets are far away; and it knows nothing of copies of a
task. `experiments/schedule_ablations` tells what that costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac import policies
from torch import Tensor, nn

from .actor import Actor, ActorShape, Critic
from .standardiser import Standardiser, adjusted

_LEAST_LOG_STD, _MOST_LOG_STD = -4.0, 0.5
_EPSILON = 1e-6


class MaskedSquashedGaussian(SquashedDiagGaussianDistribution):
    """A Gaussian behind a hyperbolic tangent, in which only those actions count whose hyperparameters are adjusted.

    Its parameters are means and masks side by side, shape (n, 2 h). Log probabilities are scaled up to h actions: a
    target entropy then means the same for any number of hyperparameters.
    """

    def proba_distribution(self, mean_actions: Tensor, log_std: Tensor) -> Self:
        """Takes means with masks, shape (n, 2 h), and log standard deviations, shape (h,)."""
        means, self._mask = mean_actions.chunk(2, dim=-1)
        super().proba_distribution(means, log_std)
        return self

    def log_prob(self, actions: Tensor, gaussian_actions: Tensor | None = None) -> Tensor:
        """Log probabilities of actions (n, h) in (-1, 1), shape (n,)."""
        if gaussian_actions is None:
            gaussian_actions = actions.clamp(_EPSILON - 1, 1 - _EPSILON).atanh()
        of_each = self.distribution.log_prob(gaussian_actions)  # type: ignore[no-untyped-call]
        of_each = of_each - torch.log(1 - actions.square() + _EPSILON)
        share = self._mask / self._mask.sum(-1, keepdim=True).clamp(min=1)
        scaled: Tensor = (of_each * share).sum(-1) * self._mask.shape[-1]
        return scaled


class _Standardised(BaseFeaturesExtractor):
    """Observations on one scale, as stable-baselines3's features."""

    def __init__(self, observation_space: spaces.Box, shape: ActorShape) -> None:
        super().__init__(observation_space, features_dim=observation_space.shape[0])
        self.standardiser = Standardiser(shape)

    def forward(self, observation: Tensor) -> Tensor:
        standardised: Tensor = self.standardiser(observation)
        return standardised


class _SoftActor(policies.Actor):
    """Means from an `Actor`; a standard deviation for each hyperparameter that does not depend on the observation."""

    def __init__(self, *args: Any, shape: ActorShape, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        actions = self.action_space.shape[0]
        self.action_dist = MaskedSquashedGaussian(actions)  # type: ignore[assignment]
        # The distribution squashes.
        self.latent_pi, self.mu = nn.Sequential(), Actor(replace(shape, squashed=False))
        self.log_std = nn.Parameter(torch.full((actions,), float(self.log_std_init)))
        with torch.no_grad():
            self.mu.head.weight.mul_(0.01)

    def get_action_dist_params(self, obs: Any) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Means with masks, shape (n, 2 h), and log standard deviations, shape (h,)."""
        observation = self.extract_features(obs, self.features_extractor)
        _, blocks = self.mu.encoder.split(observation)  # type: ignore[operator]
        means = torch.cat([self.mu(observation), adjusted(blocks)], dim=-1)
        return means, self.log_std.clamp(_LEAST_LOG_STD, _MOST_LOG_STD), {}


class _ActionValue(nn.Module):
    """The expected return of an action: a critic that sees each hyperparameter's action in its block."""

    def __init__(self, shape: ActorShape) -> None:
        super().__init__()
        self.shape = shape
        self.critic = Critic(replace(shape, own_signals=shape.own_signals + 1))
        self.head = nn.Linear(shape.width, 1)

    def forward(self, seen: Tensor) -> Tensor:
        """Values (n, 1) of observations (n, g + h * o) with actions (n, h) beside them."""
        signals, rest = seen.tensor_split([self.shape.global_signals], dim=-1)
        count = rest.shape[-1] // (self.shape.own_signals + 1)
        flat, actions = rest.tensor_split([count * self.shape.own_signals], dim=-1)
        blocks = torch.cat([flat.reshape(*flat.shape[:-1], count, -1), actions[..., None]], dim=-1)
        value: Tensor = self.head(self.critic(torch.cat([signals, blocks.flatten(-2)], dim=-1)))
        return value


class _SoftCritic(ContinuousCritic):
    """Two values of each action, of which the lower is believed."""

    def __init__(self, *args: Any, shape: ActorShape, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.q_networks = []
        for i in range(self.n_critics):
            value = _ActionValue(shape)
            self.add_module(f"qf{i}", value)
            self.q_networks.append(value)


class SoftScheduleActorCritic(policies.SACPolicy):
    """A policy for `ScheduleSAC`.

    Args:
        shape: Sizes of the networks; squashed.
        args: As for `SACPolicy`.
        kwargs: As for `SACPolicy`.
    """

    def __init__(self, *args: Any, shape: ActorShape, **kwargs: Any) -> None:
        self._shape = shape
        # The networks of `net_arch` are made, and replaced.
        extractor = {"features_extractor_class": _Standardised, "features_extractor_kwargs": {"shape": shape}}
        super().__init__(*args, **kwargs | extractor | {"net_arch": [1]})

    @property
    def standardiser(self) -> Standardiser:
        """The actor's."""
        return next(self.standardisers)

    @property
    def standardisers(self) -> Iterator[Standardiser]:
        """What observations go through first: that of the actor, of the critic and of its target."""
        for part in (self.actor, self.critic, self.critic_target):
            yield part.features_extractor.standardiser  # type: ignore[misc]

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> policies.Actor:
        """The actor."""
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return _SoftActor(**kwargs, shape=self._shape).to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        """A critic."""
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return _SoftCritic(**kwargs, shape=self._shape).to(self.device)

    def learnt_actor(self) -> Actor:
        """The part that is kept when training is over; it takes observations as they are."""
        actor = self.actor.mu
        assert isinstance(actor, Actor)
        learnt = self.standardiser.folded_into(actor)
        learnt.shape = self._shape
        return learnt


class ScheduleSAC(SAC):
    """stable-baselines3's SAC; the scale of its observations is learnt from every whole episode."""

    policy: SoftScheduleActorCritic

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: NDArray[Any],
        new_obs: NDArray[Any] | dict[str, NDArray[Any]],
        reward: NDArray[Any],
        dones: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if not dones.all():
            return
        decisions = infos[0]["episode"]["l"]
        rows = np.arange(replay_buffer.pos - decisions, replay_buffer.pos)
        seen = torch.from_numpy(replay_buffer.observations[rows]).flatten(0, 1)
        for standardiser in self.policy.standardisers:
            standardiser.update(seen)
            standardiser.widen_ranges(seen)
