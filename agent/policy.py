"""The policy of a schedule: it adjusts hyperparameters while a model trains."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.adjustments import Kind
from ..envs.controller import HYPERPARAMETER_SIGNALS
from ..envs.errors import PolicyFileError
from ..envs.references import REFERENCES
from ..envs.signals import GLOBAL_SIGNALS
from .actor import Actor, ActorShape, Committee, RecurrentActor
from .policy_files import SCHEDULE, built, card_in, policy_folder, require_entries, write_policy

DEFAULT_POLICY = "schedule-default"
ZERO = "zero"
"""The policy that adjusts nothing: it leaves its reference as it is, bit for bit."""

MOST_MEMBERS = 16
MOST_OPTIMISM = 2.0
_ALONE = {"members": 1, "optimism": 0.0}
"""What a card says of a network that decides alone."""
_IS_RATE = f"is_{Kind.LEARNING_RATE}"
_SIZES = {"summary": 1, "width": 1, "memory": 0}
"""Sizes of the network on a card, with the least of each."""

_FURTHEST = 1e9
"""What lies beyond is no signal: a policy sees them clipped to a few units."""


@dataclass(frozen=True)
class Policy:
    """A learned schedule policy.

    Example:
        >>> import metatuner as mt
        >>> policy = mt.Policy.load("schedule-default")  # for AdaptiveSchedule(..., policy=policy)
        >>> policy.decisions, policy.reference, policy.card["adjust"][:3]
        (30, 'constant', ['lr', 'weight_decay', 'momentum'])
        >>> folder = policy.save("my-policy")
        >>> sorted(file.name for file in folder.iterdir())
        ['card.json', 'policy.safetensors']
        >>> mt.Policy.load("my-policy").name
        'schedule-default'
        >>> env = mt.ScheduleEnv("wine", decisions=4, interval=5)
        >>> observation, info = env.reset(seed=0)
        >>> adjustments, memory = policy.decide(observation[None])  # of one training; memory goes into its next
        >>> adjustments.shape
        (1, 3)

    Attributes:
        name: What it is called.
        actor: The network; None adjusts nothing.
        decisions: Decisions a training that it was trained for.
        card: Everything else that is known of it: what it was trained on and how, its evaluation, package versions.
        global_signals: What it sees of a training, in its own order.
        own_signals: What it sees of each hyperparameter, in its own order.
    """

    name: str
    actor: Actor | RecurrentActor | Committee | None
    decisions: int = 25
    card: Mapping[str, Any] = field(default_factory=dict)
    global_signals: tuple[str, ...] = GLOBAL_SIGNALS
    own_signals: tuple[str, ...] = HYPERPARAMETER_SIGNALS

    @property
    def reference(self) -> str:
        """The schedule that it learnt to adjust, one of `envs.references.REFERENCES`."""
        return str(self.card.get("reference", "constant"))

    @property
    def unlearns(self) -> bool:
        """Whether an interval in which a training begins to overfit is to be taken back, see `ScheduleController`."""
        unlearns: bool = self.card.get("unlearns", False)
        return unlearns

    @property
    def signal_ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value of each signal in meta-training; empty where nobody knows."""
        return {name: (float(low), float(high)) for name, (low, high) in self.card.get("signal_ranges", {}).items()}

    @classmethod
    def load(cls, source: str | Path, tracking_uri: str | None = None) -> Policy:
        """Loads a policy.

        Args:
            source: A shipped policy's name, "zero", a folder that `save` wrote, or an address such as
                `models:/NAME@champion` in MLflow's Model Registry.
            tracking_uri: The store of an address, as for `MLflowRecorder`.

        Raises:
            UnknownPolicyError: No policy of this name, and no such folder.
            PolicyFileError: The files are damaged, altered, of another schema, or not plain data.
        """
        if source == ZERO:
            return cls(ZERO, None, card={"name": ZERO, "kind": SCHEDULE})
        with policy_folder(source, tracking_uri) as folder:
            card = _checked(folder, card_in(folder, SCHEDULE))
            seen, own = tuple(card["global_signals"]), tuple(card["own_signals"])
            mask = own.index("adjusted") if "adjusted" in own else None
            network = {**_ALONE, **card["network"]}
            members, optimism = (network.pop(name) for name in _ALONE)
            shape = ActorShape(len(seen), len(own), **network, adjusted=mask)
            actor = built(lambda: _network(shape, members, optimism, own), folder, card)
        return cls(str(card["name"]), actor, int(card["decisions"]), card, seen, own)

    def save(self, folder: str | Path) -> Path:
        """Writes weights and card into a folder, made where it does not exist; returns the folder.

        Raises:
            PolicyFileError: This policy has no weights.
        """
        if self.actor is None:
            raise PolicyFileError(f"policy {self.name!r} has no weights to save: load it by its name instead")
        shape, together = self.actor.shape, _ALONE
        if isinstance(self.actor, Committee):
            together = {"members": len(self.actor.members), "optimism": self.actor.optimism}
        card = {
            **self.card,
            "kind": SCHEDULE,
            "name": self.name,
            "decisions": self.decisions,
            "global_signals": list(self.global_signals),
            "own_signals": list(self.own_signals),
            "network": {name: getattr(shape, name) for name in _SIZES} | {"squashed": shape.squashed, **together},
        }
        return write_policy(folder, self.actor, card)

    def card_json(self) -> str:
        """The card as text."""
        return json.dumps(self.card, indent=2) + "\n"

    def first_state(self, n: int) -> NDArray[np.float32]:
        """What the policy remembers before the first decision of n trainings; shape (n, 0) where it never does."""
        return np.zeros((n, 2 * self.actor.shape.memory if self.actor is not None else 0), np.float32)

    @torch.no_grad()
    def decide(
        self, observation: NDArray[np.float32], state: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
        """Decides for n trainings.

        Args:
            observation: Shape (n, observation_size(h)).
            state: What the last decision of the same trainings returned; None at their first.

        Returns:
            Adjustments in [-1, 1], shape (n, h), and what the policy remembers.
        """
        signals, flat = np.split(observation, [len(GLOBAL_SIGNALS)], axis=1)
        blocks = flat.reshape(len(flat), -1, len(HYPERPARAMETER_SIGNALS))
        state = self.first_state(len(observation)) if state is None else state
        if self.actor is None:
            return np.zeros(blocks.shape[:2]), state
        seen = signals[:, [GLOBAL_SIGNALS.index(name) for name in self.global_signals]]
        own = blocks[..., [HYPERPARAMETER_SIGNALS.index(name) for name in self.own_signals]]
        joined = torch.from_numpy(np.concatenate([seen, own.reshape(len(own), -1)], axis=1))
        if isinstance(self.actor, RecurrentActor):
            adjustments, remembered = self.actor(joined, torch.from_numpy(state))
            state = remembered.numpy()
        else:
            adjustments = self.actor(joined)
        return adjustments.clamp(-1, 1).double().numpy(), state


def _network(
    shape: ActorShape, members: int, optimism: float, own: tuple[str, ...]
) -> Actor | RecurrentActor | Committee:
    if members > 1:
        return Committee((Actor(shape) for _ in range(members)), optimism, own.index(_IS_RATE))
    return RecurrentActor(Actor(shape)) if shape.memory else Actor(shape)


def _checked(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    path = folder / "card.json"
    require_entries(path, card, {"decisions": int, "global_signals": list, "own_signals": list})
    network = {"memory": 0, "squashed": False, **_ALONE, **card["network"]}
    if set(network) != {*_SIZES, "squashed", *_ALONE} or not (
        type(network["squashed"]) is bool
        and type(network["members"]) is int
        and 1 <= network["members"] <= (1 if network["memory"] else MOST_MEMBERS)
        and type(network["optimism"]) in (int, float)
        and 0.0 <= network["optimism"] <= MOST_OPTIMISM
        and all(type(network[name]) is int and least <= network[name] <= 4096 for name, least in _SIZES.items())
    ):
        raise PolicyFileError(
            f"{path} tells network sizes {card['network']!r}; expected summary and width, each 1 to 4096, and perhaps "
            f"memory, 0 to 4096, squashed, true or false, members, 1 to {MOST_MEMBERS} and 1 with a memory, and "
            f"optimism, 0 to {MOST_OPTIMISM:g}"
        )
    if network["members"] > 1 and _IS_RATE not in card["own_signals"]:
        raise PolicyFileError(f"{path} has members and no signal {_IS_RATE}: expected it among own_signals")
    if type(unlearns := card.get("unlearns", False)) is not bool:
        raise PolicyFileError(f"{path} tells unlearns {unlearns!r}; expected true or false")
    if card["decisions"] < 1:
        raise PolicyFileError(f"{path} tells {card['decisions']} decisions; expected at least 1")
    unknown = [str(name) for name in card["global_signals"] if name not in GLOBAL_SIGNALS]
    unknown += [str(name) for name in card["own_signals"] if name not in HYPERPARAMETER_SIGNALS]
    if unknown:
        raise PolicyFileError(
            f"the policy of {path} was trained on signals that this metatuner does not make ({', '.join(unknown)}): "
            "retrain it, or use the metatuner that wrote it"
        )
    if card.get("reference", "constant") not in tuple(REFERENCES):
        raise PolicyFileError(
            f"{path} tells the reference {card['reference']!r}; expected one of {', '.join(REFERENCES)}"
        )
    _require_ranges(path, card.get("signal_ranges", {}))
    return card


def _require_ranges(path: Path, ranges: object) -> None:
    if not isinstance(ranges, dict) or not all(
        name in GLOBAL_SIGNALS
        and isinstance(each, list)
        and len(each) == 2
        and all(type(end) in (int, float) for end in each)
        and -_FURTHEST <= each[0] <= each[1] <= _FURTHEST
        for name, each in ranges.items()
    ):
        raise PolicyFileError(
            f"{path} lacks valid ranges of signals: expected for each one its least and its greatest value; restore "
            "the policy's folder"
        )
