"""A policy's folder: weights as safetensors beside a card in JSON. Reading one never runs code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ..envs.errors import PolicyFileError, UnknownPolicyError
from ..envs.plain_files import read_json, read_plain, require_regular

SCHEMA_VERSION = 1
SHIPPED = Path(__file__).parent / "policies"

SCHEDULE, SEARCH = "schedule", "search"
"""The kinds of policy."""

_OF_NO_FILE = "zero"
WEIGHTS, CARD = "policy.safetensors", "card.json"
_SOURCES = "metatuner.policy_sources"
"""The group of entry points that fetch policies from elsewhere, so that this package need not know where."""

_HEADER = 2**20
"""Bytes of a safetensors file beside its numbers, at most."""

Network = TypeVar("Network", bound=nn.Module)


def shipped_policies() -> list[str]:
    """Names of the policies in the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}"))


@contextlib.contextmanager
def policy_folder(source: str | Path, tracking_uri: str | None = None) -> Iterator[Path]:
    """The folder of a policy, while it is read.

    Args:
        source: A shipped policy's name, a folder, or an address such as `models:/NAME@champion`.
        tracking_uri: The store of an address, as for `MLflowRecorder`.

    Raises:
        UnknownPolicyError: No policy of this name, and no such folder.
        PolicyFileError: Something else than a policy's folder is there.
    """
    if str(source) in shipped_policies():
        yield SHIPPED / str(source)
    elif found := entry_points(group=_SOURCES, name=str(source).partition(":")[0]):
        with tempfile.TemporaryDirectory(prefix="metatuner-") as folder:
            next(iter(found)).load()(str(source), folder, tracking_uri=tracking_uri)
            yield Path(folder)
    else:
        _require_folder(Path(source))
        yield Path(source)


def read_card(source: str | Path, tracking_uri: str | None = None) -> dict[str, Any]:
    """The card of a policy of any kind, see `policy_folder`.

    Raises:
        UnknownPolicyError: No policy of this name, and no such folder.
        PolicyFileError: The files are damaged, altered, or of another schema.
    """
    with policy_folder(source, tracking_uri) as folder:
        card = card_in(folder)
        require_weights(folder, card)
        return card


def card_in(folder: Path, kind: str | None = None) -> dict[str, Any]:
    """The card in a folder; where a kind is given, of a policy of that kind.

    Raises:
        PolicyFileError: It cannot be read, is of another schema or kind, or lacks an entry.
    """
    path = folder / CARD
    try:
        card = read_json(path)
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


def require_weights(folder: Path, card: Mapping[str, Any]) -> None:
    """Checks that the weights in a folder are those that the card tells; they are not taken into memory.

    Raises:
        PolicyFileError: They are damaged, altered, or not plain data.
    """
    path = folder / WEIGHTS
    with _readable(path):
        require_regular(path)
        with path.open("rb") as file:
            _require_no_code(path, file.read(2))
            file.seek(0)
            _require_same(path, hashlib.file_digest(file, "sha256").hexdigest(), card)


def built(make: Callable[[], Network], folder: Path, card: Mapping[str, Any]) -> Network:
    """A network with the weights in a folder.

    Memory is taken for what the file holds, whatever it and the card promise.

    Args:
        make: Makes the network that the card tells; on PyTorch's meta device, where it takes no memory.
        folder: The policy's folder.
        card: Its card.

    Raises:
        PolicyFileError: The weights are damaged, altered, not plain data, no finite numbers, or have other shapes than
            the card tells.
    """
    with torch.device("meta"):
        network = make().float()  # whatever the caller's default type is
    expected = network.state_dict()
    path = folder / WEIGHTS
    with _readable(path):
        data = read_plain(path, _HEADER + sum(each.nbytes for each in expected.values()))
    _require_no_code(path, data)
    _require_same(path, hashlib.sha256(data).hexdigest(), card)
    weights = _tensors(path, data)
    if {name: (each.shape, each.dtype) for name, each in weights.items()} != {
        name: (each.shape, each.dtype) for name, each in expected.items()
    }:
        raise PolicyFileError(
            f"the weights in {path} do not have the shapes that {CARD} tells: take both files from one policy"
        )
    if not all(bool(each.isfinite().all()) for each in weights.values()):
        raise PolicyFileError(f"the weights in {path} are not all finite numbers: take a policy that was trained well")
    network.load_state_dict(weights, assign=True)
    return network.eval()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Whoever cannot read the file within is told what to do."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise PolicyFileError(f"{path} cannot be read ({error}): restore the policy's folder") from error


def _require_no_code(path: Path, data: bytes) -> None:
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise PolicyFileError(
            f"{path} is a pickle or a zip archive, not safetensors; it is refused because loading it can run any code "
            "it holds: save the policy with its save method"
        )


def _require_same(path: Path, sha256: str, card: Mapping[str, Any]) -> None:
    if sha256 != card["sha256"]:
        raise PolicyFileError(
            f"{path} does not match the sha256 in {CARD}: it was cut short or altered; restore the policy's folder"
        )


def _tensors(path: Path, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    # A type that PyTorch has not, or a shape that it cannot count, is found by the reader's Python half.
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError, OverflowError, TypeError) as error:
        raise PolicyFileError(f"{path} is not a safetensors file ({error}): restore the policy's folder") from error


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
    try:
        is_file, is_folder = folder.is_file(), folder.is_dir()
    except OSError:  # such as a name that is too long
        is_file = is_folder = False
    if is_file:
        raise PolicyFileError(
            f"{folder} is a file; a policy is a folder with {WEIGHTS} and {CARD}. Pickles and stable-baselines3 "
            "archives are refused because loading one can run any code it holds"
        )
    if not is_folder:
        names = ", ".join([*shipped_policies(), _OF_NO_FILE])
        raise UnknownPolicyError(f"no policy is called {str(folder)!r}: expected one of {names}, or a policy's folder")
    for part in (WEIGHTS, CARD):
        if not (folder / part).is_file():
            raise PolicyFileError(f"{folder} holds no {part}: a policy is a folder with {WEIGHTS} and {CARD}")
