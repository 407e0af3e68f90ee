"""Checkpoints of meta-training as plain data: tensors in safetensors, never a pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from stable_baselines3 import PPO

from ..envs.errors import CheckpointError
from ..envs.schedule_vec_env import ScheduleVecEnv


class MetaCheckpoint:
    """The state of a PPO run between two iterations, all random generators included.

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

    def save(self, model: PPO, env: ScheduleVecEnv) -> None:
        """Writes the state; a crash in between leaves the last checkpoint whole."""
        tensors = {f"policy/{name}": value for name, value in model.policy.state_dict().items()}
        for i, state in model.policy.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{i}/{name}": torch.as_tensor(value) for name, value in state.items()}
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
        data = safetensors.torch.save({k: v.contiguous() for k, v in tensors.items()}, {"facts": json.dumps(facts)})
        temporary = self._path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)

    def load(self, model: PPO, env: ScheduleVecEnv) -> None:
        """Puts the state back into a freshly made run.

        Raises:
            CheckpointError: The file is damaged, or of a run with other settings.
        """
        try:
            with safetensors.safe_open(self._path, "pt") as file:
                facts: dict[str, Any] = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self._path} is not a whole checkpoint ({error}): delete it to begin afresh"
            ) from error
        if facts["settings"] != self._settings:
            raise CheckpointError(
                f"{self._path} belongs to a run with settings {facts['settings']}, not {self._settings}: give the same "
                "settings to go on with it, or another folder (or --fresh) to begin anew"
            )
        model.policy.load_state_dict(_part(tensors, "policy/"))
        optimizer = model.policy.optimizer.state_dict()
        states: dict[int, dict[str, torch.Tensor]] = {}
        for name, value in _part(tensors, "optimizer/").items():
            i, key = name.split("/")
            states.setdefault(int(i), {})[key] = value
        model.policy.optimizer.load_state_dict({**optimizer, "state": states})
        model.num_timesteps, model._n_updates = facts["num_timesteps"], facts["updates"]
        env.episode = facts["episode"]
        torch.set_rng_state(tensors["random/torch"])
        kind, position, has_gauss, gauss = facts["numpy"]
        keys = tensors["random/numpy"].numpy().astype(np.uint32)
        np.random.set_state((kind, keys, position, has_gauss, gauss))  # noqa: NPY002 - stable-baselines3 draws from it


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
