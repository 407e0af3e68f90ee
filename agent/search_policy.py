"""The policy of a search: it chooses which configuration to try next, and which paused training to continue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.errors import PolicyFileError
from ..envs.search_moves import CONTEXT, FEATURES, Moves
from .policy_files import SEARCH, built, card_in, policy_folder, require_entries, write_policy
from .search_actor import SearchActor, SearchActorShape

DEFAULT_SEARCH_POLICY = "search-default"


@dataclass(frozen=True)
class SearchPolicy:
    """A learned search policy.

    Attributes:
        name: What it is called.
        actor: The network.
        card: Everything else that is known of it: what it was trained on and how, its evaluation, package versions.
    """

    name: str
    actor: SearchActor
    card: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, source: str | Path = DEFAULT_SEARCH_POLICY, tracking_uri: str | None = None) -> SearchPolicy:
        """Loads a policy.

        Args:
            source: A shipped policy's name, a folder that `save` wrote, or an address such as `models:/NAME@champion`
                in MLflow's Model Registry.
            tracking_uri: The store of an address, as for `MLflowRecorder`.

        Raises:
            UnknownPolicyError: No policy of this name, and no such folder.
            PolicyFileError: The files are damaged, altered, of another schema or kind, or not plain data.
        """
        with policy_folder(source, tracking_uri) as folder:
            card = card_in(folder, SEARCH)
            _check(folder / "card.json", card)
            actor = built(lambda: SearchActor(SearchActorShape(**card["network"])), folder, card)
        return cls(str(card["name"]), actor, card)

    def save(self, folder: str | Path) -> Path:
        """Writes weights and card into a folder, made where it does not exist; returns the folder."""
        shape = self.actor.shape
        card = {
            # Past trials that came with it stay where they are.
            **{key: value for key, value in self.card.items() if key != "prior"},
            "kind": SEARCH,
            "name": self.name,
            "features": list(FEATURES),
            "context": list(CONTEXT),
            "network": {"width": shape.width},
        }
        return write_policy(folder, self.actor, card)

    @torch.no_grad()
    def scores(self, moves: Moves) -> NDArray[np.float64]:
        """Scores of a search's moves, shape (MOVES,); minus infinity where one is impossible."""
        observation = np.concatenate([moves.features.reshape(-1), moves.context])
        scores = self.actor(torch.from_numpy(observation)[None])[0].double().numpy()
        return np.where(moves.possible, scores, -np.inf)


def _check(path: Path, card: Mapping[str, Any]) -> None:
    require_entries(path, card, {"features": list, "context": list})
    if (tuple(card["features"]), tuple(card["context"])) != (FEATURES, CONTEXT):
        raise PolicyFileError(
            f"the policy of {path} was trained on other features than this metatuner makes: retrain it, or use the "
            "metatuner that wrote it"
        )
    width = card["network"].get("width")
    if set(card["network"]) != {"width"} or type(width) is not int or not 1 <= width <= 4096:
        raise PolicyFileError(f"{path} tells network sizes {card['network']!r}; expected a width of 1 to 4096")
