"""The batched form of `metatuner/Search-v0`: several searches side by side, spread over processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from ..envs.search import SearchEnv
from ..envs.search_task import SearchTasks
from ..envs.worker_process import WorkerProcess

_MASKS = "action_masks"


@dataclass(frozen=True)
class _Told:
    """What one search tells after a move, or after its beginning."""

    observation: NDArray[np.float32]
    mask: NDArray[np.bool_]
    reward: float = 0.0
    done: bool = False
    info: dict[str, Any] | None = None


class _Search:
    """One search after the other; lives in any process."""

    def __init__(self, tasks: SearchTasks) -> None:
        self._env = SearchEnv(families=tasks)
        self._return, self._moves = 0.0, 0

    def begin(self, seed: int | None) -> _Told:
        self._return, self._moves = 0.0, 0
        observation, _ = self._env.reset(seed=seed)
        return _Told(observation, self._env.action_masks())

    def move(self, action: int) -> _Told:
        observation, reward, done, _, info = self._env.step(np.int64(action))
        self._return, self._moves = self._return + reward, self._moves + 1
        if not done:
            return _Told(observation, self._env.action_masks(), reward, done, info)
        # The keys are stable-baselines3's: its logger and its bootstrapping read them.
        episode = {"r": self._return, "l": self._moves, "t": 0.0}
        info = {**info, "terminal_observation": observation, "episode": episode}
        begun = self.begin(None)
        return _Told(begun.observation, begun.mask, reward, done, info)


class SearchVecEnv(VecEnv):
    """Searches side by side; each begins the next one when it has ended. The numbers are the same in any process.

    Args:
        tasks: What searches draw their tasks from.
        searches: How many there are.
        seed: Of the first one; the others count on.
        workers: Processes that search, of one thread each; 0 or 1 searches in this one.
    """

    def __init__(self, tasks: SearchTasks, searches: int, seed: int, workers: int = 0) -> None:
        env = SearchEnv(families=tasks)
        super().__init__(searches, env.observation_space, env.action_space)
        self._first_seeds: list[int | None] = [seed + i for i in range(searches)]
        self._here = [_Search(tasks) for _ in range(searches)]
        self._workers = [WorkerProcess(self._here) for _ in range(min(workers, searches) if workers > 1 else 0)]

    def reset(self) -> NDArray[np.float32]:
        """Begins all searches anew."""
        told = self._call("begin", [(seed,) for seed in self._first_seeds])
        self._first_seeds = [None] * self.num_envs
        self._masks = np.stack([each.mask for each in told])
        return np.stack([each.observation for each in told])

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Takes the moves, shape (n,)."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Makes them."""
        told = self._call("move", [(int(action),) for action in self._actions])
        self._masks = np.stack([each.mask for each in told])
        return (
            np.stack([each.observation for each in told]),
            np.array([each.reward for each in told], np.float32),
            np.array([each.done for each in told]),
            [each.info or {} for each in told],
        )

    def close(self) -> None:
        """Ends the processes that search."""
        for worker in self._workers:
            worker.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The attribute, once for each environment: they share all of them."""
        if attr_name == _MASKS:  # sb3-contrib asks whether there is such a method
            return [self.env_method for _ in self._get_indices(indices)]
        found = None if attr_name == "render_mode" else getattr(self, attr_name)  # there is nothing to see
        return [found for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Not possible: nothing of a search can be set."""
        raise AttributeError(f"cannot set {attr_name!r} of searches")

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Which moves are possible, of each search: the one method that there is, `action_masks`."""
        if method_name != _MASKS:
            raise AttributeError(f"cannot call {method_name!r} of searches")
        return [self._masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: VecEnvIndices = None) -> list[bool]:
        """No search is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def _call(self, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[_Told]:
        if not self._workers:
            return [getattr(each, method)(*args) for each, args in zip(self._here, arguments, strict=True)]
        # Neighbours go to different processes; each search stays where it has begun.
        for i, worker in enumerate(self._workers):
            worker.send(method, {place: arguments[place] for place in range(i, self.num_envs, len(self._workers))})
        found: dict[int, _Told] = {}
        for worker in self._workers:
            found |= worker.receive()
        return [found[place] for place in range(self.num_envs)]
