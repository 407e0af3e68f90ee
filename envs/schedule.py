"""`metatuner/Schedule-v0`: adjust the hyperparameters of one training while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, FloatDistribution

from .adjustments import adjustables, require_start
from .builtin_tasks import builtin_task
from .controller import ScheduleController, observation_size
from .errors import ConfigurationError, TrainingError
from .references import reference_named, reference_values
from .signals import LIMIT
from .space import SearchSpace, sample
from .training import Training

STARTING_SPACE: SearchSpace = {
    "lr": FloatDistribution(1e-5, 0.3, log=True),
    "weight_decay": 1e-4,
    "momentum": 0.9,
}
"""Where an episode starts unless told: any learning rate of four and a half decades."""


_OPTIONS = {"config", "seed", "reference", "unlearns"}


class ScheduleEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One episode is one training; a step is one decision followed by an interval of optimiser steps.

    The observation is described in `envs.controller`: Box[-5, 5]. The action is Box[-1, 1], one adjustment per
    hyperparameter. The reward is log(validation loss before / after): undiscounted, an episode's rewards add up to
    log(starting / final validation loss). An interval that diverges is rolled back, costs a fixed penalty and cuts the
    learning rate; the episode goes on. An episode is terminated, never truncated, after its last decision: the horizon
    belongs to the problem, and the policy sees how much of it is left.

    Example:
        >>> import math
        >>> import metatuner as mt
        >>> env = mt.ScheduleEnv("wine", decisions=5)  # or gymnasium.make("metatuner/Schedule-v0", task="wine")
        >>> observation, info = env.reset(seed=0, options={"config": {"lr": 0.01}})
        >>> start, rewards, terminated = info["val_loss"], 0.0, False
        >>> while not terminated:
        ...     action = env.action_space.sample()  # one adjustment in [-1, 1] a hyperparameter
        ...     observation, reward, terminated, truncated, info = env.step(action)
        ...     rewards += reward
        >>> math.isclose(rewards, math.log(start / info["val_loss"]))
        True

    Args:
        task: What to train: a `Training`, or the name of a built-in task such as "digits".
        adjust: The hyperparameters to adjust.
        space: Distributions that bound the adjusted values; None takes the usual range of each kind.
        start: Distributions (or fixed values) of the starting configuration, drawn at each reset.
        decisions: Decisions an episode, at least 1.
        interval: Optimiser steps between two decisions, at least 1.
        reference: What zero adjustment reproduces: "constant", "cosine" or "stable_decay". None takes what `reset` is
            told, "constant" where it is told nothing.

    Raises:
        ConfigurationError: An argument is out of its range, or an adjusted hyperparameter has no starting value.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the name and form are Gymnasium's

    def __init__(
        self,
        task: Training | str = "digits",
        *,
        adjust: Sequence[str] = ("lr", "weight_decay", "momentum"),
        space: Mapping[str, BaseDistribution] | None = None,
        start: SearchSpace | None = None,
        decisions: int = 25,
        interval: int = 20,
        reference: str | None = None,
        render_mode: None = None,
    ) -> None:
        for name, value in (("decisions", decisions), ("interval", interval)):
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.render_mode = render_mode
        self._training = builtin_task(task) if isinstance(task, str) else task
        if not isinstance(self._training, Training):
            raise ConfigurationError(f"expected a training, or the name of a built-in task, got {task!r}")
        self._hyperparameters = adjustables(adjust, space)
        self._starting_space = STARTING_SPACE if start is None else start
        if missing := [name for name in adjust if name not in self._starting_space]:
            raise ConfigurationError(f"`start` must give a starting value for {', '.join(missing)}")
        self._decisions, self._interval = decisions, interval
        self._asked_for = None if reference is None else reference_named(reference)
        self._controller = ScheduleController(
            self._hyperparameters, decisions, np.array([float(self._training.adaptive)])
        )
        self._start: NDArray[np.float64] | None = None
        h = len(self._hyperparameters)
        self.observation_space = spaces.Box(-LIMIT, LIMIT, (observation_size(h),), np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (h,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins a training.

        Args:
            seed: The starting configuration and the training follow from it, bit for bit.
            options: `{"config": {...}}` gives starting values instead of drawing them; `{"seed": n}` the training's
                seed; `{"reference": name}` the reference where the constructor leaves it open; `{"unlearns": True}`
                takes back intervals in which the training begins to overfit, see `ScheduleController`.

        Returns:
            The observation, and an info dict with `config` (starting values), `seed`, `val_loss`, `steps` (optimiser
            steps done), and `signals` (the observation by name).
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - _OPTIONS):
            raise ConfigurationError(f"expected options among {sorted(_OPTIONS)}, got {unknown}")
        config = sample(self._starting_space, self.np_random) | dict(options.get("config", {}))
        for each in self._hyperparameters:
            require_start(each, config[each.name])
        training_seed = int(options.get("seed", self.np_random.integers(2**31)))
        self._reference = self._asked_for or reference_named(str(options.get("reference", "constant")))
        self._controller.unlearns = bool(options.get("unlearns", False))
        self._start = np.array([[config[each.name] for each in self._hyperparameters]])
        measured = self._training.start(config, training_seed)
        if np.isinf(measured.val_loss).any():
            raise TrainingError(
                "the validation loss before the first step is infinite, so nothing can be compared with it: look at "
                "the data and the initial weights"
            )
        self._controller.begin(self._start, measured)
        info = {
            "config": config,
            "seed": training_seed,
            "val_loss": float(measured.val_loss[0]),
            "steps": 0,
            "signals": self._controller.named_signals(),
        }
        return self._controller.observation()[0], info

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Adjusts, then trains for one interval.

        Returns:
            Observation, reward, terminated, truncated (always False), and an info dict with `hyperparameters` (those
            of the interval's last step), `train_loss`, `val_loss`, `diverged`, `overfitted` (only where `reset` was
            told `unlearns`), `steps` (optimiser steps done, those that were taken back included) and `signals`.

        Raises:
            ConfigurationError: The episode has ended: call reset. Or the action is of another shape, or not finite.
            TrainingError: A validation loss is negative.
        """
        if self._start is None:
            raise ConfigurationError("no episode has begun: call reset() first")
        done = self._controller.decision
        if done >= self._decisions:
            raise ConfigurationError(f"the episode ended after {self._decisions} decisions: call reset() first")
        total = self._decisions * self._interval
        reference = reference_values(
            self._reference, self._start, self._hyperparameters, done * self._interval, self._interval, total
        )
        action = np.asarray(action, dtype=np.float64)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ConfigurationError(
                f"expected an action of {self.action_space.shape} finite numbers, one a hyperparameter, got {action}"
            )
        self._controller.follow(reference[0])
        self._controller.adjust(action[None])
        values = self._controller.values(reference)[:, 0]
        named = {each.name: values[:, i] for i, each in enumerate(self._hyperparameters)}
        before = self._training.snapshot()
        interval = self._training.advance(
            {name: value.tolist() if len(value) > 1 else float(value[0]) for name, value in named.items()},
            self._interval,
        )
        if np.any(interval.val_loss < 0):
            raise TrainingError(
                f"the validation loss is {float(interval.val_loss[0]):g}, but losses are compared by their ratios, so "
                "they must not be negative: add a constant, or give an error measure such as the perplexity"
            )
        reward, back = self._controller.observe(interval)
        overfitted = bool(self._controller.overfitted[0])
        if back[0]:
            self._training.restore(before)
        info = {
            "hyperparameters": {name: float(value[-1]) for name, value in named.items()},
            "train_loss": float(interval.train_loss[0]),
            # Of what was taken back nothing is left.
            "val_loss": float(self._controller.val_loss[0] if back[0] else interval.val_loss[0]),
            "diverged": bool(back[0]) and not overfitted,
            "overfitted": overfitted,
            "steps": (done + 1) * self._interval,
            "signals": self._controller.named_signals(),
        }
        terminated = self._controller.decision >= self._decisions
        return self._controller.observation()[0], float(reward[0]), terminated, False, info

    @property
    def controller(self) -> ScheduleController:
        """The schedule of the running episode."""
        return self._controller

    def close(self) -> None:
        """Ends the training."""
        self._training.close()
