"""A search policy learns from a user's own history: past tasks are searched again, others are kept apart.

Those that are kept apart tell whether what was learnt is better: candidate and champion search them with the same
seeds, knowing the same past tasks, and the difference is bootstrapped over tasks and over searches of a task. Only
where it is above zero with the confidence that was asked for is the candidate better.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study

from ..envs.errors import ConfigurationError
from ..envs.past_tasks import History, PastTasks
from ..envs.records import Metrics, NullRecorder, Recorder
from ..envs.replayed_tasks import ReplayedTasks
from ..envs.search_families import SearchFamilies
from ..envs.search_state import rung_units
from ..envs.search_task import SearchTask
from ..envs.unit_cube import UnitCube
from .followed_study import study_history
from .meta_training import Progress
from .search_actor import SearchActor
from .search_evaluation import BUDGETS, as_far_as_it_pays, log_regret
from .search_policy import SearchPolicy
from .search_training import SearchTrainingSettings, keep_policy, learn_to_search, search_card

LEAST_TASKS = 5
"""Past tasks that learning needs: some to learn from, and some to judge by."""

_RESAMPLES = 4000


@dataclass(frozen=True)
class SearchLearningSettings:
    """What learning follows from.

    Attributes:
        steps: Moves to learn from.
        seed: Which tasks are kept apart, searches and exploration follow from it.
        learning_rate: PPO's at the start.
        held_out: Share of the tasks that are kept apart, at least two of them.
        generated: Share of the searches that are of generated tasks, so that nothing is forgotten.
        searches: Searches of each task that is kept apart, at each of `search_evaluation.BUDGETS`, by which both are
            judged.
        confidence: With which the candidate must be better.
        parallel: Searches side by side.
    """

    steps: int = 20_000
    seed: int = 0
    learning_rate: float = 3e-4
    held_out: float = 0.3
    generated: float = 0.5
    searches: int = 10
    confidence: float = 0.95
    parallel: int = 16

    def __post_init__(self) -> None:
        for name in ("steps", "searches", "parallel"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("held_out", "generated", "confidence"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Comparison:
    """Candidate against champion, on tasks that neither has learnt from.

    Attributes:
        tasks: Their names.
        champion: Geometric mean of its final regrets.
        candidate: Geometric mean of the candidate's.
        gain: Mean fall of the log regret from champion to candidate.
        low: Lower end of its interval.
        high: Upper end.
        confidence: Of the interval.
    """

    tasks: tuple[str, ...]
    champion: float
    candidate: float
    gain: float
    low: float
    high: float
    confidence: float

    @property
    def better(self) -> bool:
        """Whether the candidate is, with the confidence that was asked for."""
        return self.low > 0

    @property
    def verdict(self) -> str:
        """In words."""
        figures = (
            f"regret {self.candidate:.3f} against {self.champion:.3f} on {len(self.tasks)} tasks; log regret lower by "
            f"{self.gain:.3f} ({self.confidence:.0%}: {self.low:.3f} to {self.high:.3f})"
        )
        return f"better: {figures}" if self.better else f"not shown to be better: {figures}"


def _untaken(name: str, taken: Container[str]) -> str:
    """The name, with a number behind it where another task has it: studies of two stores may be called the same."""
    numbered = (name if number == 1 else f"{name} ({number})" for number in count(1))
    return next(each for each in numbered if each not in taken)


@dataclass(frozen=True)
class Lessons:
    """Past tasks with one search space.

    Attributes:
        names: Theirs, T of them.
        histories: Their trials.
        cube: The search space.
        rungs: Fractions of a full training after which a trial may pause.
    """

    names: tuple[str, ...]
    histories: tuple[History, ...]
    cube: UnitCube
    rungs: tuple[float, ...]

    @classmethod
    def of(
        cls, past: Sequence[Study], space: dict[str, BaseDistribution], units: int = 1, *, least: int = LEAST_TASKS
    ) -> Lessons:
        """What studies teach; those that say too little are left out.

        Args:
            past: Studies of past tasks.
            space: The search space.
            units: Values that a full training reports.
            least: Tasks that are needed.

        Raises:
            ConfigurationError: Fewer say enough.
        """
        cube, at = UnitCube(space), rung_units(units)
        told: dict[str, History] = {}
        known = set[frozenset[bytes]]()  # a task that is told of twice is one, or it would be judged by what it taught
        for study in past:
            history = study_history(study, cube, at)
            if history is not None and history.fingerprint not in known:
                known.add(history.fingerprint)
                told[_untaken(study.study_name, told)] = history
        if len(told) < least:
            steps = max((max(t.intermediate_values, default=0) for each in past for t in each.trials), default=0)
            longer = f"; they report up to {steps} values a training, and units is {units}" if steps > units else ""
            raise ConfigurationError(
                f"expected at least {least} past tasks with enough trials to learn from, got {len(told)} of "
                f"{len(past)}{longer}: tune more tasks first, and use them as `prior` meanwhile"
            )
        return cls(tuple(told), tuple(told.values()), cube, tuple(each / units for each in at))

    def split(self, share: float, seed: int) -> tuple[list[int], list[int]]:
        """Places of the tasks to learn from, and of those that are kept apart."""
        order = np.random.default_rng(seed).permutation(len(self.names)).tolist()
        apart = min(max(2, round(share * len(order))), len(order) - 2)
        return sorted(order[apart:]), sorted(order[:apart])

    @property
    def digest(self) -> str:
        """A fingerprint of the trials."""
        found = hashlib.sha256(json.dumps(self.names).encode())
        for history in self.histories:
            found.update(history.points.tobytes() + history.values.tobytes())
        return found.hexdigest()[:16]


def learn_search_policy(
    lessons: Lessons,
    champion: SearchPolicy,
    settings: SearchLearningSettings,
    out: str | Path,
    *,
    name: str = "search",
    resume: bool = True,
    recorder: Recorder | None = None,
    trial: int = 0,
    progress: Progress | None = None,
) -> tuple[SearchPolicy, Comparison]:
    """Goes on learning with a policy, and compares the result with it.

    Args:
        lessons: Past tasks.
        champion: The policy that learning begins from, and that the result is compared with.
        settings: What it follows from.
        out: The new policy's folder; a checkpoint lies in it meanwhile.
        name: The new policy's name.
        resume: Go on from a checkpoint in `out`.
        recorder: Takes the learning curve and the comparison, as metrics of `trial`.
        trial: The trial's number in the recorder's study.
        progress: Told after every update.

    Returns:
        The policy and the comparison.

    Raises:
        CheckpointError: The checkpoint in `out` belongs to other settings, tasks or another champion.
    """
    recorder = recorder or NullRecorder()
    learnt, _ = lessons.split(settings.held_out, settings.seed)
    tasks = PastTasks(lessons.histories, settings.seed)
    own = ReplayedTasks(lessons.cube, lessons.rungs, tasks, searched=learnt, known=learnt)
    training = SearchTrainingSettings(
        steps=settings.steps,
        seed=settings.seed,
        searches=settings.parallel,
        learning_rate=settings.learning_rate,
        width=champion.actor.shape.width,
    )
    actor = learn_to_search(
        training,
        out,
        tasks=_Mixed(own, settings.generated),
        lessons=f"{lessons.digest} {champion.card.get('sha256', champion.name)} {json.dumps(asdict(settings))}",
        begin=champion.actor,
        resume=resume,
        recorder=recorder,
        trial=trial,
        progress=progress,
    )
    # What was learnt is kept as far as it pays on the tasks that it was learnt from: the others are for judging.
    actor, kept = as_far_as_it_pays(champion.actor, actor, settings.searches * len(learnt), own)
    comparison = compare(actor, champion.actor, lessons, tasks, settings)
    figures = {key: value for key, value in asdict(comparison).items() if isinstance(value, float)}
    recorder.record(
        Metrics(trial=trial, step=settings.steps, values={f"evaluation/{key}": value for key, value in figures.items()})
    )
    card: dict[str, Any] = {
        **search_card(training),
        "task_family": f"{len(learnt)} tasks of a user's history, and SearchFamilies, split train",
        "command": "metatuner learn",
        "learning": asdict(settings),
        "learnt_from": {"policy": champion.name, "tasks": [lessons.names[place] for place in learnt]},
        "held_out": list(comparison.tasks),
        "kept": kept,
        "trust": actor.trust.tolist(),
        "evaluation": figures,
    }
    return keep_policy(SearchPolicy(name, actor, card), out, recorder, trial), comparison


def compare(
    candidate: SearchActor,
    champion: SearchActor,
    lessons: Lessons,
    tasks: PastTasks,
    settings: SearchLearningSettings,
) -> Comparison:
    """Searches the tasks that were kept apart with both, knowing all of those that were learnt from."""
    learnt, apart = lessons.split(settings.held_out, settings.seed)
    replayed = ReplayedTasks(lessons.cube, lessons.rungs, tasks, searched=apart, known=learnt)
    regrets = np.array(
        [
            [
                [log_regret(actor, replayed.replay(place, learnt), budget, seed) for actor in (champion, candidate)]
                for seed in range(settings.searches)
                for budget in BUDGETS
            ]
            for place in apart
        ]
    )
    gains = regrets[..., 0] - regrets[..., 1]
    low, high = bootstrapped(gains, settings.confidence, np.random.default_rng(settings.seed))
    before, after = np.exp(regrets.mean((0, 1)))
    names = tuple(lessons.names[place] for place in apart)
    return Comparison(names, float(before), float(after), float(gains.mean()), low, high, settings.confidence)


def bootstrapped(gains: NDArray[np.float64], confidence: float, random: np.random.Generator) -> tuple[float, float]:
    """An interval of the mean of paired gains, shape (tasks, searches): tasks are drawn, then searches of each."""
    tasks, searches = gains.shape
    drawn = random.integers(tasks, size=(_RESAMPLES, tasks, 1))
    means = gains[drawn, random.integers(searches, size=(_RESAMPLES, tasks, searches))].mean((1, 2))
    low, high = np.quantile(means, ((1 - confidence) / 2, (1 + confidence) / 2))
    return float(low), float(high)


class _Mixed:
    """A user's tasks, and generated ones."""

    def __init__(self, own: ReplayedTasks, generated: float) -> None:
        self._own, self._generated, self._families = own, generated, SearchFamilies()

    def task(self, seed: int) -> SearchTask:
        of_others = np.random.default_rng([1, seed]).random() < self._generated
        return self._families.task(seed) if of_others else self._own.task(seed)
