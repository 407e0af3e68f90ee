"""Particle swarms and differential evolution, of pymoo, as an Optuna sampler."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..envs.errors import ConfigurationError
from .joint_sampler import JointSampler, finished_trials, is_in, loss

Kind = Literal["pso", "de"]

REPEATS = 100
"""How often a population may ask for what is known already, before it is tried again."""


class PymooSampler(JointSampler):
    """Proposes what a population of pymoo asks for.

    `"pso"` is particle swarm optimisation (Kennedy & Eberhart 1995) with the adaptive weights of Zhan et al. (2009);
    `"de"` is differential evolution (Storn & Price 1997), best/1/bin.

    Categories are one-hot encoded, the largest entry counts; steps are rounded to. What was tried already is not tried
    again: the population is told the value that is known. The first population takes in the best trials that there are
    and is filled up by a Latin hypercube. So a study that is resumed goes on from its best trials, but velocities are
    not remembered.
    """

    def __init__(self, kind: Kind, population: int = 25, seed: int | None = None) -> None:
        """Makes a sampler of one study.

        Args:
            kind: What the population does.
            population: How many points a generation has, at least 4.
            seed: Proposals follow from it (with one worker). None draws one.

        Raises:
            ConfigurationError: The population is too small to recombine.
        """
        super().__init__(seed)
        if population < 4:
            raise ConfigurationError(f"expected a population of at least 4 points, got {population}")
        self._kind, self._size = kind, population
        self._population: _Population | None = None
        self._lock = threading.Lock()

    def _propose(self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        with self._lock:
            if self._population is None or self._population.space != space:
                past = finished_trials(study, space)
                points = [(each.params, loss(study, each.state, each.value)) for each in past]
                self._population = _Population(self._kind, self._size, space, points, self._seed_of(trial, "pymoo"))
            return self._population.ask(trial.number)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Tells the population."""
        with self._lock:
            if self._population is not None:
                self._population.tell(trial, loss(study, state, values[0] if values else None))


class _Asked(NamedTuple):
    place: int  # in its generation
    individual: Any
    params: dict[str, Any]


class _Population:
    """Asks for the points of a generation one by one, and never waits.

    When all are handed out the next generation begins, and what is not told yet counts as worst. A value that comes
    later than that still takes the place of a worse one, and so does one that others proposed.
    """

    def __init__(
        self,
        kind: Kind,
        size: int,
        space: dict[str, BaseDistribution],
        past: list[tuple[dict[str, Any], float]],
        seed: int,
    ) -> None:
        self.space = space
        self._encoding = _SearchSpaceTransform(space, transform_0_1=True)
        best = sorted(past, key=lambda each: each[1])[:size]
        known = [(self._encoded(params), value) for params, value in best]
        self._algorithm = _algorithm(kind, size, len(self._encoding.bounds), known, seed)
        self._generation = self._algorithm.ask()
        self._left = deque(range(len(known), size))
        self._running: dict[int, _Asked] = {}
        self._values = {self._key(params): value for params, value in past}

    def ask(self, number: int) -> dict[str, Any]:
        """A proposal for the trial of this number: the next configuration whose value is not known."""
        for _ in range(REPEATS):
            asked = self._next()
            value = self._values.get(self._key(asked.params))
            if value is None:
                break
            asked.individual.F = np.array([value])
        self._running[number] = asked
        return asked.params

    def _next(self) -> _Asked:
        if not self._left:
            self._algorithm.tell(infills=self._generation)
            self._generation = self._algorithm.ask()
            self._generation.set("F", np.full((len(self._generation), 1), np.inf))
            self._left.extend(range(len(self._generation)))
        place = self._left.popleft()
        individual = self._generation[place]
        return _Asked(place, individual, self._encoding.untransform(individual.X))

    def tell(self, trial: FrozenTrial, value: float) -> None:
        """What came of a trial, also of one that others proposed."""
        if is_in(trial, self.space):
            self._values[self._key(trial.params)] = value
        if trial.number in self._running:
            asked = self._running.pop(trial.number)
            asked.individual.F = np.array([value])
            tried = {name: trial.params.get(name, proposed) for name, proposed in asked.params.items()}
            if tried != asked.params:  # some were given when it was enqueued
                asked.individual.X = self._encoded(tried)
            if self._generation[asked.place] is not asked.individual:
                self._settle(asked.individual, asked.place)
        elif is_in(trial, self.space):
            from pymoo.core.individual import Individual

            worst = int(self._settled.get("F").argmax())
            self._settle(Individual(X=self._encoded(trial.params), F=np.array([value])), worst)

    @property
    def _settled(self) -> Any:
        """What the next generation comes from."""
        return self._algorithm.pop if self._algorithm.is_initialized else self._generation

    def _settle(self, individual: Any, place: int) -> None:
        """Takes the place of a worse one."""
        if individual.F[0] < self._settled[place].F[0]:
            self._settled[place] = individual
            if not self._algorithm.is_initialized and place in self._left:
                self._left.remove(place)

    def _key(self, params: dict[str, Any]) -> tuple[float, ...]:
        return tuple(each.to_internal_repr(params[name]) for name, each in self.space.items())

    def _encoded(self, params: dict[str, Any]) -> Any:
        return self._encoding.transform({name: params[name] for name in self.space})


def _algorithm(kind: Kind, size: int, dimensions: int, known: list[tuple[Any, float]], seed: int) -> Any:
    """An algorithm of pymoo on the unit cube, of which some points are known."""
    # It takes a while to load.
    from pymoo.algorithms.soo.nonconvex.de import DE
    from pymoo.algorithms.soo.nonconvex.pso import PSO
    from pymoo.core.population import Population
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.operators.sampling.lhs import sampling_lhs

    new = sampling_lhs(size, dimensions, random_state=np.random.default_rng(seed))[len(known) :]
    first = Population.new(X=np.vstack([*(point for point, _ in known), new]))
    first.set("F", np.array([[value] for _, value in known] + [[np.inf]] * len(new)))
    # F and CR as Storn and Price say to try first; the greedier variant, for budgets of tens.
    algorithm = PSO(size, first) if kind == "pso" else DE(size, sampling=first, variant="DE/best/1/bin", F=0.5, CR=0.9)
    return algorithm.setup(Problem(n_var=dimensions, n_obj=1, xl=0.0, xu=1.0), termination=NoTermination(), seed=seed)
