"""The search's actor and its critic as a policy of sb3-contrib's MaskablePPO."""

from __future__ import annotations

from typing import Any

from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import Tensor, nn

from ..envs.search_moves import MOVES
from .search_actor import SearchActor, SearchActorShape, SearchCritic


class _Torso(nn.Module):
    """What stable-baselines3 calls the extractor. It ends in scores already."""

    def __init__(self, shape: SearchActorShape) -> None:
        super().__init__()
        self.actor, self.critic = SearchActor(shape), SearchCritic(shape)
        self.latent_dim_pi, self.latent_dim_vf = MOVES, shape.width

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(observation), self.forward_critic(observation)

    def forward_actor(self, observation: Tensor) -> Tensor:
        scores: Tensor = self.actor(observation)
        return scores

    def forward_critic(self, observation: Tensor) -> Tensor:
        features: Tensor = self.critic(observation)
        return features


class SearchActorCritic(MaskableActorCriticPolicy):
    """A policy for `MaskablePPO` whose scores are a `SearchActor`'s.

    Args:
        shape: Sizes of the networks.
        args: As for `MaskableActorCriticPolicy`.
        kwargs: As for `MaskableActorCriticPolicy`.
    """

    def __init__(self, *args: Any, shape: SearchActorShape, **kwargs: Any) -> None:
        self._shape = shape
        # Orthogonal initialisation would overwrite the actor's zeros.
        super().__init__(*args, **kwargs | {"ortho_init": False})

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Torso(self._shape)  # type: ignore[assignment]

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        # What super() put behind the torso goes, and so does the optimiser over it.
        self.action_net = nn.Identity()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def learnt_actor(self) -> SearchActor:
        """The part that is kept when training is over."""
        assert isinstance(self.mlp_extractor, _Torso)
        return self.mlp_extractor.actor
