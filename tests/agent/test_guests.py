"""The learned search as a guest of hyperopt and of scikit-learn."""

from __future__ import annotations

import functools
import math
import pickle
import re
import warnings
from collections import Counter
from typing import Any

import metatuner as mt
import numpy as np
import optuna
import pytest
from hyperopt import STATUS_FAIL, STATUS_OK, Trials, fmin, hp, rand, space_eval
from metatuner.envs.errors import ConfigurationError, SearchSpaceError
from metatuner.envs.records import StudyStarted
from metatuner.tracking.optuna_study import records
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import FitFailedWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.estimator_checks import check_estimator

SPACE = {
    "model": hp.choice(
        "model",
        [{"kind": "smooth", "u": hp.uniform("u", 0, 1)}, {"kind": "steps", "q": hp.quniform("q", 0, 10, 2)}],
    ),
    "p": hp.pchoice("p", [(0.1, 1.0), (0.9, hp.lognormal("ln", 0, 1))]),
    "n": hp.normal("n", 0, 2),
    "qn": hp.qnormal("qn", 0, 2, 1),
    "r": hp.randint("r", 5),
    "r2": hp.randint("r2", 2, 7),
    "i": hp.uniformint("i", 1, 9),
    "lq": hp.qloguniform("lq", 0, 3, 1),
    "ql": hp.qlognormal("ql", 0, 1, 0.5),
    "lu": hp.loguniform("lu", -5, 0),
}


def loss(config: dict[str, Any]) -> float:
    model = config["model"]
    found = (model["u"] - 0.3) ** 2 if model["kind"] == "smooth" else 0.3 + (model["q"] - 4) ** 2 / 10
    return float(found + 0.1 * config["p"] + (config["n"] - 1) ** 2 + (config["r"] - 3) ** 2 + 0.1 * config["i"])


def searched(algo: Any, seed: int, evals: int = 40, trials: Any = None, objective: Any = loss) -> Any:
    trials = Trials() if trials is None else trials
    fmin(
        objective,
        SPACE,
        algo=algo,
        max_evals=evals,
        trials=trials,
        rstate=np.random.default_rng(seed),
        show_progressbar=False,
        verbose=False,
    )
    return trials


def test_in_hyperopt_it_handles_nested_choices_and_every_distribution() -> None:
    trials = searched(mt.hyperopt_suggest, seed=0)
    assert len(trials) == 40
    for document in trials.trials:
        values = {label: found[0] for label, found in document["misc"]["vals"].items() if found}
        # Only what the chosen branch asks for has a value.
        assert ("u" in values) == (values["model"] == 0) and ("q" in values) == (values["model"] == 1)
        assert ("ln" in values) == (values["p"] == 1)
        assert values["i"] in range(1, 10) and values["r2"] in range(2, 7) and values["lq"] == round(values["lq"])
        assert math.exp(-5) <= values["lu"] <= 1
        space_eval(SPACE, values)


def test_in_hyperopt_it_beats_random_search() -> None:
    best = {
        algo: np.median([min(searched(algo, seed).losses()) for seed in range(3)])
        for algo in (mt.hyperopt_suggest, rand.suggest)
    }
    assert best[mt.hyperopt_suggest] < best[rand.suggest]


def test_in_hyperopt_it_learns_from_trials_of_others_and_from_failures() -> None:
    def fragile(config: dict[str, Any]) -> dict[str, Any]:
        return {"loss": loss(config), "status": STATUS_FAIL if config["r"] == 0 else STATUS_OK}

    trials = searched(rand.suggest, seed=0, evals=20, objective=fragile)
    searched(mt.hyperopt_suggest, seed=0, evals=40, trials=trials, objective=fragile)
    assert len(trials) == 40
    ours = [document["misc"]["vals"]["r"][0] for document in trials.trials[20:]]
    assert Counter(ours)[0] <= 4


def test_in_hyperopt_past_studies_help() -> None:
    past = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    past.optimize(lambda trial: (trial.suggest_float("x", 0, 1) - 0.2) ** 2, n_trials=30)
    trials = Trials()
    fmin(
        lambda x: (x - 0.22) ** 2,
        hp.uniform("x", 0, 1),
        algo=functools.partial(mt.hyperopt_suggest, past=[past]),
        max_evals=1,
        trials=trials,
        show_progressbar=False,
        rstate=np.random.default_rng(0),
    )
    assert trials.losses()[0] < 0.01


def test_in_hyperopt_the_same_seed_proposes_the_same() -> None:
    runs = [searched(mt.hyperopt_suggest, seed, evals=12).losses() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_a_distribution_that_is_not_known_is_named() -> None:
    odd = hp.uniform("x", 0, hp.uniform("y", 1, 2))
    with pytest.raises((SearchSpaceError, AttributeError)):
        fmin(lambda x: x, odd, algo=mt.hyperopt_suggest, max_evals=1, show_progressbar=False)


def test_the_readers_first_program_with_hyperopt() -> None:
    """A random forest by `fmin`, changed in `algo` alone (and shorter)."""
    X, y = make_classification(n_samples=1000, n_features=20, n_informative=2, n_redundant=10, random_state=0)  # noqa: N806

    def objective(params: dict[str, Any]) -> dict[str, Any]:
        accuracy = cross_val_score(RandomForestClassifier(random_state=0, **params), X, y, cv=3).mean()
        return {"loss": -accuracy, "status": STATUS_OK}

    space = {
        "n_estimators": hp.choice("n_estimators", range(10, 200)),
        "max_depth": hp.choice("max_depth", range(1, 10)),
        "min_samples_split": hp.choice("min_samples_split", range(2, 10)),
    }
    trials = Trials()
    best = fmin(
        objective,
        space,
        algo=mt.hyperopt_suggest,
        max_evals=4,
        trials=trials,
        rstate=np.random.default_rng(0),
        show_progressbar=False,
    )
    assert set(best) == set(space)
    assert min(trials.losses()) < -0.7


def test_in_scikit_learn_it_searches_refits_and_pickles() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806
    space = {"max_depth": IntDistribution(1, 9), "min_samples_split": IntDistribution(2, 9)}
    forest = RandomForestClassifier(n_estimators=10, random_state=0)
    search = mt.PolicySearchCV(
        forest, space, n_iter=6, cv=3, random_state=0, scoring=["accuracy", "f1_macro"], refit="f1_macro"
    ).fit(X, y)
    assert search.best_score_ == search.cv_results_["mean_test_f1_macro"].max()
    assert len(search.cv_results_["params"]) == len(search.study_.trials) == 6
    assert (pickle.loads(pickle.dumps(search)).predict(X) == search.predict(X)).all()
    again = mt.PolicySearchCV(forest, space, n_iter=6, cv=3, random_state=0, scoring="f1_macro").fit(X, y)
    assert again.cv_results_["params"] == search.cv_results_["params"]
    more = mt.PolicySearchCV(forest, space, n_iter=2, cv=3, random_state=0, past=[search.study_]).fit(X, y)
    assert more.best_score_ >= search.cv_results_["mean_test_f1_macro"].mean()


def test_in_scikit_learn_splits_must_be_the_same() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806
    search = mt.PolicySearchCV(
        DecisionTreeClassifier(), {"max_depth": IntDistribution(1, 3)}, cv=KFold(3, shuffle=True)
    )
    with pytest.raises(ConfigurationError, match="random_state"):
        search.fit(X, y)
    several = mt.PolicySearchCV(
        DecisionTreeClassifier(), {"max_depth": IntDistribution(1, 3)}, scoring=["accuracy", "f1_macro"], refit=False
    )
    with pytest.raises(ConfigurationError, match="name the score"):
        several.fit(X, y)


def test_in_scikit_learn_a_score_may_be_called_score_and_one_in_a_list_needs_no_name() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806
    scoring: Any = {"score": lambda tree, *_: -float(tree.get_depth()), "depth": lambda tree, *_: tree.get_depth()}
    space = {"max_depth": IntDistribution(1, 4), "min_samples_leaf": IntDistribution(1, 20)}
    settings: dict[str, Any] = {"n_iter": 4, "random_state": 0, "cv": 2}
    search = mt.PolicySearchCV(DecisionTreeClassifier(), space, scoring=scoring, refit="depth", **settings).fit(X, y)
    assert [trial.value for trial in search.study_.trials] == list(search.cv_results_["mean_test_depth"])
    alone = mt.PolicySearchCV(DecisionTreeClassifier(), space, scoring=["accuracy"], refit=False, **settings).fit(X, y)
    assert [trial.value for trial in alone.study_.trials] == list(alone.cv_results_["mean_test_accuracy"])
    named: Any = {"scoring": accuracy_and_depth, "refit": "zzz"}
    with pytest.raises(ConfigurationError, match="out of accuracy, depth, got 'zzz'"):
        mt.PolicySearchCV(DecisionTreeClassifier(), space, **named, **settings).fit(X, y)


@pytest.mark.filterwarnings("ignore:Choices for a categorical")
def test_in_scikit_learn_a_small_space_is_tried_once_and_estimators_are_choices() -> None:
    X, y = load_iris(return_X_y=True)  # noqa: N806
    choices = CategoricalDistribution([DecisionTreeClassifier(max_depth=1), DecisionTreeClassifier(max_depth=3)])
    search = mt.PolicySearchCV(Pipeline([("c", choices.choices[0])]), {"c": choices}, n_iter=9, random_state=0)
    with pytest.warns(UserWarning, match="has 2 configurations, fewer than n_iter=9"):
        search.fit(X, y)
    assert len(search.cv_results_["params"]) == 2 and search.best_params_["c"].max_depth == 3
    (started, *_) = records(search.study_)
    assert isinstance(started, StudyStarted) and "max_depth=3" in started.space["c"]


def depths(scores: str | None, lowest: int = -3, highest: int = 9, **settings: Any) -> mt.PolicySearchCV:
    """A search for a tree's depth, where one below 1 fails in every fold: by one score, or by several."""
    scoring: Any = {"list": ["accuracy", "f1_macro"], "function": accuracy_and_depth}.get(scores or "")
    return mt.PolicySearchCV(
        DecisionTreeClassifier(random_state=0),
        {"max_depth": IntDistribution(lowest, highest)},
        n_iter=8,
        cv=3,
        random_state=0,
        scoring=scoring,
        refit="accuracy" if scoring else True,
        **settings,
    )


def accuracy_and_depth(tree: Any, X: Any, y: Any) -> dict[str, float]:  # noqa: N803 - scikit-learn's name
    return {"accuracy": float(tree.score(X, y)), "depth": float(tree.get_depth())}


def its_own(search: mt.PolicySearchCV) -> GridSearchCV:
    """scikit-learn's search among the depths that a search tried, in this order."""
    grid = [{"max_depth": [trial.params["max_depth"]]} for trial in search.study_.trials]
    names = ("cv", "scoring", "refit", "error_score", "return_train_score")
    return GridSearchCV(search.estimator, grid, **{name: getattr(search, name) for name in names})


def fitted(search: Any) -> list[tuple[type[Warning], str]]:
    """Fits a search; what it warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search.fit(*load_iris(return_X_y=True))
    return [(each.category, without_lines(each.message)) for each in caught]


def without_lines(message: object) -> str:
    """A message with tracebacks, without the numbers of lines: scikit-learn fits in two places."""
    return re.sub(r"line \d+", "line", str(message))


@pytest.mark.parametrize("error_score", [np.nan, 0.0])
@pytest.mark.parametrize("scores", [None, "list", "function"])
def test_in_scikit_learn_what_fails_does_not_end_the_search(scores: str | None, error_score: float) -> None:
    search = depths(scores, error_score=error_score, return_train_score=True)
    warned = fitted(search)
    worked = [trial.params["max_depth"] >= 1 for trial in search.study_.trials]
    assert {True, False} == set(worked)
    states = [TrialState.COMPLETE if each else TrialState.FAIL for each in worked]
    assert [trial.state for trial in search.study_.trials] == states
    assert search.best_params_["max_depth"] >= 1
    assert search.best_score_ == max(trial.value for trial in search.study_.trials if trial.value is not None)
    theirs = its_own(search)
    assert fitted(theirs) == warned
    assert FitFailedWarning in [category for category, _ in warned]
    assert search.cv_results_.keys() == theirs.cv_results_.keys()
    for key, found in search.cv_results_.items():
        if "_time" not in key:
            np.testing.assert_array_equal(found, theirs.cv_results_[key], err_msg=key)
    assert search.best_index_ == theirs.best_index_
    assert (np.isfinite(search.cv_results_["mean_fit_time"]) == worked).all()
    assert len(pickle.loads(pickle.dumps(search)).cv_results_["params"]) == 8


@pytest.mark.parametrize("scores", [None, "list", "function"])
def test_in_scikit_learn_a_search_where_all_fails_is_scikit_learns_error(scores: str | None) -> None:
    search = depths(scores, highest=-1)
    with pytest.raises(ValueError, match="All the 9 fits failed") as ours:
        fitted(search)
    assert [trial.state for trial in search.study_.trials] == [TrialState.FAIL] * 3  # there are no more
    with pytest.raises(ValueError, match="All the 9 fits failed") as theirs:
        fitted(its_own(search))
    assert without_lines(ours.value) == without_lines(theirs.value)


def test_in_scikit_learn_an_error_is_raised_where_one_asks_for_it() -> None:
    with pytest.raises(InvalidParameterError, match="max_depth"):
        fitted(depths(None, error_score="raise"))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"max_depth": [1, 2]}, r"'max_depth'.* got \[1, 2\]: give CategoricalDistribution\(\[1, 2\]\)"),
        ({"max_depth": "deep"}, "'max_depth'.* got 'deep': give one of optuna.distributions"),
        ([{"max_depth": IntDistribution(1, 2)}], "as a dict from names to Optuna's distributions.* give one dict"),
    ],
)
def test_in_scikit_learn_a_space_of_something_else_is_named(space: Any, message: str) -> None:
    search = mt.PolicySearchCV(DecisionTreeClassifier(), space, n_iter=2)
    with pytest.raises(SearchSpaceError, match=message):
        search.fit(*load_iris(return_X_y=True))


@pytest.mark.parametrize("past", [["x"], "x", None])
def test_a_past_of_something_else_is_named(past: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected past"):
        mt.PolicySampler(past=past)


@pytest.mark.parametrize(("estimator", "name"), [(LogisticRegression(), "C"), (Ridge(), "alpha")])
def test_scikit_learns_checks_pass_as_often_as_those_of_its_own_search(estimator: Any, name: str) -> None:
    def statuses(search: Any) -> Counter[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Counter(each["status"] for each in check_estimator(search, on_fail=None, on_skip=None))

    ours = mt.PolicySearchCV(estimator, {name: FloatDistribution(0.1, 1.0)}, n_iter=2, cv=2, random_state=0)
    assert statuses(ours) == statuses(GridSearchCV(estimator, {name: [0.1, 1.0]}, cv=2))


def test_in_scikit_learn_splits_may_come_from_a_generator() -> None:
    x, y = load_iris(return_X_y=True)
    space = {"max_depth": IntDistribution(1, 5)}
    splits = KFold(3, shuffle=True, random_state=0).split(x, y)
    found = mt.PolicySearchCV(DecisionTreeClassifier(random_state=0), space, n_iter=3, cv=splits).fit(x, y)
    assert found.best_score_ > 0.8
    for wrong in (0, 2.5, True):
        with pytest.raises(ConfigurationError, match="n_iter must be a whole number of at least 1"):
            mt.PolicySearchCV(DecisionTreeClassifier(), space, n_iter=wrong).fit(x, y)  # type: ignore[arg-type]
