"""The learned search in scikit-learn: a search with cross-validation, as `GridSearchCV` is one."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study
from optuna.trial import Trial, TrialState
from sklearn.base import BaseEstimator, is_classifier
from sklearn.model_selection import check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._split import _yields_constant_splits
from sklearn.model_selection._validation import _warn_or_raise_about_fit_failures
from sklearn.utils import check_random_state

from ..envs.errors import ConfigurationError
from .policy_sampler import PolicySampler
from .quiet import quiet_optuna
from .search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy

# scikit-learn's words, in the error of a configuration that failed in every fold.
_ALL_FAILED = re.compile(r"\nAll the (\d+) fits failed\.\n")
_DETAILS = "Below are more details about the failures:\n"
_SAME_ERROR = "-" * 80 + "\n{} fits failed with the following error:\n"


class PolicySearchCV(BaseSearchCV):  # type: ignore[misc]  # scikit-learn has no types
    """Searches an estimator's hyperparameters by cross-validation, as a learned policy would.

    Example:
        >>> import metatuner as mt
        >>> from optuna.distributions import IntDistribution
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> space = {"max_depth": IntDistribution(1, 9), "min_samples_leaf": IntDistribution(1, 20)}
        >>> search = mt.PolicySearchCV(DecisionTreeClassifier(random_state=0), space, n_iter=8, random_state=0)
        >>> sorted(search.fit(*load_iris(return_X_y=True)).best_params_)
        ['max_depth', 'min_samples_leaf']

    Args:
        estimator: What is tuned.
        space: Optuna's distributions by the names of the estimator's parameters.
        n_iter: Configurations to try.
        scoring: As for `GridSearchCV`: a name, a function, or several with `refit` naming the one that counts.
        n_jobs: Folds at a time.
        refit: As for `GridSearchCV`.
        cv: As for `GridSearchCV`; its splits must be the same each time.
        verbose: As for `GridSearchCV`.
        pre_dispatch: As for `GridSearchCV`.
        random_state: Proposals follow from it.
        error_score: As for `GridSearchCV`. A configuration that failed in every fold has no `mean_fit_time`.
        return_train_score: As for `GridSearchCV`.
        policy: A policy, a shipped one's name, a folder, or an address.
        past: Optuna studies of past tasks with at least half of this space, with scores as their values.

    Attributes:
        study_: The Optuna study of the search.

    Raises:
        ConfigurationError: When it is fitted: the splits differ each time, several scores have no `refit`, or the past
            is not of studies.
        SearchSpaceError: When it is fitted: the space is not of Optuna's distributions.
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        space: Mapping[str, BaseDistribution],
        *,
        n_iter: int = 30,
        scoring: str | Callable[..., Any] | Sequence[str] | Mapping[str, Any] | None = None,
        n_jobs: int | None = None,
        refit: bool | str | Callable[..., int] = True,
        cv: Any = None,
        verbose: int = 0,
        pre_dispatch: int | str = "2*n_jobs",
        random_state: Any = None,
        error_score: float | str = np.nan,
        return_train_score: bool = False,
        policy: str | Path | SearchPolicy = DEFAULT_SEARCH_POLICY,
        past: Sequence[Study] = (),
    ) -> None:
        super().__init__(
            estimator,
            scoring=scoring,
            n_jobs=n_jobs,
            refit=refit,
            cv=cv,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            error_score=error_score,
            return_train_score=return_train_score,
        )
        self.space = space
        self.n_iter = n_iter
        self.random_state = random_state
        self.policy = policy
        self.past = past

    def fit(self, X: Any, y: Any = None, **params: Any) -> PolicySearchCV:  # noqa: N803 - scikit-learn's name
        """Searches, and refits the best configuration on everything.

        Raises:
            ConfigurationError: The splits would differ from one configuration to the next, or an argument is wrong.
            SearchSpaceError: The space is not of Optuna's distributions.
            ValueError: Every configuration failed in every fold.
        """
        if isinstance(self.n_iter, bool) or not isinstance(self.n_iter, Integral) or self.n_iter < 1:
            raise ConfigurationError(f"n_iter must be a whole number of at least 1, got {self.n_iter!r}")
        # Splits that are listed are the same each time, and a generator gives them once: scikit-learn takes them.
        listed = isinstance(self.cv, Iterable) and not hasattr(self.cv, "split")
        if not (listed or _yields_constant_splits(check_cv(self.cv, y, classifier=is_classifier(self.estimator)))):
            raise ConfigurationError(
                f"expected splits that are the same for every configuration, got {self.cv!r}: give it a random_state"
            )
        self._require_one_score()
        super().fit(X, y, **params)
        return self

    def _run_search(self, evaluate_candidates: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        sampler = PolicySampler(self.policy, past=self.past, space=self.space, budget=self.n_iter, seed=seed)
        failed: dict[int, str] = {}
        results: dict[str, Any] = {}
        self._folds: list[dict[str, Any]] = []
        with quiet_optuna():
            self.study_ = optuna.create_study(direction="maximize", sampler=sampler)
            for number in range(self._affordable()):
                trial = self.study_.ask(dict(self.space))
                try:
                    results = evaluate_candidates([dict(trial.params)])
                except ValueError as error:
                    if (why := self._why_all_failed(error)) is None:
                        raise
                    failed[number] = why
                self._tell(trial, np.nan if number in failed else self._last_score(results))
        if failed:
            # In place: scikit-learn goes on with this dictionary.
            results.update(self._with_failed(failed))
        del self._folds

    def _tell(self, trial: Trial, score: float) -> None:
        failed = not np.isfinite(score)
        self.study_.tell(trial, None if failed else score, TrialState.FAIL if failed else None)

    def _last_score(self, results: Mapping[str, Any]) -> float:
        return float(results[f"mean_test_{self._counts()}"][-1])

    def _format_results(self, candidate_params: Any, n_splits: int, out: Any, more_results: Any = None) -> Any:
        # scikit-learn gives `_run_search` the results alone; `_with_failed` needs the folds that they are made of. How
        # many there are scikit-learn below 1.9 does not keep before the end of the search.
        self._folds, self._splits = out, n_splits
        return super()._format_results(candidate_params, n_splits, out, more_results)

    def _why_all_failed(self, error: ValueError) -> str | None:
        """What scikit-learn says of a configuration that failed in every fold; None for an error that ends the search.

        It sees one configuration at a time here, and takes one that failed for a search that failed.
        """
        heading, _, details = str(error).partition(_DETAILS)
        said = _ALL_FAILED.match(heading)
        if self.error_score == "raise" or said is None:
            return None
        self._splits = int(said[1])
        return details.removeprefix(_SAME_ERROR.format(self._splits))

    def _with_failed(self, failed: Mapping[int, str]) -> dict[str, Any]:
        """The results of all configurations, also of those that failed in every fold.

        Args:
            failed: Why they failed, by the trial's number.

        Raises:
            ValueError: All of them failed; scikit-learn's own.
        """
        worked = iter(self._folds)
        # Its folds tell what there is to say of one, such as the names of scores. None worked: what failed will do.
        example = self._folds[: self._splits] or [{}] * self._splits
        folds: list[dict[str, Any]] = []
        for number in range(len(self.study_.trials)):
            if number in failed:
                folds += [_failed_fold(fold, self.error_score, failed[number]) for fold in example]
            else:
                folds += islice(worked, self._splits)
        _warn_or_raise_about_fit_failures(folds, self.error_score)
        return dict(self._format_results([dict(trial.params) for trial in self.study_.trials], self._splits, folds))

    def _counts(self) -> str:
        """The name of the score that is maximised."""
        scores = self._folds[0]["test_scores"]
        names = list(scores) if isinstance(scores, dict) else ["score"]
        return names[0] if len(names) == 1 else self._named_by_refit(names)

    def _named_by_refit(self, names: Sequence[str]) -> str:
        if not isinstance(self.refit, str) or self.refit not in names:
            raise ConfigurationError(
                f"expected `refit` to name the score that counts, out of {', '.join(names)}, got {self.refit!r}"
            )
        return self.refit

    def _require_one_score(self) -> None:
        """What several scores are called is known before any of them, unless a function gives them."""
        if isinstance(self.scoring, Collection) and not isinstance(self.scoring, str) and len(self.scoring) > 1:
            self._named_by_refit([str(name) for name in self.scoring])

    def _affordable(self) -> int:
        """How many configurations are tried: splits are the same each time, so that none is worth to be tried twice."""
        there_are = math.prod(_count(each) for each in self.space.values())
        if there_are < self.n_iter:
            warnings.warn(
                f"the search space has {there_are:g} configurations, fewer than n_iter={self.n_iter}: each is tried "
                "once",
                stacklevel=2,
            )
        return min(self.n_iter, int(there_are)) if there_are < math.inf else self.n_iter


def _count(values: BaseDistribution) -> float:
    """How many values a hyperparameter has."""
    if values.single():
        return 1
    if isinstance(values, CategoricalDistribution):
        return len(values.choices)
    step = getattr(values, "step", None)
    assert isinstance(values, FloatDistribution | IntDistribution)
    return math.inf if step is None else round((values.high - values.low) / step) + 1


def _failed_fold(example: Mapping[str, Any], error_score: float | str, why: str) -> dict[str, Any]:
    """A fold that failed, as scikit-learn notes it; the time that it took is not known."""
    scores = {
        key: dict.fromkeys(found, error_score) if isinstance(found, dict) else error_score
        for key, found in example.items()
        if key in ("test_scores", "train_scores")
    }
    return {**example, **scores, "fit_time": np.nan, "score_time": 0.0, "fit_error": why}
