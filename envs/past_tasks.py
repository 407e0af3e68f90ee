"""What past tasks say about a configuration: the prior of a search.

Each past task is a Gaussian process over what was tried there, one process a rung, and values are regrets in units of
the distance from the best to the median trial, so that tasks of different difficulty can be compared (in the spirit of
Feurer et al. 2018, Scalable meta-learning for Bayesian optimization using ranking-weighted Gaussian process ensembles).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from .errors import ConfigurationError
from .surrogate import matern, squashed

Array = NDArray[np.float64]

MOST_TRIALS = 256
"""Trials of a past task that are looked at: the best half of them, and others at random."""

LEAST_TRIALS = 4
"""A past task with fewer trials, or with none that finished, says too little."""

_NOISES = (0.03, 0.1, 0.3)
_LENGTHS = 24
_SPREAD = 0.8  # standard deviation of the logarithms of length scales, before any value is seen
_WORST = 4.0
_TESTED, _COMPARED = 16, 64  # tasks, and trials of each, that tell whether tasks mislead each other


@dataclass(frozen=True)
class History:
    """The trials of a past task, n of them.

    Attributes:
        points: Configurations in the unit cube, shape (n, d). A column with NaN in it is not known: the task did not
            have that hyperparameter.
        values: To be minimised, at each of R rungs, shape (n, R): NaN beyond where a trial was stopped, infinite where
            it failed.
        name: The task's, for people; empty where it has none.
    """

    points: Array
    values: Array
    name: str = ""

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which columns are known, shape (d,)."""
        return np.asarray(~np.isnan(self.points).any(0))

    @property
    def fingerprint(self) -> frozenset[bytes]:
        """What two readings of the same task have in common, in whatever order they tell its trials."""
        return frozenset(row.tobytes() for row in np.concatenate([self.points, self.values], axis=1))

    @property
    def says_enough(self) -> bool:
        """Whether it is of use: it tells values, one of a full training, and varied something that is known."""
        told = np.isfinite(self.values[:, 0]).sum()
        if told < LEAST_TRIALS or not np.isfinite(self.values[:, -1]).any():
            return False
        return bool((self.points[:, self.known] != self.points[0, self.known]).any())


class PastTasks:
    """Several past tasks of one search space.

    Args:
        histories: A history a task, all with the same dimensions and rungs.
        seed: Hyperparameters are drawn from it.

    Attributes:
        scales: Distance from the best to the median value of each task, shape (T,).
        best: The best configurations of all tasks, shape (k, d): NaN where their task does not know a value.
        known: Which columns some task knows, shape (d,).
        names: The tasks' names, T of them.

    Raises:
        ConfigurationError: No history says enough.
    """

    def __init__(self, histories: Sequence[History], seed: int = 0) -> None:
        usable = [history for history in histories if history.says_enough]
        if not usable:
            raise ConfigurationError(
                f"expected past tasks of at least {LEAST_TRIALS} trials at different points, one finished, got tasks "
                f"of {[len(history.values) for history in histories]} trials"
            )
        random = np.random.default_rng(seed)
        self._take([_Model.fitted(history, random) for history in usable])

    def __len__(self) -> int:
        return len(self._models)

    def only(self, tasks: Sequence[int]) -> PastTasks:
        """Some of them, at least one."""
        few = copy.copy(self)
        few.__dict__.pop("doubt", None)
        few._take([self._models[task] for task in tasks])
        return few

    @property
    def noises(self) -> Array:
        """Standard deviation of a trial's value about what its task says, in the same units, shape (T,)."""
        return np.array([model.noise for model in self._models])

    @cached_property
    def doubt(self) -> float:
        """How likely they mislead a new task: as often as they mislead each other (Laplace's rule of succession, 1774).

        A task is misled by the others where what they say on average does not rise with its own values.
        """
        tested = self._models[:_TESTED] if len(self) > 1 else []
        misled = 0
        for model in tested:
            others = [other.predict(model.tried)[:, -1] for other in self._models if other is not model]
            misled += not _rises(np.mean(others, axis=0), model.finals)
        return (misled + 1) / (len(tested) + 2)

    def _take(self, models: list[_Model]) -> None:
        self._models = models
        self.scales = np.array([model.scale for model in models])
        self.best = np.concatenate([model.best for model in models])
        self.known = np.any([model.known for model in models], axis=0)
        self.names = tuple(model.name for model in models)

    def expected(self, points: Array) -> Array:
        """What each task says of points (n, d), at each rung; shape (T, n, R)."""
        return np.stack([model.predict(points) for model in self._models])


@dataclass(frozen=True)
class _Model:
    name: str
    scale: float
    best: Array
    known: NDArray[np.bool_]  # shape (d,); lengths and points have these columns alone
    lengths: torch.Tensor
    points: torch.Tensor  # shape (n, d), in length scales
    weights: torch.Tensor  # shape (n, R)
    means: torch.Tensor  # shape (R,)
    noise: float
    tried: Array  # some of the points, shape (m, d), in the middle where a column is not known
    finals: Array  # their regrets, shape (m,)

    @classmethod
    def fitted(cls, history: History, random: np.random.Generator) -> _Model:
        history = _once(history)
        values = completed(history.values)
        finals = values[:, -1]
        order = np.argsort(finals, kind="stable")
        best, median = float(finals[order[0]]), float(np.median(finals))
        scale = median - best if math.isfinite(median) and median > best else 1.0
        regrets = np.minimum(squashed((values - best) / scale), _WORST)
        good, others = order[: MOST_TRIALS // 2], order[MOST_TRIALS // 2 :]
        chosen = np.concatenate([good, random.permutation(others)[: MOST_TRIALS - len(good)]])
        tried = _columns(history.points[chosen], history.known)
        lengths, noise = _likeliest(tried, regrets[chosen, -1], random)
        points, told = torch.from_numpy(tried) / lengths, torch.from_numpy(regrets[chosen])
        covariance = _matern(points, points) + (noise**2 + 1e-6) * torch.eye(len(chosen))
        factor, _ = torch.linalg.cholesky_ex(covariance)
        means = told.mean(0)
        weights = torch.cholesky_solve(told - means, factor)
        spread = float(told[:, -1].std())
        best_points = history.points[order[:3]]
        noise *= spread
        some = np.linspace(0, len(chosen) - 1, min(len(chosen), _COMPARED)).astype(int)
        filled = np.nan_to_num(history.points[chosen[some]], nan=0.5)
        finals = regrets[chosen[some], -1]
        return cls(
            history.name, scale, best_points, history.known, lengths, points, weights, means, noise, filled, finals
        )

    def predict(self, points: Array) -> Array:
        asked = torch.from_numpy(_columns(points, self.known)) / self.lengths
        foretold = _matern(asked, self.points) @ self.weights + self.means
        return foretold.clamp(-0.5, _WORST).numpy()


def _rises(said: Array, values: Array) -> bool:
    if np.ptp(said) == 0 or np.ptp(values) == 0:
        return False
    return bool(spearmanr(said, values).statistic > 0)


def _once(history: History) -> History:
    """What was recorded several times counts once."""
    first: dict[bytes, int] = {}
    for place, row in enumerate(np.column_stack([history.points, history.values])):
        first.setdefault(row.tobytes(), place)
    kept = list(first.values())
    return replace(history, points=history.points[kept], values=history.values[kept])


def completed(values: Array) -> Array:
    """Curves (n, R) with what is missing foretold from the rung before, by least squares over those that went on.

    Those that were stopped did not promise much, and so it is foretold: no better for their early values than others.
    """
    filled = values.copy()
    for rung in range(1, values.shape[1]):
        before, now = filled[:, rung - 1], values[:, rung]
        both = np.isfinite(before) & np.isfinite(now)
        missing = np.isnan(now)
        slope = 1.0
        if both.sum() >= 3 and np.ptp(before[both]) > 0:
            slope = float(np.clip(np.polyfit(before[both], now[both], 1)[0], 0.0, 2.0))
        shift = float((now[both] - slope * before[both]).mean()) if both.any() else 0.0
        filled[missing, rung] = shift + slope * before[missing]
    return filled


def _columns(points: Array, known: NDArray[np.bool_]) -> Array:
    """Points (n, d) without the columns that are not known."""
    return points if known.all() else np.ascontiguousarray(points[:, known])


def _matern(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return matern(math.sqrt(5) * torch.cdist(left, right))


def _likeliest(points: Array, values: Array, random: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Length scales and noise that are the likeliest for the values, out of some dozens, then mutated.

    With their own density: a dozen values of a short search are likely under far too many, and some foretell nothing.
    """
    n, d = points.shape
    x = torch.from_numpy(points)
    spread = values.std() or 1.0
    y = torch.from_numpy((values - values.mean()) / spread)[:, None]
    usual = math.log(0.8 * math.sqrt(d / 4))
    found: list[tuple[float, Array, float]] = []
    for attempt in range(3 * _LENGTHS):
        if attempt < _LENGTHS:
            logs = random.normal(usual, _SPREAD, (d,))
        else:
            parents = sorted(found, key=lambda each: -each[0])[:4]
            logs = parents[random.integers(len(parents))][1]
            logs = logs + random.normal(0, 0.5, d) * (random.random(d) < 0.4)
        noise = _NOISES[random.integers(len(_NOISES))]
        scaled = x / torch.from_numpy(np.exp(logs))
        factor, failed = torch.linalg.cholesky_ex(_matern(scaled, scaled) + noise**2 * torch.eye(n))
        if failed:
            continue
        white = torch.linalg.solve_triangular(factor, y, upper=False)
        density = -0.5 * (((logs - usual) / _SPREAD) ** 2).sum()
        fit = float(density - 0.5 * (white**2).sum() - factor.diagonal().log().sum())
        found.append((fit, logs, noise))
    _, best, likeliest_noise = max(found, key=lambda each: each[0])
    return torch.from_numpy(np.exp(best)), likeliest_noise
