"""`metatuner/Search-v0`: choose configurations across trials, and when to stop or continue each."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from .errors import ConfigurationError
from .search_families import SearchFamilies
from .search_moves import CONTEXT, FEATURES, MOVES, Moves
from .search_state import SearchState
from .search_task import SearchTask, SearchTasks
from .signals import LIMIT

FLOOR = 0.01
"""Regrets below this one are as good as none: a logarithm must end somewhere."""

UNTRIED = 2.0
"""Regret before anything was tried, in units of the median configuration's."""

BUDGETS = (1.0, 25.0)
"""Least and greatest budget that is drawn, in full trainings."""


class SearchEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One episode is one search; a step starts a trial, or trains a paused one to its next rung.

    The observation, Box[-5, 5], is the features of `MOVES` moves, one after the other, then the context of the search,
    see `envs.search_state`. The action is Discrete(MOVES): one of those moves; `action_masks` tells which ones are
    possible, and another one counts as the first. The reward is the fall of the incumbent's log regret, which is that
    of a full training, without noise: undiscounted, an episode's rewards add up to log(2 / final regret). An episode is
    terminated when the budget pays for no more moves.

    Example:
        >>> import metatuner as mt
        >>> import numpy as np
        >>> env = mt.SearchEnv(budget=2)  # or gymnasium.make("metatuner/Search-v0", budget=2)
        >>> observation, info = env.reset(seed=0)
        >>> terminated = False
        >>> while not terminated:
        ...     move = np.flatnonzero(env.action_masks())[0]  # the first one that is possible
        ...     observation, reward, terminated, truncated, info = env.step(move)
        >>> info["regret"] < 2 and info["spent"] <= info["budget"]
        True

    Args:
        task: What to search; None draws a new generated task at each reset, or takes the one of options["task"].
        budget: Full trainings to spend; None draws log-uniformly out of `BUDGETS` at each reset.
        families: Where tasks are drawn from.

    Raises:
        ConfigurationError: The budget is not positive.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the name and form are Gymnasium's

    def __init__(
        self,
        task: SearchTask | None = None,
        *,
        budget: float | None = None,
        families: SearchTasks | None = None,
        render_mode: None = None,
    ) -> None:
        if budget is not None:
            _require_budget(budget)
        self.render_mode = render_mode
        self._task, self._budget = task, budget
        self._families: SearchTasks = families or SearchFamilies()
        self._moves: Moves | None = None
        self.observation_space = spaces.Box(-LIMIT, LIMIT, (MOVES * len(FEATURES) + len(CONTEXT),), np.float32)
        self.action_space = spaces.Discrete(MOVES)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins a search.

        Args:
            seed: The task, the budget, the trainings and the moves follow from it, bit for bit.
            options: `{"task": task}` and `{"budget": number}` give them instead.

        Returns:
            The observation, and an info dict with `regret`, `spent`, `budget` and `believes`.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - {"task", "budget"}):
            raise ConfigurationError(f"expected options among task and budget, got {unknown}")
        if options.get("budget") is not None:
            _require_budget(options["budget"])
        given: SearchTask | None = options.get("task") or self._task
        drawn_task = int(self.np_random.integers(2**31))
        self._searched: SearchTask = self._families.task(drawn_task) if given is None else given
        low, high = BUDGETS
        drawn = math.exp(self.np_random.uniform(math.log(low), math.log(high)))
        budget = float(options.get("budget") or self._budget or drawn)
        self._state = SearchState(
            self._searched.cube,
            self._searched.rungs,
            max(budget, self._searched.rungs[0]),
            self._searched.past,
            int(self.np_random.integers(2**31)),
        )
        self._curves: dict[int, NDArray[np.float64]] = {}
        self._regret, self._incumbent = UNTRIED, -1
        self._moves = self._state.moves()
        return self._observation(), self._info()

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Makes a move.

        Returns:
            Observation, reward, terminated, truncated (always False), and an info dict with `regret` of the
            incumbent's full training, `spent`, `budget`, and `believes`: whether past tasks have a say in what to do
            next.

        Raises:
            ConfigurationError: The episode has ended, or none has begun: call reset. Or there is no such action.
        """
        if self._moves is None:
            raise ConfigurationError("no episode has begun: call reset() first")
        possible = self._moves.possible
        if not possible.any():
            raise ConfigurationError("the episode has ended, its budget is spent: call reset() first")
        if not self.action_space.contains(action):
            raise ConfigurationError(f"expected an action from 0 to {MOVES - 1}, got {action!r}")
        move = int(action) if possible[int(action)] else 0
        number = int(self._moves.trials[move])
        if number < 0:
            number = len(self._curves)
            self._state.start(number, self._moves.points[move])
            self._curves[number] = self._searched.curve(self._moves.points[move], int(self.np_random.integers(2**31)))
        rung = len(self._state.trials[number].values)
        point = self._state.trials[number].point
        value = self._curves[number][rung]
        self._state.learn(number, float(value) if math.isfinite(value) else math.inf)
        before = self._regret
        if self._state.incumbent != self._incumbent:
            self._incumbent = self._state.incumbent
            self._regret = self._searched.regret(point)
        self._moves = self._state.moves()
        reward = math.log((before + FLOOR) / (self._regret + FLOOR))
        return self._observation(), reward, not self._moves.possible.any(), False, self._info()

    def action_masks(self) -> NDArray[np.bool_]:
        """Which moves are possible, shape (MOVES,); all of them where the episode has ended, since none matters."""
        possible = np.zeros(MOVES, np.bool_) if self._moves is None else self._moves.possible
        return possible if possible.any() else np.ones(MOVES, np.bool_)

    def _observation(self) -> NDArray[np.float32]:
        assert self._moves is not None
        return np.concatenate([self._moves.features.reshape(-1), self._moves.context])

    def _info(self) -> dict[str, Any]:
        state = self._state
        return {
            "regret": self._regret,
            "spent": state.spent,
            "budget": state.budget,
            "believes": state.past is not None and state.believes,
        }


def _require_budget(budget: object) -> None:
    if not isinstance(budget, Real) or not 0 < float(budget) < math.inf:
        raise ConfigurationError(f"expected a budget above 0, got {budget!r}")
