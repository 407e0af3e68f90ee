"""One sampler in several studies, processes and ranges, and what trials do that it did not propose."""

from __future__ import annotations

import pickle
from typing import Any

import metatuner as mt
import optuna
import pytest
from metatuner.agent.reasons import Source
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import Trial

RANGE = {"x": FloatDistribution(-5, 5)}


def parabola(trial: Trial) -> float:
    return (trial.suggest_float("x", -5, 5) - 3) ** 2


@pytest.mark.parametrize("space", [None, RANGE])
def test_a_sampler_begins_anew_with_another_study(space: Any) -> None:
    sampler = mt.PolicySampler(seed=0, space=space)
    optuna.create_study(sampler=sampler).optimize(parabola, n_trials=10)
    other = optuna.create_study(sampler=sampler)
    other.optimize(lambda trial: (trial.suggest_float("x", -5, 5) + 3) ** 2, n_trials=15)
    assert other.best_value < 0.2
    assert sampler.why(0).source is (Source.CHANCE if space is None else Source.DESIGN)  # type: ignore[union-attr]


def test_a_sampler_that_was_pickled_goes_on_with_its_study() -> None:
    study = optuna.create_study(sampler=mt.PolicySampler(seed=0, space=RANGE))
    study.optimize(parabola, n_trials=6)
    copied = pickle.loads(pickle.dumps(study))
    for each in (study, copied):
        each.optimize(parabola, n_trials=3)
    assert [trial.params for trial in study.trials] == [trial.params for trial in copied.trials]


def test_values_are_learnt_where_they_were_found() -> None:
    # The objective asks for less than the space: what is out of its range is drawn at random by Optuna.
    wide = {"x": FloatDistribution(-50, 50)}
    sampler = mt.PolicySampler(seed=0, space=wide)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial({"x": 500.0})
    with pytest.warns(UserWarning, match="out of range"):
        study.optimize(parabola, n_trials=12)
    followed = sampler.followed(study)
    assert followed is not None
    followed.catch_up(study)
    learnt = {number: 100 * trial.point[0] - 50 for number, trial in followed.state.trials.items()}
    assert learnt == pytest.approx({trial.number: trial.params["x"] for trial in study.trials[1:]})


def test_a_conditional_space_is_known_after_a_restart() -> None:
    space = {"kind": CategoricalDistribution(["a", "b"]), "a": FloatDistribution(-5, 5), "b": FloatDistribution(-5, 5)}

    def objective(trial: Trial) -> float:
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return (trial.suggest_float("a", -5, 5) - 2) ** 2
        return 5 + (trial.suggest_float("b", -5, 5) + 1) ** 2

    study = optuna.create_study(sampler=mt.PolicySampler(seed=0, space=space))
    study.optimize(objective, n_trials=25)
    again = study.sampler = mt.PolicySampler(seed=1, space=space)
    study.optimize(objective, n_trials=6)
    reasons = [again.why(number) for number in range(25, 31)]
    assert all(reason is not None and reason.source is not Source.DESIGN for reason in reasons)


def test_trials_that_report_and_then_fail_do_not_end_the_study() -> None:
    def out_of_memory(trial: Trial) -> float:
        trial.report(trial.suggest_float("x", -5, 5) ** 2, 1)
        trial.should_prune()
        raise RuntimeError("out of memory")

    sampler = mt.PolicySampler(units=8, seed=0, space=RANGE)
    study = optuna.create_study(sampler=sampler, pruner=sampler.pruner())
    study.optimize(out_of_memory, n_trials=25, catch=(RuntimeError,))
    assert len(study.trials) == 25


def test_who_asks_twice_whether_to_stop_gets_one_answer() -> None:
    answers = []

    def curve(trial: Trial) -> float:
        x = trial.suggest_float("x", -5, 5)
        for unit in range(1, 9):
            trial.report(x * x + 1 / unit, unit)
            answers.append((trial.should_prune(), trial.should_prune()))
            if answers[-1][1]:
                raise optuna.TrialPruned
        return x * x

    sampler = mt.PolicySampler(units=8, budget=5, seed=0, space=RANGE)
    study = optuna.create_study(sampler=sampler, pruner=sampler.pruner())
    study.optimize(curve, n_trials=15)
    assert all(first == second for first, second in answers) and any(first for first, _ in answers)
