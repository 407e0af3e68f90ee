"""The doctor on real studies, stores and folders: what is healthy, what is missing, what cannot be written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from metatuner.__main__ import main
from mlflow import MlflowClient
from sqlalchemy import create_engine, inspect

OBJECTIVE = """
from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(0.0, 1.0)}

def train(config):
    return config["x"]
"""

STORAGE = ["--storage", "sqlite:///study.db"]
DOCTOR = ["doctor", "--study", "my-study"]
RUNS = 3  # of a study: its own and two of trials


@pytest.fixture
def client(own_folder: Path) -> MlflowClient:
    """The store of a study that `tune` has recorded where it does by default."""
    (own_folder / "objective.py").write_text(OBJECTIVE)
    tune()
    return MlflowClient(f"sqlite:///{own_folder / 'mlflow.db'}")


def test_an_mlflow_store_is_no_storage(own_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"sqlite:///{own_folder / 'store.db'}"
    MlflowClient(uri).create_experiment("e")
    engine = create_engine(uri)
    tables = inspect(engine).get_table_names()
    assert main([*DOCTOR, "--storage", uri]) == 2
    assert "is an MLflow store, which cannot hold studies as well" in capsys.readouterr().err
    assert inspect(engine).get_table_names() == tables
    engine.dispose()


def tune(*options: str) -> None:
    command = ["tune", "objective.py:train", "--budget", "2", "--strategy", "random", "--name", "my-study", "--json"]
    assert main([*command, *STORAGE, *options]) == 0


def recorded(client: MlflowClient) -> dict[str, int]:
    """How many runs each experiment has."""
    places = {each.name: each.experiment_id for each in client.search_experiments()}
    counts = {name: len(client.search_runs([place])) for name, place in places.items()}
    return {name: count for name, count in counts.items() if count}


def delete(client: MlflowClient, *, experiment: str, only_study: bool = False) -> None:
    """Deletes a study's runs, or only its own."""
    place = client.get_experiment_by_name(experiment)
    assert place is not None
    for run in client.search_runs([place.experiment_id]):
        if not (only_study and "mlflow.parentRunId" in run.data.tags):
            client.delete_run(run.info.run_id)


@pytest.mark.parametrize("source", [STORAGE, []])
def test_a_study_is_found_in_whichever_experiment_has_it(
    source: list[str], client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DOCTOR, *source]) == 0
    assert "MLflow agrees with its" in capsys.readouterr().out
    assert main([*DOCTOR, *source, "--repair", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["experiment"], told["differences"]) == ("metatuner", [])
    assert recorded(client) == {"metatuner": RUNS}
    assert main(["report", "my-study"]) == 0


def test_a_study_that_is_nowhere_goes_where_tune_records(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    delete(client, experiment="metatuner")
    capsys.readouterr()
    assert main([*DOCTOR, *STORAGE]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("no experiment of sqlite:///")
    assert lines[0].endswith("had the study: --repair records it in 'metatuner'")
    assert lines[1:] == [
        "differs  study: the study's run is not there",
        "differs  trial 0: it is not there",
        "differs  trial 1: it is not there",
        "3 differences from its Optuna storage; mend them with --repair",
    ]
    assert recorded(client) == {}
    assert main([*DOCTOR, *STORAGE, "--repair"]) == 0
    assert recorded(client) == {"metatuner": RUNS}
    assert main([*DOCTOR, *STORAGE]) == 0


def test_trials_tell_where_a_study_was_whose_own_run_is_gone(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    delete(client, experiment="metatuner")
    assert main([*DOCTOR, *STORAGE, "--experiment", "mine", "--repair"]) == 0
    delete(client, experiment="mine", only_study=True)
    assert recorded(client) == {"mine": RUNS - 1}
    capsys.readouterr()
    assert main([*DOCTOR, *STORAGE, "--repair"]) == 0
    assert capsys.readouterr().out == "mended  study: the study's run is not there\n"
    assert recorded(client) == {"mine": RUNS}


@pytest.mark.parametrize("source", [STORAGE, []])
def test_of_several_experiments_one_must_be_named(
    source: list[str], client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DOCTOR, *STORAGE, "--experiment", "another", "--repair"]) == 0
    capsys.readouterr()
    assert main([*DOCTOR, *source]) == 2
    said = capsys.readouterr().err
    assert "2 experiments of sqlite:///" in said
    assert said.endswith("have a study 'my-study': expected one; name it with --experiment: 'another', 'metatuner'\n")
    assert main([*DOCTOR, *source, "--experiment", "metatuner"]) == 0


def test_a_study_of_the_same_name_elsewhere_is_another_one(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    tune("--experiment", "another", "--storage", "another.journal")
    capsys.readouterr()
    for storage, experiment in (("sqlite:///study.db", "metatuner"), ("another.journal", "another")):
        assert main([*DOCTOR, "--storage", storage, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["experiment"] == experiment
    assert recorded(client) == {"metatuner": RUNS, "another": RUNS}


def test_an_experiment_that_does_not_have_the_study_says_so(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*DOCTOR, "--experiment", "none"]) == 2
    assert "the experiment 'none' in sqlite:///" in capsys.readouterr().err
    assert main([*DOCTOR, *STORAGE, "--experiment", "none"]) == 1
    assert "differs  study: the study's run is not there" in capsys.readouterr().out


def a_file(path: Path) -> None:
    path.touch()


def a_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


def a_locked_folder(path: Path) -> None:
    path.mkdir(mode=0o500)


@pytest.mark.parametrize(
    "block",
    [
        a_file,
        a_link_to_nothing,
        pytest.param(
            a_locked_folder,
            marks=pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere"),
        ),
    ],
)
def test_a_folder_that_cannot_be_written_does_not_work(
    block: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    block(tmp_path / ".metatuner")
    block(tmp_path / "place")
    before = sorted(tmp_path.rglob("*"))
    doctor = ["doctor", "--json", "--tracking-uri", "sqlite:///place/deep/mlflow.db"]
    assert main(doctor) == 1
    wrong = {each["what"]: each for each in json.loads(capsys.readouterr().out) if not each["ok"]}
    assert sorted(wrong) == ["journal", "store"]
    for each, folder in ((wrong["store"], tmp_path / "place" / "deep"), (wrong["journal"], tmp_path / ".metatuner")):
        assert str(folder) in each["found"]
        assert "cannot be written (" in each["found"]
        assert "\n" not in each["found"]
        assert each["advice"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_does_not_work(
    disk: Path, fill_disk: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_disk(disk)
    monkeypatch.chdir(disk)
    assert main(["doctor"]) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert [line.split()[1] for line in lines] == ["store", "journal"]
    assert all("cannot be written (No space left on device)" in line for line in lines)


def test_looking_leaves_nothing_behind(tmp_path: Path) -> None:
    assert main(["doctor"]) == 0
    assert list(tmp_path.iterdir()) == []
