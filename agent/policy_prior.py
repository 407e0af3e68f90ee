"""Past trials in a policy's folder, so that skill and history are shared as one.

The table, `prior.csv`, lies beside weights and card (`tracking.trial_table` tells its columns); the card has its sha256
under `prior`, and whether its values are to be minimised. It is never looked for elsewhere, whatever the card says.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ..envs.conditional_space import ConditionalSpace
from ..envs.errors import ConfigurationError, PolicyFileError, StoreError
from ..envs.plain_files import require_regular
from ..envs.prior import Prior
from .policy_files import CARD, SEARCH, WEIGHTS, card_in, policy_folder, require_weights, write_card
from .priors import prior_of

PRIOR = "prior.csv"
"""The table's name in the folder."""

_DIRECTIONS = ("minimize", "maximize")

Written = TypeVar("Written")

_log = logging.getLogger(__name__)


def export_policy(source: str | Path, folder: str | Path) -> Path:
    """Copies a policy, with the past trials that come with it, and returns the folder.

    Args:
        source: The policy, see `policy_files.policy_folder`.
        folder: Where it goes; made where it does not exist. A policy that is there is replaced.

    Raises:
        PolicyError: There is no such policy, or its files are damaged or altered.
        ConfigurationError: The folder is the policy's own, or a file.
    """
    target = Path(folder)
    with policy_folder(source) as found:
        card = card_in(found)
        require_weights(found, card)
        table = table_in(found, card)
        if target.resolve() == found.resolve() or target.is_file():
            raise ConfigurationError(f"expected another folder than the policy's own, and no file, got {str(folder)!r}")
        target.mkdir(parents=True, exist_ok=True)
        (target / PRIOR).unlink(missing_ok=True)  # of another policy that was there
        for file in (WEIGHTS, CARD, *([] if table is None else [PRIOR])):
            shutil.copyfile(found / file, target / file)
    return target


def attach_prior(folder: str | Path, direction: str, write: Callable[[Path], Written]) -> Written:
    """Writes a table into a search policy's folder, and its hash into the card.

    Args:
        folder: The policy's folder.
        direction: Of the table's values, "minimize" or "maximize".
        write: Writes the table to a path; what it returns is returned.

    Raises:
        ConfigurationError: The policy is of another kind, or the direction is none.
        PolicyFileError: The folder is no policy.
    """
    folder = Path(folder)
    card = card_in(folder)
    if card["kind"] != SEARCH:
        raise ConfigurationError(f"a policy for a {card['kind']} begins with no past trials: expected one for a search")
    if direction not in _DIRECTIONS:
        raise ConfigurationError(f"expected a direction out of {', '.join(_DIRECTIONS)}, got {direction!r}")
    written = write(folder / PRIOR)
    write_card(folder, {**card, "prior": {"sha256": _hash(folder / PRIOR), "direction": direction}})
    return written


def forget_names(folder: str | Path) -> None:
    """Takes the names of tasks out of a policy's card, as those of a table are taken out that is anonymous."""
    card = card_in(Path(folder))
    numbered = itertools.count(1)
    learnt = card.get("learnt_from")
    if isinstance(learnt, dict) and isinstance(learnt.get("tasks"), list):
        card = {**card, "learnt_from": {**learnt, "tasks": [f"task {next(numbered)}" for _ in learnt["tasks"]]}}
    if isinstance(card.get("held_out"), list):
        card = {**card, "held_out": [f"task {next(numbered)}" for _ in card["held_out"]]}
    write_card(Path(folder), card)


def table_in(folder: Path, card: Mapping[str, Any]) -> tuple[Path, str] | None:
    """The table in a policy's folder and the direction of its values; None where the card tells of none.

    Raises:
        PolicyFileError: It is not there, or not the one that the card tells.
    """
    told = card.get("prior")
    if told is None:
        return None
    path = folder / PRIOR
    if not isinstance(told, dict) or told.get("direction") not in _DIRECTIONS:
        raise PolicyFileError(f"the card in {folder} lacks a valid entry 'prior': restore the policy's folder")
    if _hash(path) != told.get("sha256"):
        raise PolicyFileError(
            f"{path} does not match the sha256 in the policy's card: it was cut short or altered; restore the policy's "
            "folder"
        )
    return path, told["direction"]


def prior_with(
    source: str | Path,
    tree: ConditionalSpace,
    *,
    own: tuple[str, str] | None,
    units: int,
    tracking_uri: str | None = None,
) -> Prior | None:
    """The past tasks that come with a policy.

    Args:
        source: The policy, see `policy_files.policy_folder`.
        tree: The search space.
        own: Names of the study that is to be tuned, and of its experiment: a task of that name is left out.
        units: Values that a full training reports.
        tracking_uri: The store of an address, as for `MLflowRecorder`.

    Returns:
        None where none come with it, or have nothing in common with the search space, which is logged.

    Raises:
        PolicyError: The policy or its table cannot be used.
    """
    with policy_folder(source, tracking_uri) as folder:
        found = table_in(folder, card_in(folder, SEARCH))
        if found is None:
            return None
        table, direction = found
        about = {"metric": "value", "direction": direction, "tracking_uri": None, "own": own, "units": units}
        try:
            return prior_of(f"table:{table}", tree, shown=f"policy:{source}", **about)
        except StoreError as error:
            _log.warning("the past trials that come with policy %s are of no use here: %s", source, error)
            return None


def _hash(path: Path) -> str:
    try:
        require_regular(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PolicyFileError(f"{path} cannot be read ({error}): restore the policy's folder") from error
