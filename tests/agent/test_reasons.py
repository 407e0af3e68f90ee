from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import metatuner as mt
import optuna
import pandas as pd
import pytest
from metatuner.agent.policy_sampler import PolicySampler
from metatuner.envs.records import NullRecorder, Proposal
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial

SPACE = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}


def bowl(config: dict[str, float]) -> float:
    return (config["x"] - 0.2) ** 2 + (config["y"] - 0.7) ** 2


def curve(config: dict[str, float]) -> Iterator[float]:
    for epoch in range(1, 17):
        yield bowl(config) + 0.2 / epoch


def whys(trials: list[FrozenTrial]) -> list[str]:
    found = [trial.user_attrs["metatuner:why"] for trial in trials]
    return [f"{why['source']}: {why['words']}" for why in found]


def kinds(trials: list[FrozenTrial]) -> list[str]:
    return [trial.user_attrs["metatuner:why"]["source"] for trial in trials]


@pytest.fixture(scope="module")
def past() -> optuna.Study:
    return mt.tune(bowl, SPACE, 30, strategy="random", recorder=NullRecorder(), seed=1).study


def test_without_a_past_it_begins_with_a_design_and_then_reasons() -> None:
    found = kinds(mt.tune(bowl, SPACE, 12, recorder=NullRecorder(), seed=0).trials)
    assert found[:5] == ["design"] * 5
    assert set(found[5:]) <= {"surrogate", "adjustment", "exploration"}


def test_with_a_past_it_is_the_prior_that_begins(past: optuna.Study) -> None:
    trials = mt.tune(bowl, SPACE, 2, past=[past], recorder=NullRecorder(), seed=0).trials
    assert kinds(trials)[0] == "prior"


def test_past_tasks_that_speak_for_it_are_named() -> None:
    """By the names of their studies; what Optuna had to name has none."""

    def told(name: str | None, at: float, seed: int = 0) -> optuna.Study:
        study = optuna.create_study(study_name=name, sampler=optuna.samplers.RandomSampler(seed=seed))
        study.optimize(lambda trial: (trial.suggest_float("x", 0, 1) - at) ** 2 + trial.suggest_float("y", 0, 1), 20)
        return study

    past = [told("near", 0.3), told(None, 0.3, seed=1), told("far", 0.9)]
    first, *_ = whys(mt.tune(bowl, SPACE, 2, past=past, recorder=NullRecorder(), seed=0).trials)
    assert re.fullmatch(r"prior: past tasks agree on it \(most by near \+\d\.\d\d\), and nothing is known .*", first)
    few = [told("near", 0.3), told("nearer", 0.25)]
    first, *_ = whys(mt.tune(bowl, SPACE, 2, past=few, recorder=NullRecorder(), seed=0).trials)
    assert re.search(r"\(most by (near \+\S+ and nearer|nearer \+\S+ and near) \+", first)


def test_where_past_tasks_had_no_say_that_is_told() -> None:
    """A single past task is as likely to mislead as not: a part of the budget is spent without it."""
    inverted = mt.tune(lambda config: -bowl(config), SPACE, 30, strategy="random", recorder=NullRecorder()).study
    told = whys(mt.tune(bowl, SPACE, 12, past=[inverted], recorder=NullRecorder(), seed=0).trials)
    without = [why.endswith("; past tasks, which may mislead, had no say") for why in told]
    assert not any(without[:3]) and sum(without) >= 3
    assert not any("by past tasks" in why for why, doubted in zip(told, without, strict=True) if doubted)


def test_what_the_user_gives_is_given_and_learnt_from_as_it_is() -> None:
    trials = mt.tune(bowl, SPACE, 3, configs=[{"x": 0.9, "y": 0.1}, {"x": 0.5}], recorder=NullRecorder(), seed=0).trials
    assert kinds(trials) == ["given", "given", "design"]
    assert trials[0].params == {"x": 0.9, "y": 0.1}
    assert trials[1].params["x"] == 0.5


def test_a_given_training_may_be_stopped_early() -> None:
    """It is known by the configuration that it has, not by one that would have been proposed."""
    worst = {"x": 1.0, "y": 0.0}
    trials = mt.tune(curve, SPACE, 4, units=16, configs=[worst], recorder=NullRecorder(), seed=0).trials
    assert trials[0].params == worst
    assert trials[0].state is optuna.trial.TrialState.PRUNED


def test_a_continuation_names_its_trial() -> None:
    trials = mt.tune(curve, SPACE, 5, units=16, recorder=NullRecorder(), seed=0).trials
    continued = [trial for trial in trials if "metatuner:continues" in trial.user_attrs]
    assert continued
    for trial in continued:
        (why,) = whys([trial])
        assert why.startswith(f"continuation: trial {trial.user_attrs['metatuner:continues']} ")


def test_optuna_has_it_too() -> None:
    study = optuna.create_study(sampler=PolicySampler(space=SPACE, seed=0))
    study.optimize(lambda trial: bowl({name: trial.suggest_float(name, 0, 1) for name in SPACE}), n_trials=2)
    assert kinds(study.trials) == ["design", "design"]


def test_mlflow_shows_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = mt.tune(bowl, SPACE, 2, tracking_uri=uri, seed=0)
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "metatuner"]
    runs = client.search_runs([experiment.experiment_id], "tags.`metatuner.why` LIKE 'design:%'")
    assert len(runs) == 2
    assert whys(result.trials) == [run.data.tags["metatuner.why"] for run in reversed(runs)]


def test_other_strategies_give_no_reasons() -> None:
    seen: list[Proposal] = []

    class Listening:
        def record(self, record: object, /) -> None:
            if isinstance(record, Proposal):
                seen.append(record)

    mt.tune(bowl, SPACE, 2, strategy="random", recorder=Listening(), seed=0)
    assert seen == []


def asks(trial: optuna.Trial) -> float:
    return bowl({name: trial.suggest_float(name, 0, 1) for name in SPACE})


def tags(uri: str) -> list[str]:
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "metatuner"]
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    return [run.data.tags["metatuner.why"] for run in runs if "metatuner.why" in run.data.tags]


def test_an_objective_that_asks_for_its_hyperparameters_is_told_too(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    trials = mt.tune(asks, None, 3, tracking_uri=uri, seed=0).trials
    assert kinds(trials)[0] == "chance"
    assert "not known" in whys(trials)[0]
    assert tags(uri) == whys(trials)


def test_a_study_that_is_recorded_afterwards_keeps_its_reasons(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    study = optuna.create_study(sampler=PolicySampler(space=SPACE, seed=0))
    study.optimize(asks, n_trials=2)
    mt.record_study(study, uri)
    assert tags(uri) == whys(study.trials)


def test_a_table_tells_every_proposal_with_its_figures(tmp_path: Path, past: optuna.Study) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = mt.tune(bowl, SPACE, 6, tracking_uri=uri, past=[past], seed=0)
    assert result.run_id is not None
    table = pd.read_csv(MlflowClient(uri).download_artifacts(result.run_id, "decisions.csv", str(tmp_path)))
    assert list(table["trial"]) == list(range(6))
    assert list(table["source"] + ": " + table["words"]) == whys(result.trials)
    assert list(table["value"]) == [trial.value for trial in result.trials]
    assert list(table["hp/x"]) == [trial.params["x"] for trial in result.trials]
    later = table[table["source"].isin(["prior", "surrogate"])].iloc[1:]
    assert (later["foretold/by_past"] + later["foretold/by_trials"] > 0).all()
    for trial, told in zip(result.trials, table.to_dict("records"), strict=True):
        for name, value in trial.user_attrs.get("metatuner:foretold", {}).items():
            assert told[f"foretold/{name}"] == value


def test_a_table_of_a_study_that_goes_on_has_all_its_trials(tmp_path: Path) -> None:
    uri, storage = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "study.journal")
    for budget in (6, 8):
        result = mt.tune(bowl, SPACE, budget, tracking_uri=uri, storage=storage, name="s", seed=0)
    assert result.run_id is not None
    table = pd.read_csv(MlflowClient(uri).download_artifacts(result.run_id, "decisions.csv", str(tmp_path)))
    assert list(table["source"] + ": " + table["words"]) == whys(result.trials)
