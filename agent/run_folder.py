"""The folder of a meta-training run: what of it is unfinished, and whose."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..envs.errors import CheckpointError
from .policy_files import CARD, WEIGHTS

CHECKPOINT = "checkpoint.safetensors"
_OF_MEMBERS = frozenset({CHECKPOINT, CARD, WEIGHTS})


def member_folder(out: Path, number: int) -> Path:
    """Where a member of several lies while the others are trained."""
    return out / f"member-{number}"


def unfinished(out: Path) -> list[Path]:
    """Folders in which something of an unfinished run lies: the run's own, or its members'."""
    begun = [each for each in _members(out) if (each / CHECKPOINT).exists() or (each / CARD).exists()]
    return [*([out] if (out / CHECKPOINT).exists() else []), *begun]


def clear(out: Path) -> None:
    """Removes what is unfinished."""
    (out / CHECKPOINT).unlink(missing_ok=True)
    for folder in _members(out):
        shutil.rmtree(folder)


def require_own(out: Path, members: int) -> None:
    """Checks that what is unfinished is of a run with so many members.

    Raises:
        CheckpointError: It is not.
    """
    mine = [out] if members == 1 else [member_folder(out, number) for number in range(members)]
    if others := [each for each in unfinished(out) if each not in mine]:
        raise CheckpointError(
            f"{others[0]} is of an unfinished run with another number of members: give that number, another folder, or "
            "begin afresh"
        )


def _members(out: Path) -> list[Path]:
    """Folders of members: what else is in one is none of ours."""
    named = (each for each in out.glob("member-*") if each.name.removeprefix("member-").isdecimal() and each.is_dir())
    return sorted(each for each in named if {file.name for file in each.iterdir()} <= _OF_MEMBERS)
