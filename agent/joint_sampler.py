"""What samplers have in common that propose all hyperparameters of a trial at once."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState


class JointSampler(BaseSampler):
    """Proposes all hyperparameters at once, from the second trial on.

    The space is what the trials that finished have in common. Whatever is not in it is left to chance: the first trial,
    and hyperparameters that not every trial has. Those with one value need no proposal.

    Chance follows from the seed, the trial's number and the hyperparameter's name alone: nothing of it needs to be
    remembered for a study to go on as if it had not been interrupted.
    """

    def __init__(self, seed: int | None = None) -> None:
        """Makes a sampler of one study.

        Args:
            seed: Proposals follow from it (with one worker). None draws one.
        """
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._common = IntersectionSearchSpace()

    @abstractmethod
    def _propose(self, study: Study, trial: FrozenTrial, space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """A value for each hyperparameter of a space that is not empty."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The hyperparameters that are proposed together."""
        return {name: each for name, each in self._common.calculate(study).items() if not each.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Their values."""
        self._raise_error_if_multi_objective(study)
        return self._propose(study, trial, search_space) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A random value of any other hyperparameter."""
        self._raise_error_if_multi_objective(study)
        chance = RandomSampler(seed=self._seed_of(trial, param_name))
        return chance.sample_independent(study, trial, param_name, param_distribution)

    def _seed_of(self, trial: FrozenTrial, purpose: str) -> int:
        """A seed of its own for every trial and purpose."""
        sequence = np.random.SeedSequence([self._seed, trial.number, zlib.crc32(purpose.encode())])
        return int(sequence.generate_state(1)[0])


def finished_trials(study: Study, space: Mapping[str, BaseDistribution]) -> list[FrozenTrial]:
    """The trials in a space that ended, well or not, in order."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    return [trial for trial in study.get_trials(deepcopy=False, states=states) if is_in(trial, space)]


def is_in(trial: FrozenTrial, space: Mapping[str, BaseDistribution]) -> bool:
    """Whether the trial has a value for each hyperparameter of the space."""
    return all(trial.distributions.get(name) == each for name, each in space.items())


def loss(study: Study, state: TrialState, value: float | None) -> float:
    """What is minimised: infinite for trials that failed or were stopped, so that none is ever followed."""
    if state is not TrialState.COMPLETE or value is None:
        return math.inf
    return value if study.direction is StudyDirection.MINIMIZE else -value
