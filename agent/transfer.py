"""How well a policy carries over: past tasks are searched again, with none, some and all of the others as their past.

Each task is left out in turn and searched as `envs.replayed_tasks` replays it. All ways to search one have the same
seeds, so that differences are paired. Intervals of means over tasks are bootstrapped over tasks and over searches of
each; those of a pair of tasks come from its repeats, see `agent.many_tests`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study, create_study

from ..envs.errors import ConfigurationError
from ..envs.past_tasks import PastTasks
from ..envs.replayed_tasks import ReplayedTask, ReplayedTasks
from ..envs.transfer import POLICY, RANDOM, RULE, TPE, Interval, Transfer, TransferCurve, TransferPair
from .many_tests import judged
from .quiet import quiet_optuna
from .search_actor import SearchActor
from .search_evaluation import searched
from .search_learning import Lessons, bootstrapped
from .search_policy import SearchPolicy
from .strategies import Setting, strategy_named

LEAST_TASKS = 2
"""One task to search, and one to be its past."""

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]
"""Takes how many searches are done, and how many there are."""


@dataclass(frozen=True)
class TransferSettings:
    """What the measurement follows from.

    Attributes:
        trials: Of each search, in full trainings.
        repeats: Searches of each task in each way, at least 2.
        seed: What is drawn follows from it.
        most_tasks: Tasks in the matrix, at most; of more, so many are drawn.
        confidence: Of intervals, and with which a pair is flagged.
    """

    trials: int = 20
    repeats: int = 5
    seed: int = 0
    most_tasks: int = 20
    confidence: float = 0.95

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("repeats", 2), ("seed", 0), ("most_tasks", LEAST_TASKS)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.confidence < 1:
            raise ConfigurationError(f"confidence must be above 0 and below 1, got {self.confidence}")


def measure_transfer(
    lessons: Lessons, policy: SearchPolicy, settings: TransferSettings, *, progress: Progress | None = None
) -> Transfer:
    """Searches every task in every way.

    Args:
        lessons: The past tasks.
        policy: The policy.
        settings: What it follows from.
        progress: Told after every search.

    Returns:
        What was found: the same for the same arguments, bit for bit.
    """
    return _Measurement(lessons, policy, settings, progress or (lambda done, total: None)).measured()


def past_sizes(tasks: int) -> list[int]:
    """Numbers of past tasks that a few-shot search is told of where there are so many tasks: 1, 2, 4 ... and all."""
    most = tasks - 1
    return [2**power for power in range(most.bit_length()) if 2**power < most] + [most]


@dataclass(frozen=True)
class _Found:
    """What searches have found, any shape before the last axis of `regrets`.

    Attributes:
        regrets: After 1, 2, 3 ... trials, shape (..., N).
        doubted: Shares of moves at which the past was not believed, shape (...).
    """

    regrets: Array
    doubted: Array

    @classmethod
    def stacked(cls, parts: Sequence[_Found]) -> _Found:
        return cls(np.stack([part.regrets for part in parts]), np.stack([part.doubted for part in parts]))

    @property
    def averages(self) -> Array:
        """Mean regrets over all numbers of trials."""
        found: Array = self.regrets.mean(-1)
        return found


class _Measurement:
    def __init__(self, lessons: Lessons, policy: SearchPolicy, settings: TransferSettings, progress: Progress) -> None:
        self._lessons, self._policy, self._settings, self._progress = lessons, policy, settings, progress
        tasks = PastTasks(lessons.histories, settings.seed)
        self._replayed = ReplayedTasks(lessons.cube, lessons.rungs, tasks)
        self._places = range(len(lessons.names))
        drawn = np.random.default_rng(settings.seed).permutation(len(self._places))[: settings.most_tasks]
        self._sample: list[int] = sorted(drawn.tolist())
        self._sizes = past_sizes(len(self._places))
        ways = 4 + 1 + len(self._sizes)
        pairs = len(self._sample) * (len(self._sample) - 1)
        self._total, self._done = (ways * len(self._places) + pairs) * settings.repeats, 0

    def measured(self) -> Transfer:
        settings, names, most = self._settings, self._lessons.names, self._sizes[-1]
        rule = SearchActor(self._policy.actor.shape)
        zero = self._everywhere(lambda place, repeat: self._told(self._policy.actor, place, [], repeat))
        found = {(POLICY, 0): zero}
        for size in self._sizes:
            found[POLICY, size] = self._few_shot(self._policy.actor, size)
        found[RULE, most] = self._few_shot(rule, most)
        found[RULE, 0] = self._everywhere(lambda place, repeat: self._told(rule, place, [], repeat))
        found |= {(name, 0): self._everywhere(partial(self._strategy, name)) for name in (TPE, RANDOM)}
        curves = [self._curve(searcher, past, each, zero) for (searcher, past), each in found.items()]
        ordered = [(past, target) for past in self._sample for target in self._sample if past != target]
        alone = _Found.stacked([self._repeated(target, [past]) for past, target in ordered])
        without = zero.regrets[[target for _, target in ordered]]
        return Transfer(
            policy=self._policy.name,
            tasks=names,
            sample=tuple(names[place] for place in self._sample),
            trials=settings.trials,
            repeats=settings.repeats,
            seed=settings.seed,
            confidence=settings.confidence,
            curves=tuple(curves),
            pairs=self._pairs([(names[past], names[target]) for past, target in ordered], alone, without),
            together=self._pairs([("all others", name) for name in names], found[POLICY, most], zero.regrets),
        )

    def _everywhere(self, search: Callable[[int, int], _Found]) -> _Found:
        """Searches of all tasks, by task and repeat; `search` takes the place of a task and the repeat."""
        repeats = range(self._settings.repeats)
        return _Found.stacked([_Found.stacked([search(place, each) for each in repeats]) for place in self._places])

    def _few_shot(self, actor: SearchActor, size: int) -> _Found:
        def search(place: int, repeat: int) -> _Found:
            others = [other for other in self._places if other != place]
            # More past tasks are those of fewer, and others.
            random = np.random.default_rng([self._settings.seed, place, repeat])
            return self._told(actor, place, random.permutation(others)[:size].tolist(), repeat)

        return self._everywhere(search)

    def _repeated(self, place: int, known: Sequence[int]) -> _Found:
        repeats = range(self._settings.repeats)
        return _Found.stacked([self._told(self._policy.actor, place, known, each) for each in repeats])

    def _told(self, actor: SearchActor, place: int, known: Sequence[int], repeat: int) -> _Found:
        """A search of a task by an actor that is told of others."""
        trials = self._settings.trials
        told = searched(actor, self._replayed.replay(place, known), trials, self._seed(place, repeat))
        spent = np.array([info["spent"] for info in told])
        # The last move that has been paid for; with a full training each it is one a trial.
        upto = np.searchsorted(spent, np.arange(1, trials + 1) + 1e-9, side="right") - 1
        self._tick()
        doubted = float(np.mean([not info["believes"] for info in told])) if known else 0.0
        return _Found(np.array([info["regret"] for info in told])[upto], np.array(doubted))

    def _strategy(self, name: str, place: int, repeat: int) -> _Found:
        """A search of a task by one of Optuna's samplers, which trains every configuration in full."""
        task, trials, seed = self._replayed.replay(place), self._settings.trials, self._seed(place, repeat)
        setting = Setting(self._lessons.cube.space, trials, seed)
        sampler, pruner = strategy_named(name).make(name, setting)
        with quiet_optuna():
            study = create_study(sampler=sampler, pruner=pruner)
            regrets = self._asked(study, task, np.random.default_rng(seed))
        self._tick()
        return _Found(regrets, np.array(0.0))

    def _asked(self, study: Study, task: ReplayedTask, random: np.random.Generator) -> Array:
        best, regrets = np.inf, []
        for _ in range(self._settings.trials):
            trial = study.ask(self._lessons.cube.space)
            point = self._lessons.cube.encode([trial.params])[0]
            value = float(task.curve(point, int(random.integers(2**31)))[-1])
            study.tell(trial, value)
            if value < best:
                best, regret = value, task.regret(point)
            regrets.append(regret)
        return np.array(regrets)

    def _curve(self, searcher: str, past: int, found: _Found, zero: _Found) -> TransferCurve:
        return TransferCurve(
            searcher,
            past,
            tuple(self._interval(found.regrets[..., i]) for i in range(self._settings.trials)),
            self._interval(found.averages),
            self._interval(zero.averages - found.averages),
        )

    def _interval(self, values: Array) -> Interval:
        """Of the mean of values of tasks and repeats, shape (T, R)."""
        low, high = bootstrapped(values, self._settings.confidence, np.random.default_rng(self._settings.seed))
        return Interval(float(values.mean()), low, high)

    def _pairs(self, names: list[tuple[str, str]], with_past: _Found, without: Array) -> tuple[TransferPair, ...]:
        """What pasts do, for regrets of shape (pairs, R, N) with them and without."""
        gains = without - with_past.regrets
        told = judged(gains.mean(-1), self._settings.confidence)
        last, doubted = gains[..., -1].mean(1), with_past.doubted.mean(1)
        return tuple(
            TransferPair(
                past,
                target,
                Interval(float(mean), float(mean - half), float(mean + half)),
                float(last[i]),
                float(p),
                float(doubted[i]),
                bool(p < 1 - self._settings.confidence),
            )
            for i, ((past, target), mean, half, p) in enumerate(zip(names, told.means, told.half, told.p, strict=True))
        )

    def _seed(self, place: int, repeat: int) -> int:
        return int(np.random.SeedSequence([self._settings.seed, place, repeat]).generate_state(1)[0]) % 2**31

    def _tick(self) -> None:
        self._done += 1
        self._progress(self._done, self._total)
