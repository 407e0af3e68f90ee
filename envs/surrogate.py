"""What the trials so far say about those to come: a Gaussian process over configurations and how far they are trained.

Values are minimised. Let x be a configuration's point in the unit cube, s its rung (a fraction of a full training), and
f_1, ..., f_T what T past tasks say (`envs.past_tasks`). The covariance of two values is

    1                                              what nobody knows before the first value
    + w^2 mean_t (f_t(x, s) - m(x, s)) (f_t(x', s') - m(x', s'))      how tasks like this one differ, m = mean_t f_t
    + r^2 c(s, s') [(1 - q) k(x, x') + q h(x, x')]                    how this one differs from them all
    + b^2 g(s, s')                                                    what a learning curve does to all trials

plus noise, with k a Matern 5/2 kernel of one length scale a dimension and c, g Gaussian kernels over log2 s. What is a
trial's own it shares with its closest neighbours for the most part: h is 0.8 times the kernel of a quarter of k's
lengths, plus 0.2 where both values are the same trial's. The one that does well where all else is at chance says that
those beside it might, and nothing of those further off.

So an empirical covariance of past tasks (Wang et al. 2021, Pre-trained Gaussian processes for Bayesian optimization)
meets freeze-thaw Bayesian optimisation (Swersky et al. 2014). Hyperparameters are the likeliest of a population, which
is carried over, mutated and refreshed: it costs the same at each fit, and no gradient can get lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]

MOST = 120
"""Values that a surrogate looks at, at most: its cost does not grow with the study."""

_DRAWN, _KEPT = 32, 8
_FIRST = 10  # values whose median is the usual one: later ones are mostly good, and would make the rest look hopeless
_JITTER = 1e-6
_SHARED = 0.8  # of a trial's own, what close neighbours share
_CLOSER = 4.0  # by how much shorter the lengths are at which they share it
_WORST = 4.0  # where values end, in units of the median's distance from the best


@dataclass(frozen=True)
class Observed:
    """Values of trials, n of them.

    Attributes:
        points: Configurations in the unit cube, shape (n, d).
        rungs: Index of the rung of each value, shape (n,).
        trials: Which trial each is of, shape (n,).
        values: To be minimised, shape (n,); infinite where the trial failed.
        expected: What past tasks say of each, shape (T, n); None without past tasks.
        spent: Full trainings that all of this has cost.
    """

    points: Array
    rungs: NDArray[np.int64]
    trials: NDArray[np.int64]
    values: Array
    expected: Array | None = None
    spent: float = 0.0


@dataclass(frozen=True)
class Queried:
    """Configurations to foretell, n of them.

    Attributes:
        points: Shape (n, d).
        trials: Trial that each continues, shape (n,); -1 where it is a new one.
        rungs: Index of the rung that each would be trained to next, shape (n,).
        expected: What past tasks say of each at all R rungs, shape (T, n, R); None without past tasks.
    """

    points: Array
    trials: NDArray[np.int64]
    rungs: NDArray[np.int64]
    expected: Array | None = None


@dataclass(frozen=True)
class Foretold:
    """What a surrogate foretells, on its own scale.

    Attributes:
        mean: Of the value after a full training, shape (n,).
        std: Its standard deviation, shape (n,).
        told: Standard deviation of what the mean will be once a trial has been trained to a rung, shape (n, R): how
            much that rung tells. Zero for those that it has passed.
    """

    mean: Array
    std: Array
    told: Array


def squashed(regret: Array) -> Array:
    """Regrets, linear up to the median's and logarithmic beyond: how bad a bad value is hardly matters."""
    return np.where(regret < 1, regret, 1 + np.log(np.maximum(regret, 1)))


class Surrogate:
    """Fitted to values as they come.

    Args:
        rungs: Fractions of a full training, ascending, the last one 1.
        scales: Of the past tasks: distance from the best to the median value, in the metric's unit, shape (T,); None
            without past tasks.
        seed: Hyperparameters are drawn from it.
    """

    believes = True
    """Whether past tasks have a say, if there are any."""

    def __init__(self, rungs: tuple[float, ...], scales: Array | None, seed: int) -> None:
        self._log_rungs = torch.log2(torch.tensor(rungs, dtype=torch.float64))
        self._scales = scales
        self._random = np.random.default_rng(seed)
        self._population: _Hyperparameters | None = None
        self._due = 0
        self._usual, self._unit, self._spread = -math.inf, 0.0, 1.0
        self.evidence = 0.0
        """Log density of the values that were fitted, in the metric's unit, with that of the hyperparameters."""

    def fit(self, observed: Observed) -> None:
        """Fits to at most `MOST` values, at least one of them finite."""
        n, d = observed.points.shape
        if self._population is None or n >= self._due:
            drawn = _Hyperparameters.drawn(self._random, _DRAWN, d, self._scales)
            if self._population is not None:
                drawn = drawn.first(_DRAWN // 2).joined(self._population.mutated(self._random, _DRAWN // 2))
                drawn = drawn.joined(self._population)
            self._population = drawn
            self._due = max(n + 1, math.ceil(1.15 * n))
        population = self._population
        scales = population.scale if self._scales is not None else population.scale[:1]  # without past tasks, all alike
        values = torch.stack([torch.from_numpy(self._scaled(observed.values, s)) for s in scales])
        values = values.expand(len(population.scale), n)
        expected = None if observed.expected is None else torch.from_numpy(observed.expected)
        mean = torch.zeros(n, dtype=torch.float64) if expected is None else expected.mean(0)
        points, trials = torch.from_numpy(observed.points), torch.from_numpy(observed.trials)
        rungs = torch.from_numpy(observed.rungs)
        covariance = population.covariance(
            (points, trials, self._log_rungs[rungs], _centred(expected)),
            (points, trials, self._log_rungs[rungs], _centred(expected)),
        )
        covariance = covariance + (population.noise**2 + _JITTER)[:, None, None] * torch.eye(n, dtype=torch.float64)
        factor, _ = torch.linalg.cholesky_ex(covariance)
        residual = values - mean
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        fit = -0.5 * (white**2).sum(1) - factor.diagonal(dim1=1, dim2=2).log().sum(1) + population.log_prior
        unit = torch.tensor(self._spread, dtype=torch.float64) if self._scales is None else population.scale
        # Densities of values in the metric's unit.
        fit = torch.nan_to_num(fit - n * unit.log(), nan=-math.inf)
        order = torch.argsort(fit, descending=True)[:_KEPT]
        self.evidence = float(fit[order[0]])
        self._population = population.at(order)
        best = int(order[0])
        self._chosen = population.at(order[:1])
        self._factor = factor[best]
        self._weights = torch.cholesky_solve(residual[best][:, None], self._factor)[:, 0]
        self._seen = (points, trials, self._log_rungs[rungs], _centred(expected))
        self.scaled = values[best].numpy()

    def foretell(self, queried: Queried) -> Foretold:
        """Foretells values after full trainings, and how much each rung to come would tell of them."""
        n, rungs = len(queried.points), len(self._log_rungs)
        points = torch.from_numpy(queried.points)
        chosen, fresh, trials = self._chosen, *_numbered(queried.trials)
        expected = None if queried.expected is None else torch.from_numpy(queried.expected)
        apart = [self._log_rungs[rung].expand(n) for rung in range(rungs)]
        there = [None if expected is None else _centred(expected)[..., rung] for rung in range(rungs)]  # type: ignore[index]
        alike = chosen.alike((points, trials), self._seen[:2])
        covariance = torch.stack([chosen.along(alike, at, self._seen[2:])[0] for at in zip(apart, there, strict=True)])
        mean = covariance[-1] @ self._weights
        if expected is not None:
            mean = mean + expected[..., -1].mean(0)
        known = torch.linalg.solve_triangular(self._factor, covariance.flatten(0, 1).T, upper=False)
        known = known.view(-1, rungs, n)
        # Luck is no reason to start: a new trial's is left out, or the best point would be tried again and again. It
        # still blurs what its rungs tell.
        luck = chosen.luck * fresh
        variance = chosen.own(apart[-1], apart[-1], there[-1], there[-1]) - (known[:, -1] ** 2).sum(0) - luck
        std = variance.clamp(min=1e-8).sqrt()
        told = torch.zeros(n, rungs, dtype=torch.float64)
        for rung, (at, here) in enumerate(zip(apart, there, strict=True)):
            shared = chosen.own(apart[-1], at, there[-1], here) - (known[:, -1] * known[:, rung]).sum(0)
            shared = shared - luck * torch.exp(-0.5 * (apart[-1] - at) ** 2 / chosen.reach**2)
            ahead = chosen.own(at, at, here, here) - (known[:, rung] ** 2).sum(0) + chosen.noise**2
            told[:, rung] = torch.minimum(shared.abs() / ahead.clamp(min=1e-8).sqrt(), std)
        told[torch.arange(rungs) < torch.from_numpy(queried.rungs)[:, None]] = 0.0
        return Foretold(mean.numpy(), std.numpy(), told.numpy())

    def foretell_ends(self, queried: Queried) -> tuple[Array, Array]:
        """Mean and standard deviation, shape (n,) each: what `foretell` tells of full trainings, for less."""
        chosen, fresh, trials = self._chosen, *_numbered(queried.trials)
        expected = None if queried.expected is None else torch.from_numpy(queried.expected[..., -1])
        last, there = self._log_rungs[-1:], _centred(expected)  # one for all: they broadcast
        alike = chosen.alike((torch.from_numpy(queried.points), trials), self._seen[:2])
        covariance = chosen.along(alike, (last, there), self._seen[2:])[0]
        mean = covariance @ self._weights
        if expected is not None:
            mean = mean + expected.mean(0)
        known = torch.linalg.solve_triangular(self._factor, covariance.T, upper=False)
        variance = chosen.own(last, last, there, there) - (known**2).sum(0) - chosen.luck * fresh
        return mean.numpy(), variance.clamp(min=1e-8).sqrt().numpy()

    @property
    def hyperparameters(self) -> dict[str, list[float]]:
        """Those of the last fit, by name.

        As above: `lengths` of k, `noise`, `shift` b, `own_share` q, `reach` of c, `rest` r, `weight` w; and `scale`,
        what a regret of 1 is in the metric's unit.
        """
        return {name: value.reshape(-1).tolist() for name, value in vars(self._chosen).items() if name != "log_prior"}

    def _scaled(self, values: Array, scale: float | Tensor) -> Array:
        """Regrets against the best value seen, squashed; without past tasks in units of the median's, standardised."""
        finite = values[np.isfinite(values)]
        best = finite.min()
        if self._scales is not None:
            regret = squashed((values - best) / float(scale))
            return np.minimum(np.nan_to_num(regret, posinf=_WORST), _WORST)
        if len(finite) <= _FIRST or not self._usual > best:
            self._usual = float(np.median(finite))
        # The best one may be much better than the first ones, if all of those were at chance.
        self._unit = float(self._usual - best)
        regret = squashed((values - best) / (self._unit if self._unit > 0 else 1.0))
        regret = np.minimum(np.nan_to_num(regret, posinf=_WORST), _WORST)
        spread = float(regret.std()) or 1.0
        self._spread = spread * (self._unit if self._unit > 0 else 1.0)
        standardised: Array = (regret - regret.mean()) / spread
        return standardised


_Along = tuple[Tensor, Tensor | None]
"""Log2 rungs (n,) and centred expectations (T, n)."""

_Side = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""Points (n, d), trials (n,), and the same."""


@dataclass(frozen=True)
class _Hyperparameters:
    """p sets of them; tensors of shape (p,), `lengths` (p, d)."""

    lengths: Tensor
    noise: Tensor
    shift: Tensor
    own_share: Tensor
    reach: Tensor
    rest: Tensor
    weight: Tensor
    scale: Tensor
    log_prior: Tensor

    @classmethod
    def drawn(cls, random: np.random.Generator, p: int, d: int, scales: Array | None) -> _Hyperparameters:
        past = scales is not None

        def log_uniform(low: float, high: float) -> Array:
            return np.exp(random.uniform(math.log(low), math.log(high), p))

        centre, spread = (0.0, 0.0) if scales is None else _of_scales(scales)
        logs = random.normal(0.0, 1.0, (p, d))
        z = random.normal(0.0, 1.0, p)
        return cls(
            *map(
                torch.from_numpy,
                (
                    0.8 * math.sqrt(d / 4) * np.exp(logs),
                    log_uniform(0.02, 0.1 if past else 0.3),
                    log_uniform(0.02, 0.3) if past else log_uniform(0.1, 1.5),
                    log_uniform(0.05, 0.5),
                    log_uniform(1.0, 6.0),
                    log_uniform(0.4, 1.2) if past else np.ones(p),
                    log_uniform(0.5, 1.5) if past else np.zeros(p),
                    np.exp(centre + spread * z),
                    -0.5 * (logs**2).sum(1) - 0.5 * z**2,
                ),
            )
        )

    def at(self, index: Tensor) -> _Hyperparameters:
        return _Hyperparameters(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def first(self, p: int) -> _Hyperparameters:
        return self.at(torch.arange(p))

    def joined(self, other: _Hyperparameters) -> _Hyperparameters:
        return _Hyperparameters(
            *(torch.cat([getattr(self, name), getattr(other, name)]) for name in self.__dataclass_fields__)
        )

    def mutated(self, random: np.random.Generator, p: int) -> _Hyperparameters:
        """Some of the length scales and of the rest are a little longer, or shorter."""
        parents = self.at(torch.from_numpy(random.integers(len(self.noise), size=p)))
        d = parents.lengths.shape[1]
        logs = random.normal(0.0, 0.4, (p, d)) * (random.random((p, d)) < 0.5)

        def changed(values: Tensor, most: float = math.inf) -> Tensor:
            factor = np.exp(random.normal(0.0, 0.3, p) * (random.random(p) < 0.5))
            return (values * torch.from_numpy(factor)).clamp(max=most)

        return _Hyperparameters(
            parents.lengths * torch.from_numpy(np.exp(logs)),
            changed(parents.noise),
            changed(parents.shift),
            changed(parents.own_share, 0.9),
            changed(parents.reach),
            # Without past tasks these are units.
            changed(parents.rest) if bool((self.weight > 0).all()) else parents.rest,
            changed(parents.weight, 2.0),
            parents.scale,
            parents.log_prior,
        )

    def covariance(self, left: _Side, right: _Side) -> Tensor:
        """Between two sides of n and m, shape (p, n, m)."""
        return self.along(self.alike(left[:2], right[:2]), left[2:], right[2:])

    def alike(self, left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
        """How alike trials are, of points (n, d) and numbers (n,), whatever their rungs: shape (p, n, m)."""
        (x, trial), (x2, trial2) = left, right
        # The square root has no gradient at 0, and needs none.
        distance = math.sqrt(5) * torch.cdist(
            x / self.lengths[:, None],
            x2 / self.lengths[:, None],
            compute_mode="donot_use_mm_for_euclid_dist",
        )
        share = self.own_share[:, None, None]
        own = _SHARED * matern(_CLOSER * distance) + (1 - _SHARED) * (trial[:, None] == trial2)
        return (1 - share) * matern(distance) + share * own

    def along(self, alike: Tensor, left: _Along, right: _Along) -> Tensor:
        """The covariance of values at rungs of trials that are so alike, shape (p, n, m)."""
        (rung, expected), (rung2, expected2) = left, right
        apart = (rung[:, None] - rung2) ** 2
        kept = torch.exp(-0.5 * apart / self.reach[:, None, None] ** 2)
        found = 1.0 + self.rest[:, None, None] ** 2 * kept * alike
        found = found + self.shift[:, None, None] ** 2 * torch.exp(-apart / 8)
        if expected is not None and expected2 is not None:
            found = found + self.weight[:, None, None] ** 2 * (expected.T @ expected2 / len(expected))
        return found

    @property
    def luck(self) -> Tensor:
        """Variance of what no other trial shares, shape (p,)."""
        return self.rest**2 * self.own_share * (1 - _SHARED)

    def own(self, rung: Tensor, rung2: Tensor, expected: Tensor | None, expected2: Tensor | None) -> Tensor:
        """Covariance of each trial's values at two rungs, shape (n,), for one set of hyperparameters."""
        apart = (rung - rung2) ** 2
        found = 1.0 + self.rest**2 * torch.exp(-0.5 * apart / self.reach**2) + self.shift**2 * torch.exp(-apart / 8)
        if expected is not None and expected2 is not None:
            found = found + self.weight**2 * (expected * expected2).mean(0)
        return found


def matern(distance: Tensor) -> Tensor:
    """The Matern 5/2 kernel of distances in length scales, times the square root of 5."""
    return (1 + distance + distance**2 / 3) * torch.exp(-distance)


def _numbered(trials: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Which trials are new ones, and numbers: new trials are of no trial that was seen, and of different ones."""
    numbers = torch.from_numpy(trials)
    fresh = numbers < 0
    return fresh, torch.where(fresh, -1 - torch.arange(len(trials)), numbers)


def _of_scales(scales: Array) -> tuple[float, float]:
    """Mean and standard deviation of their logarithms; few tasks tell little of the latter."""
    logs = np.log(scales)
    return float(logs.mean()), float(max(logs.std(), 0.3))


def _centred(expected: Tensor | None) -> Tensor | None:
    return None if expected is None else expected - expected.mean(0)
