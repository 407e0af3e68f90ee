"""A schedule's saved state: as a file that holds plain data and no code, and checked before it is taken in."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ..envs.errors import CheckpointError
from ..envs.plain_files import json_of, require_regular

_TENSOR = "tensor"
_STATE = "state"

_OF_LOSSES = ("first_loss", "mean", "squares", "early", "late")
_OF_GRADIENTS = ("log_grad_norm", "alignment")
_FINITE = ("_offset", "_last_action", "_start", "_base")
"""Arrays of the controller that NaN would carry into the hyperparameters; losses may be unknown."""


def write_state(state: Mapping[str, Any], file: Path) -> None:
    """Writes what `AdaptiveSchedule.state_dict` gave: tensors as safetensors, all else as JSON in the header.

    A file that is there is replaced once the new one is whole.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_without_tensors(state, tensors))
    temporary = file.with_suffix(".tmp")
    safetensors.torch.save_file(tensors, temporary, {_STATE: text})
    temporary.replace(file)


def read_state(file: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU. What it means is for `AdaptiveSchedule.load_state_dict` to check.

    Raises:
        CheckpointError: The file is damaged, or holds something else.
    """
    try:
        require_regular(file)
        with safetensors.safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            state = _with_tensors(json_of((opened.metadata() or {})[_STATE]), tensors)
    except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} is not a whole state of a schedule ({error}): resume from another checkpoint"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{file} holds {type(state).__name__}, expected the state of a schedule")
    return state


def require_identity(state: object, mine: Mapping[str, Any]) -> None:
    """Checks that a saved state is of a schedule with the same arguments.

    Args:
        state: What was saved.
        mine: The arguments of the schedule that takes it in, by name.

    Raises:
        CheckpointError: It is not.
    """
    theirs = state.get("identity") if isinstance(state, Mapping) else None
    if not isinstance(theirs, Mapping):
        raise CheckpointError(f"expected the state of a schedule, got {type(state).__name__} that is none")
    if others := [
        f"{name} {theirs.get(name)!r}, not {mine[name]!r}" for name in mine if theirs.get(name) != mine[name]
    ]:
        raise CheckpointError(
            f"the saved state is of another schedule ({'; '.join(others)}): construct it with the same arguments as "
            "the one that was saved"
        )


def require_fitting(state: Mapping[str, Any], like: Mapping[str, Any], rolled_back: Mapping[str, Any] | None) -> None:
    """Checks that a saved state is one that a schedule can go on from.

    Args:
        state: What was saved.
        like: The present state of the schedule that takes it in.
        rolled_back: What is rolled back, as `Rollback.present` is now; None where nothing is.

    Raises:
        CheckpointError: It is not; nothing has been changed yet.
    """
    missing = [name for name in like if name not in state]
    _require(not missing, ", ".join(missing))
    _require(_whole(state["steps"]), "steps")
    _require(_listed(state["flags"], 4) and all(type(each) is bool for each in state["flags"]), "flags")
    _require(_listed(state["in_a_row"], 2) and all(map(_whole, state["in_a_row"])), "in_a_row")
    _require(state["val_loss"] is None or _number(state["val_loss"]), "val_loss")
    observed = state["observed"]
    _require(
        observed is None or (_listed(observed, 2) and _number(observed[0]) and isinstance(observed[1], str)), "observed"
    )
    for name in ("start", "reference"):
        _require(_table(state[name], like[name]), name)
    _require(like["scheduler"] is None or state["scheduler"] is None or _alike(state["scheduler"], like["scheduler"]),
             "scheduler")  # fmt: skip
    _require_controller(state["controller"], like["controller"])
    _require(_same_shape(state["remembered"], like["remembered"], finite=True), "remembered")
    _require(like["guard"] is None or _guards_alike(state["guard"], like["guard"]), "guard")
    _require_horizon(state["horizon"], like["horizon"])
    _require_meter(state["meter"])
    if state["rollback"] is not None and rolled_back is not None:
        _require_rollback(state["rollback"], rolled_back)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise CheckpointError(
            f"the saved state has no valid {what}: it was altered, or is of another version of metatuner; resume from "
            "another checkpoint"
        )


def _require_controller(state: Any, like: Mapping[str, Any]) -> None:
    _require(isinstance(state, Mapping) and all(name in state for name in like), "controller")
    for name, each in like.items():
        if isinstance(each, Tensor):
            _require(_same_shape(state[name], each, finite=name in _FINITE), f"controller {name}")
            # Losses are compared by their ratios; unknown ones are NaN.
            is_loss = name.startswith(("_train_", "_val_")) and name.endswith(("_start", "_last", "_best"))
            _require(not is_loss or not bool((state[name] <= 0).any()), f"controller {name}")
        else:
            _require(_whole(state[name], least=int(name == "decisions")), f"controller {name}")


def _require_horizon(state: Any, like: Mapping[str, Any]) -> None:
    _require(isinstance(state, Mapping) and state.keys() == like.keys(), "horizon")
    for name, value in state.items():
        if name == "_interval":
            _require(_number(value) and 0 < value < math.inf, "horizon")
        else:
            unknown = value is None and name in ("total_steps", "decisions", "_every")
            _require(unknown or _whole(value, least=int(name in ("total_steps", "_every"))), "horizon")


def _require_meter(state: Any) -> None:
    _require(isinstance(state, Mapping) and {"steps", "counts", "sums", "losses", "gradients"} <= state.keys(), "meter")
    counts, sums = state["counts"], state["sums"]
    _require(_whole(state["steps"], least=1), "meter steps")
    _require(isinstance(counts, Mapping) and counts.keys() == {"losses", "gradients"}, "meter counts")
    _require(all(_whole(each) and each <= state["steps"] for each in counts.values()), "meter counts")
    _require(isinstance(sums, Mapping), "meter sums")
    for name, shape in (("losses", ()), ("gradients", (3,))):
        aside = state[name]
        fits = isinstance(aside, Tensor) and aside.is_floating_point() and aside.shape[1:] == shape and aside.dim() > 0
        _require(fits and len(aside) <= counts[name], f"meter {name}")
    counted_up = {name: counts[name] - len(state[name]) for name in ("losses", "gradients")}
    _require(counted_up["gradients"] in (0, counts["gradients"]), "meter gradients")
    needed = [*(_OF_LOSSES if counted_up["losses"] else ()), *(_OF_GRADIENTS if counted_up["gradients"] else ())]
    needed += ["weights"] if "relative_update" in sums else []
    _require(all(name in sums for name in needed), "meter sums")
    _require(
        all(isinstance(v, Tensor) and v.shape == () and v.is_floating_point() for v in sums.values()), "meter sums"
    )


def _require_rollback(state: Any, like: Mapping[str, Any]) -> None:
    _require(isinstance(state, Mapping) and like.keys() <= state.keys(), "rollback")
    lengths = {name: len(like[name]) for name in ("weights", "states", "groups")}
    _require(all(_listed(state[name], length) for name, length in lengths.items()), "rollback")
    _require(all(map(_same_shape, state["weights"], like["weights"])), "rollback weights")
    kept, beside = state["beside"], like["beside"]
    _require(isinstance(kept, list) and all(isinstance(each, Tensor) for each in kept), "rollback")
    if len(kept) != len(beside) or not all(map(_same_shape, kept, beside)):
        raise CheckpointError(
            f"the saved state has {len(kept)} buffers and others to roll back, this schedule's model has "
            f"{len(beside)}, or of other shapes: construct it with the same model= as the one that was saved"
        )
    _require(all(isinstance(each, Mapping) and _plain(each) for each in state["groups"]), "rollback groups")
    for each, now, weight in zip(state["states"], like["states"], like["weights"], strict=True):
        _require(isinstance(each, Mapping) and _plain(each), "rollback states")
        for name, value in each.items():
            # Some optimisers keep other shapes than the weight's: then the loaded optimiser has them as well.
            shapes = [now[name].shape] if isinstance(now.get(name), Tensor) else [(), (1,), weight.shape]
            _require(not isinstance(value, Tensor) or value.shape in shapes, "rollback states")


def _plain(value: Any) -> bool:
    """Whether it is a tensor, a number, a text, nothing, or made of such."""
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _plain(each) for name, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, Tensor | bool | str) or _number(value)


def _whole(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 2**63


def _number(value: Any) -> bool:
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def _listed(value: Any, length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) == length


def _table(value: Any, like: Any) -> bool:
    """Whether it holds finite numbers, in lists of the same lengths."""
    if isinstance(like, list):
        return _listed(value, len(like)) and all(_table(a, b) for a, b in zip(value, like, strict=True))
    return _number(value) and math.isfinite(value)


def _alike(value: Any, like: Any) -> bool:
    """Whether it is made of the same: a scheduler's state has numbers and texts, and lists and dicts of them."""
    if isinstance(like, Mapping):
        return (
            isinstance(value, Mapping)
            and value.keys() == like.keys()
            and all(_alike(value[name], each) for name, each in like.items())
        )
    if isinstance(like, list | tuple):
        return _listed(value, len(like)) and all(_alike(a, b) for a, b in zip(value, like, strict=True))
    if type(like) in (int, float) or like is None:
        return value is None or _number(value) if like is None else _number(value)
    return type(value) is type(like)


def _guards_alike(value: Any, like: Mapping[str, Tensor]) -> bool:
    # The starting loss is unknown until the first interval is over.
    return isinstance(value, Mapping) and all(
        _same_shape(value.get(name), each, finite=name != "val_start") for name, each in like.items()
    )


def _same_shape(value: Any, like: Tensor, *, finite: bool = False) -> bool:
    return (
        isinstance(value, Tensor)
        and (value.shape, value.dtype) == (like.shape, like.dtype)
        and (not finite or bool(torch.isfinite(value).all()))
    )


def _without_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        # By number: parts of a model may have any names. Cloned, since some share their memory.
        tensors[str(len(tensors))] = value.detach().clone().contiguous()
        return {_TENSOR: str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {name: _without_tensors(each, tensors) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(each, tensors) for each in value]
    return value


def _with_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        return {name: _with_tensors(each, tensors) for name, each in value.items()}
    return [_with_tensors(each, tensors) for each in value] if isinstance(value, list) else value
