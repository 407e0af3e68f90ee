"""The learned search in scikit-learn: a search with cross-validation, as `GridSearchCV` is one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import TrialState
from sklearn.base import BaseEstimator, is_classifier
from sklearn.model_selection import check_cv
from sklearn.model_selection._search import BaseSearchCV
from sklearn.model_selection._split import _yields_constant_splits
from sklearn.utils import check_random_state

from ..envs.errors import ConfigurationError
from .policy_sampler import PolicySampler
from .quiet import quiet_optuna
from .search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy


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
        error_score: As for `GridSearchCV`.
        return_train_score: As for `GridSearchCV`.
        policy: A policy, a shipped one's name, a folder, or an address.
        past: Optuna studies of past tasks with at least half of this space, with scores as their values.

    Attributes:
        study_: The Optuna study of the search.

    Raises:
        ConfigurationError: When it is fitted: the splits differ each time, or several scores have no `refit`.
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
            ConfigurationError: The splits would differ from one configuration to the next.
        """
        if not _yields_constant_splits(check_cv(self.cv, y, classifier=is_classifier(self.estimator))):
            raise ConfigurationError(
                f"expected splits that are the same for every configuration, got {self.cv!r}: give it a random_state"
            )
        super().fit(X, y, **params)
        return self

    def _run_search(self, evaluate_candidates: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        sampler = PolicySampler(self.policy, past=self.past, space=self.space, budget=self.n_iter, seed=seed)
        with quiet_optuna():
            self.study_ = optuna.create_study(direction="maximize", sampler=sampler)
            for _ in range(self.n_iter):
                trial = self.study_.ask(dict(self.space))
                results = evaluate_candidates([dict(trial.params)])
                score = float(results[f"mean_test_{self._counts(results)}"][-1])
                failed = not np.isfinite(score)
                self.study_.tell(trial, None if failed else score, TrialState.FAIL if failed else None)

    def _counts(self, results: Mapping[str, Any]) -> str:
        """The name of the score that is maximised."""
        if "mean_test_score" in results:
            return "score"
        if not isinstance(self.refit, str):
            raise ConfigurationError(
                f"expected `refit` to name the score that counts, one of several, got {self.refit!r}"
            )
        return self.refit
