"""What others have logged, as they meant it: names, states and directions are theirs; a task counts once."""

from __future__ import annotations

from pathlib import Path

import metatuner as mt
import numpy as np
import optuna
import pytest
from metatuner.__main__ import main
from metatuner.agent.followed_study import histories
from metatuner.envs.errors import StoreError
from metatuner.envs.records import NullRecorder, TrialState
from metatuner.envs.unit_cube import UnitCube
from metatuner.tracking.history import read_history
from metatuner.tracking.trial_table import read_table
from mlflow import MlflowClient
from optuna.distributions import FloatDistribution

SPACE = """from optuna.distributions import *
space = {"lr": FloatDistribution(0, 1), "shift_x_range": FloatDistribution(0, 1)}
def train(config):
    return (config["lr"] - 0.3) ** 2
"""


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("METATUNER_JOURNAL", str(tmp_path / "journal"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "others").mkdir()
    return f"sqlite:///{tmp_path}/others/runs.db"


def log(uri: str, experiment: str, params: dict[str, object], value: float, **tags: str) -> None:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    place = client.create_experiment(experiment) if found is None else found.experiment_id
    run = client.create_run(place, tags=tags)
    for name, each in params.items():
        client.log_param(run.info.run_id, name, each)
    client.log_metric(run.info.run_id, "loss", value)
    client.set_terminated(run.info.run_id)


def test_names_are_as_they_were_logged(uri: str) -> None:
    names = {"shift_x_range": 1, "grid_x2_depth": 2, "hash_xdeadbeef_id": 3, "feat_xdead_": 4}
    log(uri, "odd", names, 0.5)
    (trial,) = read_history("odd", tracking_uri=uri)
    assert trial.params == {name: str(value) for name, value in names.items()}


def test_what_optunas_callback_tells_counts(uri: str) -> None:
    said = {"lr_distribution": "FloatDistribution(...)", "direction": "MAXIMIZE"}
    for state in ("COMPLETE", "PRUNED", "FAIL"):
        log(uri, "optuna", {"lr": 0.1}, 0.5, state=state, **said)
    found = list(read_history("optuna", tracking_uri=uri))
    assert {each.state for each in found} == {TrialState.FINISHED, TrialState.PRUNED, TrialState.FAILED}
    assert {each.direction for each in found} == {"maximize"}
    log(uri, "plain", {"lr": 0.1}, 0.5, state="PRUNED")  # a tag of somebody else's
    assert [each.state for each in read_history("plain", tracking_uri=uri)] == [TrialState.FINISHED]


def test_an_experiment_of_exactly_this_name_is_meant_alone(uri: str) -> None:
    for name in ("churn.v1", "churn-v1"):
        log(uri, name, {"lr": 0.1}, 0.5)
    assert {each.experiment for each in read_history("churn.v1", tracking_uri=uri)} == {"churn.v1"}
    assert {each.experiment for each in read_history("churn.v.", tracking_uri=uri)} == {"churn.v1", "churn-v1"}


def test_a_study_whose_own_run_was_deleted_keeps_its_direction(uri: str) -> None:
    space = {"x": FloatDistribution(0, 1)}
    mt.tune(lambda c: c["x"], space, 3, direction="maximize", experiment="e", tracking_uri=uri, strategy="random")
    client = MlflowClient(uri)
    place = client.get_experiment_by_name("e")
    assert place is not None
    for run in client.search_runs([place.experiment_id], "tags.`metatuner.kind` = 'study'"):
        client.delete_run(run.info.run_id)
    assert [each.direction for each in read_history("e", tracking_uri=uri)] == ["maximize"] * 3


def test_tasks_whose_names_meet_stay_apart(uri: str) -> None:
    log(uri, "a", {"lr": 0.1}, 1000.0)
    for name in ("a", "a", "a (2)"):
        with mt.MLflowRecorder(uri, "b") as recorder:
            mt.tune(lambda c: c["lr"], {"lr": FloatDistribution(0, 1)}, 1, name=name, recorder=recorder)
    tasks = [each.task for each in read_history(["a", "b"], tracking_uri=uri)]
    assert sorted(tasks) == ["a", "a (2)", "a (2) (2)", "a (3)"]


def test_looking_makes_no_store(uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb in (["prior", "show", "mlflow:e"], ["report", "e"]):
        assert main([*verb, "--tracking-uri", uri]) == 2
        assert "there is no store" in capsys.readouterr().err
    assert not list((tmp_path / "others").iterdir())


def test_runs_in_a_folder_are_not_left_behind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prior", "show", "mlflow:e", "--tracking-uri", "file:///old/mlruns"]) == 2
    assert "mlflow migrate-filestore --source /old/mlruns" in capsys.readouterr().err


def test_a_table_whose_trials_are_in_pieces_is_refused(tmp_path: Path) -> None:
    table = tmp_path / "by_step.csv"
    table.write_text("task, trial, step, value, lr\n" + "".join(f"a,{t},{s},1,0.{t}\n" for s in (1, 2) for t in (1, 2)))
    with pytest.raises(
        StoreError, match="line 4: expected the rows of a trial to stand together, and trial '1' of 'a'"
    ):
        list(read_table(table))
    table.write_text("task, trial, step, value, lr\n" + "".join(f"a,{t},{s},1,0.{t}\n" for t in (1, 2) for s in (1, 2)))
    assert [len(each.curve) for each in read_table(table)] == [2, 2]


def test_a_task_that_is_told_of_twice_counts_once() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    study.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=8)
    again = optuna.create_study()
    again.add_trials(study.trials[::-1])
    other = optuna.create_study(sampler=optuna.samplers.RandomSampler(1))
    other.optimize(lambda trial: trial.suggest_float("lr", 0, 1), n_trials=8)
    cube = UnitCube({"lr": FloatDistribution(0, 1)})
    assert len(histories([study, again, other], cube, (1,))) == 2


def test_policies_come_from_the_store_that_is_named(
    uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("objective_of_others.py").write_text(SPACE)
    where = ["--tracking-uri", uri]
    assert main(["policies", "export", "search-default", "shared"]) == 0
    assert main(["policies", "push", "shared", "--name", "mine", "--alias", "champion", *where]) == 0
    assert main(["policies", "show", "models:/mine@champion", *where]) == 0
    address = "policy:models:/mine@champion"
    assert main(["tune", "objective_of_others.py:train", "--budget", "2", "--strategy", address, *where]) == 0
    space = {"lr": FloatDistribution(0, 1)}
    options = {"strategy": address, "tracking_uri": uri, "recorder": NullRecorder()}
    assert len(mt.tune(lambda config: config["lr"], space, 2, **options).trials) == 2
    assert not Path("mlflow.db").exists()
    assert main(["policies", "push", "shared", "--name", "bob's", *where]) == 2
    assert "and quotes" in capsys.readouterr().err


def test_runs_of_others_are_judged_by_the_metric_that_is_named(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("judged_by_others.py").write_text(SPACE)
    for lr in np.linspace(0, 1, 12):
        log(uri, "past", {"lr": lr, "shift_x_range": lr}, float((lr - 0.3) ** 2))
    command = ["tune", "judged_by_others.py:train", "--budget", "2", "--prior", "mlflow:past", "--tracking-uri", uri]
    assert main(command) == 2
    assert "without a value of 'objective'" in capsys.readouterr().err
    assert main([*command, "--metric", "loss"]) == 0
    assert "12 trials of 12 count, of 1 past task" in capsys.readouterr().err
    for lr in range(12):
        log(uri, "percent", {"lr": f"{lr}%"}, 0.5)
    assert main([*command[:-3], "mlflow:percent", *command[-2:], "--metric", "loss"]) == 2
    assert "such as lr '11%'" in capsys.readouterr().err


def test_an_anonymous_policy_names_no_task_and_a_mistake_leaves_the_folder_as_it_was(
    uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from metatuner.agent.policy_files import write_card

    assert main(["policies", "export", "search-default", "learnt"]) == 0
    card = json.loads(Path("learnt/card.json").read_text())
    write_card(
        Path("learnt"), {**card, "learnt_from": {"policy": "x", "tasks": ["secret 1"]}, "held_out": ["secret 2"]}
    )
    Path("past.csv").write_text("task,value,x\n" + "".join(f"secret,{i},{i / 10}\n" for i in range(11)))
    assert main(["policies", "export", "learnt", "shared", "--prior", "table:past.csv", "--anonymous"]) == 0
    assert not any("secret" in file.read_text(errors="replace") for file in Path("shared").iterdir())
    before = {file.name: file.read_bytes() for file in Path("shared").iterdir()}
    assert main(["policies", "export", "search-default", "shared", "--prior", "table:none.csv"]) == 2
    assert {file.name: file.read_bytes() for file in Path("shared").iterdir()} == before
    # A table in the folder itself is read before it is replaced.
    again = ["policies", "export", "search-default", "shared", "--prior", "table:shared/prior.csv", "--metric", "value"]
    assert main(again) == 0
    capsys.readouterr()
