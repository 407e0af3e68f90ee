from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import metatuner as mt
import pytest
import torch
from metatuner.__main__ import main
from metatuner.agent.actor import Actor, ActorShape
from metatuner.agent.comparison import ComparisonSettings, require_able
from metatuner.agent.policy import Policy
from metatuner.agent.search_policy import SearchPolicy
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.errors import ConfigurationError, PolicyFileError, UnknownPolicyError
from metatuner.envs.signals import GLOBAL_SIGNALS
from metatuner.tracking.registry import promote, pull, push, versions
from optuna.distributions import FloatDistribution


def made(folder: Path, name: str = "mine", seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        actor = Actor(ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS)))
    return Policy(name, actor, 10, {"evaluation": {"ratio": 1.25, "tasks": 3}}).save(folder / f"{name}-{seed}")


@pytest.fixture(autouse=True)
def _somebody_elses_global_store(tmp_path: Path) -> Iterator[None]:
    """MLflow's global store is the user's affair: policies go where they are told."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/elsewhere.db")
    yield
    mlflow.set_tracking_uri(before)


@pytest.fixture(params=["file", "server"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    store = str(request.getfixturevalue("uri" if request.param == "file" else "server"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    return store


def test_pushed_promoted_and_loaded_by_its_address(store: str, tmp_path: Path) -> None:
    first = push(made(tmp_path, seed=0), "digits", alias="champion", learnt_from=["a" * 32])
    second = push(made(tmp_path, seed=1), "digits")
    assert [first.version, second.version] == [1, 2]
    assert first.tags["evaluation/ratio"] == "1.25"
    assert first.tags["learnt_from"] == "a" * 32

    def loaded(source: str) -> str:
        return str(mt.Policy.load(source).card["sha256"])

    assert loaded("models:/digits@champion") == loaded("models:/digits/1") == first.tags["sha256"]
    promote("digits", 2)
    assert loaded("models:/digits@champion") == second.tags["sha256"]
    assert [(each.version, each.aliases) for each in versions(name="digits")] == [(2, ("champion",)), (1, ())]

    # What is in the registry is two plain files.
    fetched = pull("digits", tmp_path / "here")
    assert sorted(file.name for file in fetched.iterdir()) == ["card.json", "policy.safetensors"]


def test_what_came_back_altered_is_refused(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    push(made(tmp_path), "digits", alias="champion")
    (weights,) = (tmp_path / "mlartifacts").rglob("policy.safetensors")
    other = made(tmp_path, seed=5)
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + b"x")
    with pytest.raises(PolicyFileError, match="do not match the sha256"):
        mt.Policy.load("models:/digits@champion")
    # Exchanged together with its card, it is a whole policy, but not the one that was registered.
    weights.write_bytes((other / "policy.safetensors").read_bytes())
    (weights.parent / "card.json").write_bytes((other / "card.json").read_bytes())
    with pytest.raises(PolicyFileError, match="not those that were registered"):
        mt.Policy.load("models:/digits@champion")


def test_what_is_not_there_or_not_ours_is_named(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for source in ("models:/nobody@champion", "models:/nobody/3", "models:/", "models:/a b@c d"):
        with pytest.raises(UnknownPolicyError):
            mt.Policy.load(source)
    push(made(tmp_path), "digits")
    with pytest.raises(UnknownPolicyError, match="no version 7"):
        promote("digits", 7)
    with pytest.raises(ConfigurationError, match="MLflow's own"):
        promote("digits", 1, alias="v1")
    MlflowClient(uri).create_registered_model("foreign")
    with pytest.raises(ConfigurationError, match="no metatuner policy"):
        push(made(tmp_path), "foreign")
    (tmp_path / "empty").mkdir()
    with pytest.raises(PolicyFileError, match="is no policy"):
        push(tmp_path / "empty", "digits")
    for name, alias in (("a/b", None), ("new", "bad alias!"), ("new", "latest"), ("new", "v2")):
        with pytest.raises(ConfigurationError):
            push(made(tmp_path), name, alias=alias)
    assert {each.name for each in versions()} == {"digits"}  # nothing was registered by halves


def test_the_command_line_does_it_all(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = made(tmp_path)
    assert main(["policies", "push", str(folder), "--name", "digits"]) == 0
    assert "registered as models:/digits/1" in capsys.readouterr().out
    assert main(["policies", "promote", "digits", "1"]) == 0
    assert "models:/digits@champion is version 1 now" in capsys.readouterr().out
    assert main(["policies", "list"]) == 0
    listed = capsys.readouterr().out
    assert "in the package" in listed
    assert "models:/digits/1" in listed
    assert main(["policies", "show", "digits"]) == 0
    assert "champion" in capsys.readouterr().out
    assert main(["policies", "show", "models:/digits@champion"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "mine"
    assert main(["policies", "pull", "models:/digits@champion", str(tmp_path / "pulled"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == Policy.load(folder).card["sha256"]
    assert main(["policies", "pull", "models:/nobody@champion", str(tmp_path / "x")]) == 2
    assert "policies list" in capsys.readouterr().err


def test_a_comparison_finds_a_policy_in_the_store_that_it_is_given(uri: str, tmp_path: Path) -> None:
    folder = SearchPolicy.load("search-default").save(tmp_path / "taught")
    push(folder, "taught", tracking_uri=uri)
    settings = ComparisonSettings(
        name="c", strategies=("policy:models:/taught/1", "random"), budget=2, repeats=2, tracking_uri=uri
    )
    require_able({"x": FloatDistribution(0, 1)}, settings)
    with pytest.raises(UnknownPolicyError):  # the global store has none
        require_able({"x": FloatDistribution(0, 1)}, replace(settings, tracking_uri=None))
