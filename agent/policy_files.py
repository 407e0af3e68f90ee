"""A policy's folder: weights as safetensors beside a card in JSON. Reading one never runs code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from ..envs.errors import PolicyFileError, UnknownPolicyError

SCHEMA_VERSION = 1
SHIPPED = Path(__file__).parent / "policies"

SCHEDULE, SEARCH = "schedule", "search"
"""The kinds of policy."""

_OF_NO_FILE = "zero"
WEIGHTS, CARD = "policy.safetensors", "card.json"
_SOURCES = "metatuner.policy_sources"
"""The group of entry points that fetch policies from elsewhere, so that this package need not know where."""


def shipped_policies() -> list[str]:
    """Names of the policies in the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}"))


@contextlib.contextmanager
def policy_folder(source: str | Path) -> Iterator[Path]:
    """The folder of a policy, while it is read.

    Args:
        source: A shipped policy's name, a folder, or an address such as `models:/NAME@champion`.

    Raises:
        UnknownPolicyError: No policy of this name, and no such folder.
        PolicyFileError: Something else than a policy's folder is there.
    """
    if str(source) in shipped_policies():
        yield SHIPPED / str(source)
    elif found := entry_points(group=_SOURCES, name=str(source).partition(":")[0]):
        with tempfile.TemporaryDirectory(prefix="metatuner-") as folder:
            next(iter(found)).load()(str(source), folder)
            yield Path(folder)
    else:
        _require_folder(Path(source))
        yield Path(source)


def read_card(source: str | Path) -> dict[str, Any]:
    """The card of a policy of any kind.

    Raises:
        UnknownPolicyError: No policy of this name, and no such folder.
        PolicyFileError: The files are damaged, altered, or of another schema.
    """
    with policy_folder(source) as folder:
        card = card_in(folder)
        weights_in(folder, card)
        return card


def card_in(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The card in a folder; where a kind is given, of a policy of that kind.

    Raises:
        PolicyFileError: It cannot be read, is of another schema or kind, or lacks an entry.
    """
    path = folder / CARD
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
    require_entries(path, card, {"name": str, "kind": str, "network": dict, "sha256": str})
    if kind is not None and card["kind"] != kind:
        raise PolicyFileError(
            f"{path} is of a policy for a {card['kind']}, and one for a {kind} is needed: of those in the package "
            f"take {kind}-default"
        )
    return card


def require_entries(path: Path, card: Mapping[str, Any], expected: Mapping[str, type]) -> None:
    """Checks that a card has entries of these types.

    Raises:
        PolicyFileError: It lacks one.
    """
    for key, kind in expected.items():
        if not isinstance(card.get(key), kind) or isinstance(card.get(key), bool):
            raise PolicyFileError(f"{path} lacks a valid entry {key!r}: restore the policy's folder")


def weights_in(folder: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """The weights in a folder, those that the card tells.

    Raises:
        PolicyFileError: They are damaged, altered, or not plain data.
    """
    path = folder / WEIGHTS
    data = path.read_bytes()
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise PolicyFileError(
            f"{path} is a pickle or a zip archive, not safetensors; it is refused because loading it can run any code "
            "it holds: save the policy with its save method"
        )
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise PolicyFileError(
            f"{path} does not match the sha256 in {CARD}: it was cut short or altered; restore the policy's folder"
        )
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise PolicyFileError(f"{path} is not a safetensors file ({error}): restore the policy's folder") from error


def fill(network: nn.Module, folder: Path, card: Mapping[str, Any]) -> None:
    """Puts the weights in a folder into a network.

    Raises:
        PolicyFileError: They are damaged, or have other shapes than the card tells.
    """
    weights = weights_in(folder, card)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise PolicyFileError(
            f"the weights in {folder / WEIGHTS} do not have the shapes that {CARD} tells: take both files from one "
            "policy"
        ) from error
    network.eval()


def write_policy(folder: str | Path, network: nn.Module, card: Mapping[str, Any]) -> Path:
    """Writes weights and card into a folder, made where it does not exist; returns the folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = safetensors.torch.save(network.state_dict())
    signed = {**card, "schema_version": SCHEMA_VERSION, "sha256": hashlib.sha256(weights).hexdigest()}
    (folder / WEIGHTS).write_bytes(weights)
    write_card(folder, signed)
    return folder


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """Writes a card, whole as it is, into a folder."""
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def _require_folder(folder: Path) -> None:
    if folder.is_file():
        raise PolicyFileError(
            f"{folder} is a file; a policy is a folder with {WEIGHTS} and {CARD}. Pickles and stable-baselines3 "
            "archives are refused because loading one can run any code it holds"
        )
    if not folder.is_dir():
        names = ", ".join([*shipped_policies(), _OF_NO_FILE])
        raise UnknownPolicyError(f"no policy is called {str(folder)!r}: expected one of {names}, or a policy's folder")
    for part in (WEIGHTS, CARD):
        if not (folder / part).is_file():
            raise PolicyFileError(f"{folder} holds no {part}: a policy is a folder with {WEIGHTS} and {CARD}")
