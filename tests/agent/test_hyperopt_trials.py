"""What the guest of hyperopt makes of odd but legal trials, spaces and ways to go on."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

import metatuner as mt
import numpy as np
import pytest
from hyperopt import JOB_STATE_ERROR, JOB_STATE_RUNNING, STATUS_OK, Trials, fmin, hp
from hyperopt.base import Domain
from metatuner.envs.errors import UnknownPolicyError


def searched(
    objective: Callable[..., Any], space: Any, evals: int, trials: Trials | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Values by label of all trials so far."""
    trials = Trials() if trials is None else trials
    given = {"algo": mt.hyperopt_suggest, "rstate": np.random.default_rng(0), "show_progressbar": False, **options}
    fmin(objective, space, max_evals=evals, trials=trials, verbose=False, **given)
    vals = [document["misc"]["vals"] for document in trials._dynamic_trials]
    return [{label: found[0] for label, found in each.items() if len(found)} for each in vals]


def test_trials_that_raise_are_learnt_from() -> None:
    def fragile(config: dict[str, float]) -> float:
        if config["x"] > 0.5:
            raise ValueError("too large")
        return config["x"]

    trials = Trials()
    space = {"x": hp.uniform("x", 0, 1), "y": hp.uniform("y", 0, 1)}
    searched(fragile, space, 20, trials, catch_eval_exceptions=True)
    raised = sum(document["state"] == JOB_STATE_ERROR for document in trials._dynamic_trials)
    assert 0 < raised < 7


def test_another_space_policy_or_past_counts_from_then_on() -> None:
    trials = Trials()
    searched(lambda config: config["x"], {"x": hp.uniform("x", 0, 1)}, 6, trials)
    moved = searched(lambda config: config["x"], {"x": hp.uniform("x", -10, -5)}, 10, trials)
    assert all(-10 <= each["x"] <= -5 for each in moved[6:])
    grown = {"x": hp.uniform("x", -10, -5), "y": hp.uniform("y", 0, 1)}
    assert all("y" in each for each in searched(lambda config: config["x"] + config["y"], grown, 12, trials)[10:])
    unknown = functools.partial(mt.hyperopt_suggest, policy="no-such-policy")
    with pytest.raises(UnknownPolicyError):
        searched(lambda config: config["x"], grown, 14, trials, algo=unknown)


def test_trials_of_an_option_that_is_gone_are_left_out() -> None:
    def objective(config: dict[str, Any]) -> float:
        return float(config["x"] + {"a": 2, "b": 1, "c": 0}[config["kind"]])

    trials = Trials()
    searched(objective, {"x": hp.uniform("x", 0, 1), "kind": hp.choice("kind", ["a", "b", "c"])}, 10, trials)
    trials = pickle.loads(pickle.dumps(trials))
    fewer = {"x": hp.uniform("x", 0, 1), "kind": hp.choice("kind", ["a", "b"])}
    assert {each["kind"] for each in searched(objective, fewer, 16, trials)[10:]} <= {0, 1}


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (hp.quniform("x", low=0, high=1, q=0.25), {0, 0.25, 0.5, 0.75, 1}),
        (hp.randint("x", low=3, high=6), {3, 4, 5}),
        (hp.uniformint("x", 1, 4), {1, 2, 3, 4}),
        (hp.qloguniform("x", low=-3, high=2, q=2), {0, 2, 4, 6, 8}),
        (hp.qlognormal("x", mu=0, sigma=0.5, q=1), set(range(6))),
        (hp.qnormal("x", mu=10, sigma=1, q=2), {8, 10, 12}),
    ],
)
def test_whole_numbers_are_tried_once_each_and_arguments_may_be_named(distribution: Any, values: set[float]) -> None:
    tried = [each["x"] for each in searched(lambda config: abs(config["x"] - 1), {"x": distribution}, len(values) - 1)]
    assert len(set(tried)) == len(tried) and set(tried) <= values


def test_a_random_seed_is_no_choice_of_a_hundred_thousand_options() -> None:
    space = {"seed": hp.randint("seed", 100_000), "x": hp.uniform("x", 0, 1)}
    tried = searched(lambda config: config["x"], space, 8)
    assert all(0 <= each["seed"] < 100_000 for each in tried)


def test_a_trial_that_ends_after_later_ones_is_learnt() -> None:
    domain = Domain(lambda config: config["x"], {"x": hp.uniform("x", 0, 1)})
    trials = Trials()

    def ask(seed: int) -> int:
        [number] = trials.new_trial_ids(1)
        trials.insert_trial_docs(mt.hyperopt_suggest([number], domain, trials, seed))
        trials.refresh()
        trials._dynamic_trials[-1]["state"] = JOB_STATE_RUNNING
        return number

    def end(number: int) -> None:
        document = trials._dynamic_trials[number]
        document["state"] = 2
        document["result"] = {"loss": (document["misc"]["vals"]["x"][0] - 0.1) ** 2, "status": STATUS_OK}
        trials.refresh()

    for number in range(8):
        ask(number)
    for late in (*range(1, 8), 0):
        end(late)
        ask(late)
    # The one that ended last is known as well: nothing is tried twice, and what comes is near the best.
    latest = [trials._dynamic_trials[ask(20 + i)]["misc"]["vals"]["x"][0] for i in range(3)]
    assert len({document["misc"]["vals"]["x"][0] for document in trials._dynamic_trials}) == len(trials._dynamic_trials)
    assert min(abs(each - 0.1) for each in latest) < 0.1
