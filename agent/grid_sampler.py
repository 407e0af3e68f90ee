"""A grid's points as an Optuna sampler: each is proposed once, whoever else works on the study."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from ..envs.conditional_space import ConditionalSpace
from .trial_queue import identity


class GridSampler(BaseSampler):
    """Proposes points in random order, but none that the study has tried.

    Unlike Optuna's it takes any points, such as those of a space with conditions, and enqueued trials beside them.

    Args:
        points: Whole configurations.
        space: The space that they are from.
        seed: The order follows from it, and so does what enqueued trials leave open.
    """

    def __init__(self, points: Iterable[Mapping[str, Any]], space: ConditionalSpace, seed: int) -> None:
        self._space = space
        self._rest = {identity(point, space): point for point in points}
        self._mine: dict[int, Mapping[str, Any]] = {}
        self._seen: set[int] = set()
        self._seed, self._random = seed, RandomSampler(seed=seed)
        self._lock = threading.Lock()

    def left(self, study: Study) -> int:
        """How many points nobody has tried or tries now."""
        with self._lock:
            self._look(study)
            return len(self._rest)

    def reseed_rng(self) -> None:
        """As Optuna's."""
        self._random.reseed_rng()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Takes the next point, unless the trial was enqueued with values of its own."""
        with self._lock:
            self._look(study)
            if self._rest and "fixed_params" not in trial.system_attrs:
                # By the trial's number: two processes that begin trials at the same moment do not choose the same.
                chance = np.random.default_rng([self._seed, trial.number])
                self._mine[trial.number] = self._rest.pop(list(self._rest)[chance.integers(len(self._rest))])

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Nothing: a point's values are asked for one by one."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The point's value."""
        point = self._mine.get(trial.number, {})
        if param_name in point:
            return point[param_name]
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Forgets the trial's point."""
        self._mine.pop(trial.number, None)

    def _look(self, study: Study) -> None:
        """Strikes out what others have tried or try now."""
        for trial in study.get_trials(deepcopy=False):
            if trial.number not in self._seen and trial.state is not TrialState.WAITING:
                self._rest.pop(identity(trial.params, self._space), None)
                if trial.state.is_finished():  # one that runs may not have all its values yet
                    self._seen.add(trial.number)
