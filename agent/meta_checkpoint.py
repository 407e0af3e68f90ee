"""Checkpoints of meta-training as plain data: tensors in safetensors, never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor
from torch.optim import Optimizer

from ..envs.errors import CheckpointError
from ..envs.plain_files import json_of
from ..envs.schedule_vec_env import ScheduleVecEnv

_MOST_STEPS = 2**62
_REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class MetaCheckpoint:
    """The state of a run between two episodes, all random generators included.

    Args:
        path: The file.
        settings: What the run follows from, as text; a checkpoint of other settings is refused.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._path, self._settings = path, settings

    def exists(self) -> bool:
        """Whether there is one."""
        return self._path.exists()

    def remove(self) -> None:
        """Deletes it: the run is done."""
        self._path.unlink(missing_ok=True)

    def save(self, model: BaseAlgorithm, env: ScheduleVecEnv) -> None:
        """Writes the state; a crash in between leaves the last checkpoint whole."""
        tensors = {f"tensor/{name}": value for name, value in _tensors_of(model).items()}
        for name, state in model.get_parameters().items():
            # Of an optimiser only what it has gathered: its settings follow from those of the run.
            values = _flat(state["state"]) if "param_groups" in state else state
            tensors |= {f"part/{name}/{key}": torch.as_tensor(value) for key, value in values.items()}
        kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - stable-baselines3 draws from it
        tensors["random/torch"] = torch.get_rng_state()
        tensors["random/numpy"] = torch.from_numpy(np.asarray(keys).astype(np.int64))
        facts = {
            "settings": self._settings,
            "num_timesteps": model.num_timesteps,
            "updates": model._n_updates,
            # The environment has begun its next episode already: it will be begun again.
            "episode": env.episode - 1,
            "numpy": [kind, position, has_gauss, gauss],
        }
        if isinstance(model, OffPolicyAlgorithm):
            facts["replay"] = [_replay(model).pos, _replay(model).full]
        # Cloned, since some parts share their tensors.
        data = safetensors.torch.save({k: v.clone() for k, v in tensors.items()}, {"facts": json.dumps(facts)})
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def load(self, model: BaseAlgorithm, env: ScheduleVecEnv) -> None:
        """Puts the state back into a freshly made run.

        Raises:
            CheckpointError: The file is damaged, or of a run with other settings.
        """
        try:
            with safetensors.safe_open(self._path, "pt") as file:
                facts: dict[str, Any] = json_of(file.metadata()["facts"])
                settings = facts["settings"]
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._path} is not a whole checkpoint ({error}): delete it to begin afresh"
            ) from error
        if settings != self._settings:
            raise CheckpointError(
                f"{self._path} belongs to a run with settings {settings}, not {self._settings}: give the same "
                "settings to go on with it, or another folder (or --fresh) to begin anew"
            )
        try:
            _go_on(model, env, facts, tensors)
        # What is not there, or of another shape: the run that was made for it is given up.
        except (RuntimeError, KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise CheckpointError(f"{self._path} does not fit its run ({error}): delete it to begin afresh") from error


def _go_on(model: BaseAlgorithm, env: ScheduleVecEnv, facts: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Puts a state into a freshly made run."""
    counts = [facts["num_timesteps"], facts["updates"], facts["episode"] + 1]
    if not all(type(each) is int and 0 <= each < _MOST_STEPS for each in counts):
        raise ValueError(f"expected numbers of steps, updates and episodes, got {counts}")
    parts: dict[str, Any] = {}
    for name, state in model.get_parameters().items():
        parts[name] = _part(tensors, f"part/{name}/")
        if "param_groups" in state:
            parts[name] = {**state, "state": _gathered(recursive_getattr(model, name), parts[name])}
    model.set_parameters(parts)
    if isinstance(model, OffPolicyAlgorithm):
        _replay(model).pos, _replay(model).full = facts["replay"]
    for name, value in _tensors_of(model).items():
        # In place, since what is replayed lies in numpy's memory.
        value.data.copy_(tensors[f"tensor/{name}"])
    model.num_timesteps, model._n_updates = facts["num_timesteps"], facts["updates"]
    env.episode = facts["episode"]
    torch.set_rng_state(tensors["random/torch"])
    kind, position, has_gauss, gauss = facts["numpy"]
    keys = tensors["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002 - stable-baselines3 draws from it


def _tensors_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """What stands beside networks and optimisers: learnt numbers, and what is replayed so far."""
    _, names = model._get_torch_save_params()
    tensors: dict[str, Tensor] = {name: getattr(model, name) for name in names}
    if isinstance(model, OffPolicyAlgorithm):
        buffer = _replay(model)
        filled = buffer.buffer_size if buffer.full else buffer.pos
        tensors |= {name: torch.from_numpy(getattr(buffer, name)[:filled]) for name in _REPLAYED}
    return tensors


def _replay(model: OffPolicyAlgorithm) -> ReplayBuffer:
    assert model.replay_buffer is not None
    return model.replay_buffer


def _flat(states: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    return {f"{i}/{name}": value for i, state in states.items() for name, value in state.items()}


def _gathered(optimizer: Optimizer, flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """What an optimiser has gathered of each of its parameters.

    Raises:
        IndexError, ValueError: It is of other parameters.
    """
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in flat.items():
        i, key = name.split("/")
        if value.shape not in ((), parameters[int(i)].shape):
            raise ValueError(f"{key} of parameter {i} has the shape {tuple(value.shape)}")
        states.setdefault(int(i), {})[key] = value
    return states


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
