"""Policies are data: weights as safetensors beside a card in JSON. Loading one never runs code."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..envs.controller import HYPERPARAMETER_SIGNALS
from ..envs.errors import PolicyFileError, UnknownPolicyError
from ..envs.signals import GLOBAL_SIGNALS
from .actor import Actor, ActorShape, RecurrentActor

SCHEMA_VERSION = 1
SHIPPED = Path(__file__).parent / "policies"
DEFAULT_POLICY = "schedule-default"
ZERO = "zero"
"""The policy that adjusts nothing: it leaves its reference as it is, bit for bit."""

_SIZES = {"summary": 1, "width": 1, "memory": 0}
"""Sizes of the network on a card, with the least of each."""

_WEIGHTS, _CARD = "policy.safetensors", "card.json"
_SOURCES = "metatuner.policy_sources"
"""The group of entry points that fetch policies from elsewhere, so that this package need not know where."""


def shipped_policies() -> list[str]:
    """Names of the policies in the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{_CARD}"))


@dataclass(frozen=True)
class Policy:
    """A learned schedule policy.

    Attributes:
        name: What it is called.
        actor: The network; None adjusts nothing.
        decisions: Decisions a training that it was trained for.
        card: Everything else that is known of it: what it was trained on and how, its evaluation, package versions.
        global_signals: What it sees of a training, in its own order.
        own_signals: What it sees of each hyperparameter, in its own order.
    """

    name: str
    actor: Actor | RecurrentActor | None
    decisions: int = 25
    card: Mapping[str, Any] = field(default_factory=dict)
    global_signals: tuple[str, ...] = GLOBAL_SIGNALS
    own_signals: tuple[str, ...] = HYPERPARAMETER_SIGNALS

    @property
    def reference(self) -> str:
        """The schedule that it learnt to adjust, one of `envs.references.REFERENCES`."""
        return str(self.card.get("reference", "constant"))

    @property
    def signal_ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the greatest value of each signal in meta-training; empty where nobody knows."""
        return {name: (float(low), float(high)) for name, (low, high) in self.card.get("signal_ranges", {}).items()}

    @classmethod
    def load(cls, source: str | Path) -> Policy:
        """Loads a policy.

        Args:
            source: A shipped policy's name, "zero", a folder that `save` wrote, or an address such as
                `models:/NAME@champion` in MLflow's Model Registry.

        Raises:
            UnknownPolicyError: No policy of this name, and no such folder.
            PolicyFileError: The files are damaged, altered, of another schema, or not plain data.
        """
        if source == ZERO:
            return cls(ZERO, None, card={"name": ZERO, "kind": "schedule"})
        if str(source) in shipped_policies():
            return cls._read(SHIPPED / str(source))
        scheme = str(source).partition(":")[0]
        if found := entry_points(group=_SOURCES, name=scheme):
            with tempfile.TemporaryDirectory(prefix="metatuner-") as folder:
                next(iter(found)).load()(str(source), folder)
                return cls._read(Path(folder))
        _require_folder(Path(source))
        return cls._read(Path(source))

    @classmethod
    def _read(cls, folder: Path) -> Policy:
        card = _read_card(folder / _CARD)
        weights = _read_weights(folder / _WEIGHTS, card)
        seen, own = tuple(card["global_signals"]), tuple(card["own_signals"])
        mask = own.index("adjusted") if "adjusted" in own else None
        shape = ActorShape(len(seen), len(own), **card["network"], adjusted=mask)
        actor = RecurrentActor(Actor(shape)) if shape.memory else Actor(shape)
        try:
            actor.load_state_dict(weights)
        except RuntimeError as error:
            raise PolicyFileError(
                f"the weights in {folder / _WEIGHTS} do not have the shapes that {_CARD} tells: take both files from "
                "one policy"
            ) from error
        return cls(str(card["name"]), actor.eval(), int(card["decisions"]), card, seen, own)

    def save(self, folder: str | Path) -> Path:
        """Writes weights and card into a folder, made where it does not exist; returns the folder.

        Raises:
            PolicyFileError: This policy has no weights.
        """
        if self.actor is None:
            raise PolicyFileError(f"policy {self.name!r} has no weights to save: load it by its name instead")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = safetensors.torch.save(self.actor.state_dict())
        shape = self.actor.shape
        card = {
            **self.card,
            "schema_version": SCHEMA_VERSION,
            "kind": "schedule",
            "name": self.name,
            "decisions": self.decisions,
            "global_signals": list(self.global_signals),
            "own_signals": list(self.own_signals),
            "network": {name: getattr(shape, name) for name in _SIZES} | {"squashed": shape.squashed},
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
        (folder / _WEIGHTS).write_bytes(weights)
        (folder / _CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        return folder

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


def _require_folder(folder: Path) -> None:
    if folder.is_file():
        raise PolicyFileError(
            f"{folder} is a file; a policy is a folder with {_WEIGHTS} and {_CARD}. Pickles and stable-baselines3 "
            "archives are refused because loading one can run any code it holds"
        )
    if not folder.is_dir():
        names = ", ".join([*shipped_policies(), ZERO])
        raise UnknownPolicyError(f"no policy is called {str(folder)!r}: expected one of {names}, or a policy's folder")
    for part in (_WEIGHTS, _CARD):
        if not (folder / part).is_file():
            raise PolicyFileError(f"{folder} holds no {part}: a policy is a folder with {_WEIGHTS} and {_CARD}")


def _read_card(path: Path) -> dict[str, Any]:
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PolicyFileError(f"{path} is not a readable JSON file ({error}): restore the policy's folder") from error
    if not isinstance(card, dict) or card.get("schema_version") != SCHEMA_VERSION:
        found = card.get("schema_version") if isinstance(card, dict) else type(card).__name__
        raise PolicyFileError(
            f"{path} has schema version {found!r}, this metatuner reads {SCHEMA_VERSION}: retrain the policy, or use "
            "the metatuner that wrote it"
        )
    expected: dict[str, type | tuple[type, ...]] = {
        "name": str, "decisions": int, "global_signals": list, "own_signals": list, "network": dict, "sha256": str,
    }  # fmt: skip
    for key, kind in expected.items():
        if not isinstance(card.get(key), kind) or isinstance(card.get(key), bool):
            raise PolicyFileError(f"{path} lacks a valid entry {key!r}: restore the policy's folder")
    network = {"memory": 0, "squashed": False, **card["network"]}
    if set(network) != {*_SIZES, "squashed"} or not (
        type(network["squashed"]) is bool
        and all(type(network[name]) is int and least <= network[name] <= 4096 for name, least in _SIZES.items())
    ):
        raise PolicyFileError(
            f"{path} tells network sizes {card['network']!r}; expected summary and width, each 1 to 4096, and perhaps "
            "memory, 0 to 4096, and squashed, true or false"
        )
    if card["decisions"] < 1:
        raise PolicyFileError(f"{path} tells {card['decisions']} decisions; expected at least 1")
    unknown = [str(name) for name in card["global_signals"] if name not in GLOBAL_SIGNALS]
    unknown += [str(name) for name in card["own_signals"] if name not in HYPERPARAMETER_SIGNALS]
    if unknown:
        raise PolicyFileError(
            f"the policy of {path} was trained on signals that this metatuner does not make ({', '.join(unknown)}): "
            "retrain it, or use the metatuner that wrote it"
        )
    return card


def _read_weights(path: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    data = path.read_bytes()
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise PolicyFileError(
            f"{path} is a pickle or a zip archive, not safetensors; it is refused because loading it can run any code "
            "it holds: save the policy with Policy.save"
        )
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise PolicyFileError(
            f"{path} does not match the sha256 in {_CARD}: it was cut short or altered; restore the policy's folder"
        )
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise PolicyFileError(f"{path} is not a safetensors file ({error}): restore the policy's folder") from error
