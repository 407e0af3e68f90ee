"""The learned search as a sampler and a pruner of Optuna: in any study, instead of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.study import Study
from optuna.trial import FrozenTrial

from ..envs.errors import ConfigurationError, SearchSpaceError
from ..envs.past_tasks import PastTasks
from ..envs.records import WHY_ATTRIBUTE
from .arguments import require_kind
from .followed_study import FollowedStudy, check_direction
from .reasons import UNKNOWN, Reason
from .search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy
from .tune_arguments import listed


class PolicySampler(BaseSampler):
    """Proposes as a learned policy would.

    Example:
        >>> import metatuner as mt
        >>> import optuna
        >>> study = optuna.create_study(sampler=mt.PolicySampler(seed=0))  # and past=[last_months_study]
        >>> study.optimize(lambda trial: (trial.suggest_float("x", -5, 5) - 2) ** 2, n_trials=12)
        >>> round(study.best_value)
        0

    Hyperparameters that only some trials have are drawn at random, unless the space is given.

    Args:
        policy: A policy, a shipped one's name, a folder, or an address such as `models:/NAME@champion`.
        past: Studies of past tasks that have at least half of the hyperparameters, or what `followed_study.past_tasks`
            makes of them: what was good there is tried first here, or once the space is known.
        units: Values that a full training reports, at steps 1 to `units`. With it `pruner()` stops trainings that do
            not pay.
        budget: Full trainings that will be spent; None where nobody knows.
        space: The search space; None takes the hyperparameters that all trials so far have.
        seed: Proposals follow from it (with one worker).
        finishing: Whether the best training must come to its end before the budget does. Without it more can be tried,
            and the best configuration may be one that was trained in part.

    Raises:
        ConfigurationError: An argument is out of its range, or the past is not of studies.
        SearchSpaceError: The space is not of Optuna's distributions.
        PolicyError: The policy cannot be used.
    """

    def __init__(
        self,
        policy: str | Path | SearchPolicy = DEFAULT_SEARCH_POLICY,
        *,
        past: Sequence[Study] | PastTasks = (),
        units: int | None = None,
        budget: float | None = None,
        space: Mapping[str, BaseDistribution] | None = None,
        seed: int | None = None,
        finishing: bool = True,
    ) -> None:
        for name, value in (("units", units), ("budget", budget)):
            if value is not None and not value >= 1:
                raise ConfigurationError(f"{name} must be at least 1, got {value!r}")
        past = past if isinstance(past, PastTasks) else _checked_past(past)
        if space is not None:
            _check_space(space)
        self.policy = policy if isinstance(policy, SearchPolicy) else SearchPolicy.load(policy)
        self.units = units
        self.paused: Callable[[int], bool] = _never
        """Tells whether a trial that was stopped can go on. Whoever runs the trials may set it."""
        self.shared = False
        """Whether other processes work on the study too. Whoever runs the trials may set it."""
        self._past, self._budget, self._space, self._finishing = past, budget, space, finishing
        self._seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self._independent = RandomSampler(seed=self._seed)
        self._intersection = IntersectionSearchSpace()
        self._study: Study | None = None
        self._study_name = ""
        self._followed: FollowedStudy | None = None
        self._reasons: dict[int, Reason] = {}
        self._given: dict[int, dict[str, Any]] = {}  # configurations of trials that were enqueued in part
        # Optuna's workers are threads.
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, which cannot be pickled, and the study, which may be large."""
        return {name: value for name, value in vars(self).items() if name not in ("lock", "_study")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Back from `__getstate__`, with a lock of its own."""
        vars(self).update(state, lock=threading.RLock(), _study=None)

    def pruner(self) -> BasePruner:
        """A pruner that stops a trial where the policy would rather do something else.

        Raises:
            ConfigurationError: The sampler was not told `units`.
        """
        if self.units is None:
            raise ConfigurationError(
                "expected the sampler to know how many values a full training reports: give it `units`"
            )
        return PolicyPruner(self)

    def continued_by(self, trial: int) -> int | None:
        """The number of the trial whose training a trial goes on with; None for a new training."""
        return None if self._followed is None else self._followed.continued_by(trial)

    def why(self, trial: int) -> Reason | None:
        """Why a trial was proposed; None for one that was not."""
        return self._reasons.get(trial)

    def may_meet(self, trial: int) -> bool:
        """Whether other workers may choose a trial's configuration too, which is to be one that nobody has tried."""
        return self._followed is not None and self._followed.may_meet(trial)

    def followed(
        self, study: Study, space: Mapping[str, BaseDistribution] | None = None, trial: int = 0
    ) -> FollowedStudy | None:
        """The search that the study is; None where there is no space yet. Workers differ by their first trial."""
        self._begin(study)
        if space and (self._followed is None or dict(space) != self._followed.space):
            self._followed = FollowedStudy(
                self.policy,
                space,
                self.units or 1,
                self._budget,
                self._past,
                int(np.random.SeedSequence([self._seed, trial]).generate_state(1)[0]),
                paused=self.paused,
                shared=self.shared,
                finishing=self._finishing,
            )
        return self._followed

    def _begin(self, study: Study) -> None:
        """Forgets another study: a sampler may be given to several, one after the other."""
        if study is self._study:
            return  # storages need not be asked
        self._study = study
        if study.study_name != self._study_name:
            self._study_name, self._followed = study.study_name, None
            self._intersection = IntersectionSearchSpace()
            self._reasons, self._given = {}, {}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Takes note of a trial that was enqueued: Optuna does not ask for what is given."""
        fixed = trial.system_attrs.get("fixed_params")
        space = self.infer_relative_search_space(study, trial) if fixed else {}
        with self.lock, _by_itself():
            followed = self.followed(study, space, trial.number)
            if fixed and space and followed is not None:
                config = followed.take(trial.number, fixed)
                if config.keys() - fixed.keys():
                    self._given[trial.number] = config
                self._tell_why(study, trial, followed.why(trial.number))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The space that is given, or the hyperparameters that all trials so far have."""
        del trial
        check_direction(study)
        space = self._space
        if space is None:
            with self.lock:
                self._begin(study)
                space = self._intersection.calculate(study)
        return {name: each for name, each in space.items() if not each.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The configuration that the policy chooses."""
        with self.lock, _by_itself():
            followed = self.followed(study, search_space, trial.number)
            if followed is None or not search_space:
                self._tell_why(study, trial, UNKNOWN)
                return {}
            if (given := self._given.pop(trial.number, None)) is not None:
                return given
            config = followed.choose(study, trial.number)
            self._tell_why(study, trial, followed.why(trial.number))
            return config

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value at random; of a trial that goes on with another's training, the value that this one has."""
        check_direction(study)
        if (first := self.continued_by(trial.number)) is not None:
            params = study.get_trials(deepcopy=False)[first].params
            if param_name in params:
                return params[param_name]
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def _tell_why(self, study: Study, trial: FrozenTrial, reason: Reason | None) -> None:
        if reason is not None:
            self._reasons[trial.number] = reason
            # One attribute for all: databases take milliseconds for each.
            study._storage.set_trial_user_attr(trial._trial_id, WHY_ATTRIBUTE, reason.as_dict())

    def reseed_rng(self) -> None:
        """Other random values from now on: a copy of this sampler is to work beside it."""
        self._independent.reseed_rng()


@contextlib.contextmanager
def _by_itself() -> Iterator[None]:
    """Whatever an objective has set for all arrays and tensors, policies work with the usual settings."""
    # Naming a device has each operation take twice as long, in the usual case for nothing.
    usual = torch.get_default_device().type == "cpu"
    with np.errstate(all="ignore"), contextlib.nullcontext() if usual else torch.device("cpu"):
        yield


def _checked_past(past: object) -> list[Study]:
    studies = listed("past", past)
    for study in studies:
        require_kind("past", study, Study, "a list of Optuna studies, such as optuna.load_study gives")
    return studies


def _check_space(space: object) -> None:
    if not isinstance(space, Mapping):
        raise SearchSpaceError(
            f"expected the space as a dict from names to Optuna's distributions, got {space!r}: give one dict, such as "
            "{'x': FloatDistribution(0, 1)}"
        )
    for name, found in space.items():
        if not isinstance(found, BaseDistribution):
            choices = isinstance(found, Sequence) and not isinstance(found, str)
            instead = f"CategoricalDistribution({found!r})" if choices else "one of optuna.distributions"
            raise SearchSpaceError(
                f"expected {name!r} to be an Optuna FloatDistribution, IntDistribution or CategoricalDistribution, got "
                f"{found!r}: give {instead}"
            )


def _never(trial: int) -> bool:
    del trial
    return False


class PolicyPruner(BasePruner):
    """Stops a trial where the sampler's policy would rather start, or continue, another.

    Args:
        sampler: The study's sampler.
    """

    def __init__(self, sampler: PolicySampler) -> None:
        self._sampler = sampler

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial."""
        with self._sampler.lock, _by_itself():
            followed = self._sampler.followed(study)
            return followed is not None and not followed.goes_on(study, trial)
