"""What `tune` makes of trials that are not like others: stopped at the very end, known before, or meddling."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import pytest
import torch
from metatuner.__main__ import main
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.records import NullRecorder
from mlflow import MlflowClient
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(-5, 5), "d": IntDistribution(1, 4)}


def final(config: Mapping[str, Any]) -> float:
    return float((config["x"] - 2) ** 2 + config["d"])


def train(config: Mapping[str, Any]) -> Iterator[float]:
    for epoch in range(1, 10):
        yield final(config) + 1 / epoch


@pytest.mark.parametrize("seed", range(4))
def test_a_training_that_has_run_to_its_end_was_not_stopped(seed: int) -> None:
    result = mt.tune(
        train,
        SPACE,
        15,
        strategy="asha",
        units=9,
        seed=seed,
        constraints=lambda config: {"big": config["x"] - 1},
        recorder=NullRecorder(),
    )
    whole = [trial for trial in result.trials if len(trial.intermediate_values) == 9]
    assert whole and {trial.state for trial in whole} == {TrialState.COMPLETE}
    assert result.best_value == min(trial.value for trial in whole if trial.params["x"] <= 1)  # type: ignore[type-var]


def test_a_known_trial_that_is_not_allowed_is_never_the_best_one() -> None:
    result = mt.tune(
        final,
        SPACE,
        3,
        strategy="random",
        known=[({"x": 2.0, "d": 1}, 0.001)],
        constraints=lambda config: {"a": config["x"] - 1},
        recorder=NullRecorder(),
    )
    assert result.best_config["x"] <= 1 and result.best_value > 0.001


def test_known_trials_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    known = [({"x": 2.0, "d": 1}, 0.001), ({"x": 1.0, "d": 2}, 3.0)]
    for _ in range(2):  # and once only, where the study goes on
        mt.tune(final, SPACE, 3, strategy="random", known=known, storage="a.journal", name="a", tracking_uri=uri)
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "metatuner"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1 + 3 + len(known)
    (study,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert study.data.metrics["best_value"] == 0.001
    capsys.readouterr()
    assert main(["doctor", "--study", "a", "--storage", "a.journal", "--tracking-uri", uri]) == 0
    assert "differ" not in capsys.readouterr().out


@pytest.mark.parametrize("value", ["1", True, np.True_, None])
def test_a_number_is_given_as_one(value: object) -> None:
    with pytest.raises(ConfigurationError, match="expected a number for x"):
        mt.tune(final, SPACE, 2, configs=[{"x": value, "d": 2}], recorder=NullRecorder())
    for fits in (1, np.float32(1), np.int64(1)):
        mt.tune(final, SPACE, 1, configs=[{"x": fits, "d": np.int64(2)}], recorder=NullRecorder())


def test_constraints_cannot_change_what_is_tried() -> None:
    def constraints(config: Any) -> dict[str, float]:
        config["x"] = 0.0
        return {"a": -1.0}

    seen: list[float] = []

    def objective(config: Mapping[str, Any]) -> float:
        seen.append(config["x"])
        return final(config)

    result = mt.tune(objective, SPACE, 2, strategy="random", constraints=constraints, recorder=NullRecorder())
    assert seen == [trial.params["x"] for trial in result.trials]


def test_hyperband_follows_from_its_seed_in_memory() -> None:
    found = [
        mt.tune(train, SPACE, 12, strategy="hyperband", units=9, seed=3, recorder=NullRecorder()).trials
        for _ in range(3)
    ]
    assert len({len(each) for each in found}) == 1
    assert [trial.params for trial in found[0]] == [trial.params for trial in found[1]]


@pytest.mark.parametrize("strategy", ["policy", "gp"])
def test_what_an_objective_leaves_behind_does_not_harm_who_proposes(strategy: str) -> None:
    def meddles(config: Mapping[str, Any]) -> float:
        np.seterr(all="raise")
        torch.set_grad_enabled(False)
        return final(config)

    result = mt.tune(meddles, SPACE, 13, strategy=strategy, seed=1, recorder=NullRecorder())
    assert {trial.state for trial in result.trials} == {TrialState.COMPLETE}
    assert torch.is_grad_enabled() and np.geterr()["under"] == "ignore"


@pytest.mark.parametrize("seed", range(3))
def test_a_training_that_goes_on_has_the_configuration_that_it_began_with(seed: int) -> None:
    def conditional(config: Mapping[str, Any]) -> Iterator[float]:
        for epoch in range(1, 7):
            yield abs(config["lr"] - 0.3) + (config["m"] if config["opt"] == "sgd" else 0.2) + 1 / epoch

    space: dict[str, Any] = {
        "lr": FloatDistribution(0, 1),
        "opt": {"sgd": {"m": FloatDistribution(0, 0.99)}, "adam": {}},
    }
    result = mt.tune(conditional, space, 12, units=6, seed=seed, recorder=NullRecorder())
    went_on = [trial for trial in result.trials if "metatuner:continues" in trial.user_attrs]
    assert any("m" in trial.params for trial in went_on)
    for trial in result.trials:
        curve = list(conditional(trial.params))
        assert list(trial.intermediate_values.values()) == curve[: len(trial.intermediate_values)]


@pytest.mark.parametrize(
    ("options", "more"),
    [({}, 0), ({}, 3), ({"strategy": "random"}, 0), ({"strategy": "random", "isolated": True}, 0)],
)
def test_what_comes_after_the_last_unit_is_done(options: dict[str, Any], more: int, tmp_path: Path) -> None:
    def saves(config: Mapping[str, Any]) -> Iterator[float]:
        try:
            for _ in range(4 + more):
                yield final(config)
            (tmp_path / f"{config['x']}.saved").touch()
        except GeneratorExit:
            (tmp_path / f"{config['x']}.closed").touch()
            raise

    result = mt.tune(saves, SPACE, 2, units=4, recorder=NullRecorder(), seed=0, **options)
    complete = [trial for trial in result.trials if trial.state is TrialState.COMPLETE]
    assert {len(trial.intermediate_values) for trial in complete} == {4}
    ended = "closed" if more else "saved"
    assert {f"{trial.params['x']}.{ended}" for trial in complete} <= {file.name for file in tmp_path.iterdir()}
    assert bool(list(tmp_path.glob("*.saved"))) == (not more)


def test_an_isolated_trial_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / "alone.py").write_text(
        "import os, time\nfrom optuna.distributions import FloatDistribution\nspace = {'x': FloatDistribution(0, 1)}\n"
        "def train(config):\n    open('pid', 'w').write(str(os.getpid()))\n    time.sleep(600)\n"
    )
    command = [sys.executable, "-m", "metatuner", "tune", "alone.py:train", "--isolated", "--strategy", "random"]
    parent = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = _told(tmp_path / "pid")
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and " Z " not in Path(f"/proc/{pid}/stat").read_text():
        assert time.monotonic() < deadline, "it goes on"
        time.sleep(0.1)


def test_ctrl_c_twice_ends_a_study_of_several_workers(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nimport metatuner as mt\nfrom metatuner.envs.records import NullRecorder\n"
        "from optuna.distributions import FloatDistribution\n"
        "def train(config):\n    open('begun', 'a').write('x')\n    time.sleep(2)\n    return config['x']\n"
        "mt.tune(train, {'x': FloatDistribution(0, 1)}, 40, strategy='random', n_workers=2, recorder=NullRecorder())\n"
    )
    tuning = subprocess.Popen([sys.executable, "slow.py"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    _told(tmp_path / "begun")
    time.sleep(0.3)
    for _ in range(2):
        tuning.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert tuning.wait(timeout=30) != 0
    assert len((tmp_path / "begun").read_text()) <= 4


def _told(file: Path) -> str:
    deadline = time.monotonic() + 60
    while not file.exists() or not (text := file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return text
