from __future__ import annotations

from typing import Any

import pytest
from metatuner.envs.conditional_space import ConditionalSpace
from metatuner.envs.errors import ConfigurationError, SearchSpaceError
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

C, DEPTH, LR = FloatDistribution(0.1, 10.0, log=True), IntDistribution(2, 9), FloatDistribution(0.0, 1.0)
SPACE: dict[str, Any] = {
    "lr": LR,
    "model": {
        "svm": {"C": C, "kernel": {"rbf": {"gamma": LR}, "poly": {"gamma": LR, "degree": DEPTH}, "linear": {}}},
        "forest": {"depth": DEPTH, "C": C},
        None: {},
    },
}


def test_all_hyperparameters_are_known_with_their_conditions() -> None:
    space = ConditionalSpace(SPACE)
    assert space.distributions == {
        "lr": LR,
        "model": CategoricalDistribution(("svm", "forest", None)),
        "C": C,
        "kernel": CategoricalDistribution(("rbf", "poly", "linear")),
        "gamma": LR,
        "degree": DEPTH,
        "depth": DEPTH,
    }
    assert space.conditions == {
        "C": "model is 'svm' or model is 'forest'",
        "kernel": "model is 'svm'",
        "gamma": "kernel is 'rbf' or kernel is 'poly'",
        "degree": "kernel is 'poly'",
        "depth": "model is 'forest'",
    }


@pytest.mark.parametrize(
    ("choices", "active"),
    [
        ({"model": None}, ["lr", "model"]),
        ({"model": "forest"}, ["lr", "model", "depth", "C"]),
        ({"model": "svm", "kernel": "linear"}, ["lr", "model", "C", "kernel"]),
        ({"model": "svm", "kernel": "poly"}, ["lr", "model", "C", "kernel", "gamma", "degree"]),
    ],
)
def test_a_configuration_has_what_is_active(choices: dict[str, Any], active: list[str]) -> None:
    space = ConditionalSpace(SPACE)
    config = space.configuration(lambda name, each: choices.get(name, getattr(each, "low", None)))
    assert list(config) == active
    space.check(config, complete=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model": "forest", "kernel": "rbf"},
            "'kernel' is there only where model is 'svm': choose so, or leave it out",
        ),
        ({"C": 1.0}, "'C' is there only where model is 'svm' or model is 'forest'"),
        ({"model": "tree"}, "model='tree' is not in"),
        ({"model": "svm", "kernel": "rbf", "degree": 2}, "only where kernel is 'poly'"),
        ({"epochs": 3}, "no 'epochs': expected one of lr, model, C"),
        ({"model": ["svm"]}, "is not in"),
    ],
)
def test_what_does_not_fit_is_said(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ConditionalSpace(SPACE).check(config)


def test_parts_of_a_configuration_fit_unless_all_of_it_is_asked_for() -> None:
    space = ConditionalSpace(SPACE)
    for part in ({}, {"lr": 0.5}, {"model": "svm"}, {"model": "svm", "kernel": "poly", "degree": 3}):
        space.check(part)
    with pytest.raises(ConfigurationError, match="lacks 'C', 'kernel': give the whole configuration"):
        space.check({"lr": 0.5, "model": "svm"}, complete=True)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"m": {"a": {"x": LR}, "b": {"x": DEPTH}}}, "in one branch and IntDistribution.* in another"),
        ({"m": {"a": {"x": LR}}, "x": LR}, "'x' is in the space twice"),
        ({"x": LR, "m": {"a": {"x": LR}}}, "'x' is in the space twice"),
        ({"m": {"a": {"m": {"b": {}}}}}, "'m' is in the space twice"),
        ({"m": {"a": {"x": LR}}, "n": {"b": {"x": LR}}}, "'x' is in the space twice"),
        ({"m": {}}, "'m' has no choices"),
        ({"m": {"a": LR}}, "expected a dict with the hyperparameters that m='a' brings"),
        ({"m": {("a",): {}}}, r"choice \('a',\) \(tuple\): expected texts"),
    ],
)
def test_bad_spaces_are_refused(space: Any, message: str) -> None:
    with pytest.raises(SearchSpaceError, match=message):
        ConditionalSpace(space)
