"""What past tasks say about a configuration: the prior of a search.

Each past task is a Gaussian process over what was tried there, one process a rung, and values are regrets in units of
the distance from the best to the median trial, so that tasks of different difficulty can be compared (in the spirit of
Feurer et al. 2018, Scalable meta-learning for Bayesian optimization using ranking-weighted Gaussian process ensembles).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .errors import ConfigurationError
from .surrogate import squashed

Array = NDArray[np.float64]

MOST_TRIALS = 256
"""Trials of a past task that are looked at: the best half of them, and others at random."""

LEAST_TRIALS = 4
"""A past task with fewer finished trials says too little."""

_NOISES = (0.03, 0.1, 0.3)
_LENGTHS = 24
_WORST = 4.0


@dataclass(frozen=True)
class History:
    """The trials of a past task, n of them.

    Attributes:
        points: Configurations in the unit cube, shape (n, d).
        values: To be minimised, at each of R rungs, shape (n, R); NaN beyond where a trial was stopped.
    """

    points: Array
    values: Array


class PastTasks:
    """Several past tasks of one search space.

    Args:
        histories: A history a task, all with the same dimensions and rungs.
        seed: Hyperparameters are drawn from it.

    Attributes:
        scales: Distance from the best to the median value of each task, shape (T,).
        best: The best configurations of all tasks, shape (k, d).

    Raises:
        ConfigurationError: No history has enough trials that finished.
    """

    def __init__(self, histories: Sequence[History], seed: int = 0) -> None:
        usable = [history for history in histories if np.isfinite(history.values[:, -1]).sum() >= LEAST_TRIALS]
        if not usable:
            raise ConfigurationError(
                f"expected past tasks with at least {LEAST_TRIALS} finished trials each, got "
                f"{[int(np.isfinite(history.values[:, -1]).sum()) for history in histories]}"
            )
        random = np.random.default_rng(seed)
        self._models = [_Model.fitted(history, random) for history in usable]
        self.scales = np.array([model.scale for model in self._models])
        self.best = np.concatenate([model.best for model in self._models])

    def __len__(self) -> int:
        return len(self._models)

    def expected(self, points: Array) -> Array:
        """What each task says of points (n, d), at each rung; shape (T, n, R)."""
        return np.stack([model.predict(points) for model in self._models])


@dataclass(frozen=True)
class _Model:
    scale: float
    best: Array
    lengths: torch.Tensor
    points: torch.Tensor  # shape (n, d), in length scales
    weights: torch.Tensor  # shape (n, R)
    means: torch.Tensor  # shape (R,)

    @classmethod
    def fitted(cls, history: History, random: np.random.Generator) -> _Model:
        finals = history.values[:, -1]
        done = np.flatnonzero(np.isfinite(finals))
        order = done[np.argsort(finals[done], kind="stable")]
        best, median = float(finals[order[0]]), float(np.median(finals[done]))
        scale = median - best if median > best else 1.0
        regrets = np.minimum(squashed((history.values - best) / scale), _WORST)
        chosen = _chosen(order, np.flatnonzero(np.isfinite(regrets[:, 0]) & ~np.isfinite(finals)), random)
        finished = chosen[np.isfinite(finals[chosen])]
        lengths, noise = _likeliest(history.points[finished], regrets[finished, -1], random)
        points = torch.from_numpy(history.points[chosen]) / lengths
        covariance = _matern(points, points)
        weights, means = torch.zeros(regrets[chosen].shape, dtype=torch.float64), []
        for rung, of_rung in enumerate(torch.from_numpy(regrets[chosen]).T):
            known = torch.isfinite(of_rung).nonzero()[:, 0]
            means.append(of_rung[known].mean())
            weights[known, rung] = _solved(covariance[known][:, known], of_rung[known] - means[-1], noise)
        return cls(scale, history.points[order[:3]], lengths, points, weights, torch.stack(means))

    def predict(self, points: Array) -> Array:
        foretold = _matern(torch.from_numpy(points) / self.lengths, self.points) @ self.weights + self.means
        return foretold.clamp(-0.5, _WORST).numpy()


def _chosen(order: NDArray[np.int64], stopped: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    """The best of those that finished, others of them, and some that were stopped."""
    best, rest = order[: MOST_TRIALS // 2], order[MOST_TRIALS // 2 :]
    others = random.permutation(np.r_[rest, stopped])[: MOST_TRIALS - len(best)]
    return np.concatenate([best, others]).astype(np.int64)


def _matern(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    distance = math.sqrt(5) * torch.cdist(left, right)
    return (1 + distance + distance**2 / 3) * torch.exp(-distance)


def _likeliest(points: Array, values: Array, random: np.random.Generator) -> tuple[torch.Tensor, float]:
    """Length scales and noise under which the values are the likeliest, out of some dozens, then mutated."""
    n, d = points.shape
    x = torch.from_numpy(points)
    spread = values.std() or 1.0
    y = torch.from_numpy((values - values.mean()) / spread)[:, None]
    found: list[tuple[float, Array, float]] = []
    for attempt in range(3 * _LENGTHS):
        if attempt < _LENGTHS:
            logs = random.normal(math.log(0.8 * math.sqrt(d / 4)), 0.8, (d,))
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
        fit = float(-0.5 * (white**2).sum() - factor.diagonal().log().sum())
        found.append((fit, logs, noise))
    _, best, likeliest_noise = max(found, key=lambda each: each[0])
    return torch.from_numpy(np.exp(best)), likeliest_noise


def _solved(covariance: torch.Tensor, values: torch.Tensor, noise: float) -> torch.Tensor:
    factor, _ = torch.linalg.cholesky_ex(covariance + (noise**2 + 1e-6) * torch.eye(len(values)))
    return torch.cholesky_solve(values[:, None], factor)[:, 0]
