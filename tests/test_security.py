"""What SECURITY.md says: nothing from outside is unpickled, nothing leads out of its folder, no password is told."""

from __future__ import annotations

import ast
import functools
import json
import os
import pickle
import re
import zlib
from pathlib import Path

import metatuner
import metatuner as mt
import optuna
import pytest
from metatuner.agent.child import Child
from metatuner.agent.study_journal import open_journal
from metatuner.envs.errors import MetatunerError, StoreError
from metatuner.envs.records import FileArtifact, NullRecorder, Record, StudyStarted, TrialFinished, TrialStarted
from metatuner.tracking import optuna_study
from metatuner.tracking.codec import encode
from metatuner.tracking.operations import Upload
from metatuner.tracking.shipper import Shipper
from metatuner.tracking.store import connect, resolve
from metatuner.tracking.study_folder import StudyFolder
from metatuner.tracking.transport import Transport
from optuna.distributions import FloatDistribution

PACKAGE = Path(metatuner.__file__).parent
SPACE = {"x": FloatDistribution(-5, 5), "y": FloatDistribution(-5, 5)}


def value(config: dict[str, float]) -> float:
    return config["x"] ** 2 + config["y"] ** 2


@functools.cache
def sources() -> dict[str, ast.Module]:
    files = [
        PACKAGE / "__main__.py",
        *(f for part in ("agent", "cli", "envs", "tracking") for f in (PACKAGE / part).glob("*.py")),
    ]
    return {f"{file.parent.name}/{file.name}": ast.parse(file.read_text()) for file in files}


def test_what_may_run_code_is_called_where_it_is_known_to_be_safe() -> None:
    """Unpickling in the child that its parent feeds, and of what CMA-ES may be made of; nowhere else."""
    found = set()
    for name, tree in sources().items():
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(
                    value=ast.Name(id="pickle" | "cloudpickle" | "joblib" | "torch" | "np" as module), attr=called
                ):
                    if called in ("load", "loads", "Unpickler"):
                        found.add((name, f"{module}.{called}"))
                case ast.Call(func=ast.Name(id="eval" | "exec" as called)):
                    found.add((name, called))
                case ast.Attribute(attr="load_model" | "loads" | "unsafe_load" as called, value=of):
                    if not (isinstance(of, ast.Name) and of.id == "json"):
                        found.add((name, called))
    assert found == {
        ("agent/child_main.py", "pickle.load"),
        ("agent/cmaes_sampler.py", "pickle.Unpickler"),
        ("envs/boosting_training.py", "load_model"),  # XGBoost's own, of bytes that this process has made: no pickle
    }


class Bomb:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def test_a_storage_cannot_run_code_through_cma_es(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")
    options = {"strategy": "cmaes", "storage": storage, "name": "study", "recorder": NullRecorder()}
    result = mt.tune(value, SPACE, 12, **options)
    assert not any(trial.state is optuna.trial.TrialState.FAIL for trial in mt.tune(value, SPACE, 16, **options).trials)
    kept = [key for trial in result.trials for key in trial.system_attrs if key.startswith("cma:optimizer")]
    study = optuna.load_study(study_name="study", storage=open_journal(storage))
    trial = study.ask(SPACE)
    study._storage.set_trial_system_attr(trial._trial_id, kept[0], pickle.dumps(Bomb(tmp_path / "ran")).hex())
    study.tell(trial, 1.0)
    ended = mt.tune(value, SPACE, 20, **options).trials[-1]
    assert "system is not allowed" in ended.user_attrs["metatuner:message"]
    assert not (tmp_path / "ran").exists()


def test_a_child_answers_in_plain_data() -> None:
    with (
        Child(lambda config: Bomb(Path("/nowhere")), {}) as child,
        pytest.raises(MetatunerError, match="expected a number"),
    ):
        list(child.units())


def journalled(folder: StudyFolder, records: list[Record]) -> list[Upload]:
    """What of a journal is uploaded."""
    lines = [encode(record).encode() for record in records]
    folder.records.write_bytes(b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines))
    shipper = Shipper(folder, Transport(resolve("sqlite:////nowhere/mlflow.db"), "x"))
    shipper._remembers = True
    shipper._take()
    return [each for each in shipper._waiting if isinstance(each, Upload)]


@pytest.mark.parametrize(
    "source", ["/etc/passwd", "../../secret", "files/../../secret", "files/..", "..", "", "files/" + "0" * 31]
)
def test_no_file_but_a_copy_in_the_journal_is_uploaded(source: str, tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path, "sqlite:////nowhere/mlflow.db", "x", "key", plots=False)
    kept = "files/" + "0" * 32
    begun: list[Record] = [StudyStarted(name="s"), TrialStarted(trial=0, name="t")]
    files: list[Record] = [FileArtifact(trial=0, path="a", source=each) for each in (source, kept)]
    assert [each.source for each in journalled(folder, [*begun, *files, TrialFinished(trial=0)])] == [
        folder.path / kept
    ]


@pytest.mark.parametrize("path", ["/etc/cron.d/x", "../x", "a/../../x", "a\\..\\x", "C:\\x", "", "a//b"])
def test_an_artifact_of_an_altered_journal_stays_in_its_run(path: str, tmp_path: Path) -> None:
    folder = StudyFolder.open(tmp_path, "sqlite:////nowhere/mlflow.db", "x", "key", plots=False)
    records: list[Record] = [StudyStarted(name="s"), TrialStarted(trial=0, name="t")]
    records.append(FileArtifact(trial=0, path=path, source="files/" + "0" * 32))
    assert journalled(folder, records) == []


@pytest.mark.parametrize(
    "server",
    [
        "nowhere://u:{}@h/x",
        "mysql+nowhere://u:{}@h:1/x",
        "sqlite:///nowhere/x.db?password={}",
        "postgresql://u:{}@h:x/y",
    ],
)
def test_no_error_tells_a_password(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    address = server.format("p4ssw0rd")
    for use in (
        lambda: mt.tune(value, SPACE, 1, storage=address, recorder=NullRecorder()),
        lambda: optuna_study.load(address, "x"),
        lambda: connect(resolve(address)),
    ):
        try:
            use()
        except MetatunerError as error:
            assert "p4ssw0rd" not in str(error)


def test_only_the_page_listens_and_on_this_machine_alone() -> None:
    names = {
        name
        for name, tree in sources().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("bind", "listen", "serve_forever", "HTTPServer")
        if not name.startswith("agent/transformers")  # its losses listen to a model
    }
    assert names == {"tracking/ui.py"}
    ui = (PACKAGE / "tracking" / "ui.py").read_text() + (PACKAGE / "cli" / "ui.py").read_text()
    assert re.findall(r'host: str = "(.*?)"|"--host", default="(.*?)"', ui) == [("127.0.0.1", "")] * 2 + [
        ("", "127.0.0.1")
    ]


def test_a_line_that_was_cut_off_does_not_hide_the_study(tmp_path: Path) -> None:
    """As a kill leaves it: Optuna alone would write the next line behind it."""
    path = tmp_path / "study.journal"
    options = {"strategy": "random", "storage": str(path), "name": "study", "recorder": NullRecorder()}
    mt.tune(value, SPACE, 2, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert len(mt.tune(value, SPACE, 4, **options).trials) >= 4
    assert all(json.loads(line) for line in path.read_text().splitlines())
    path.write_bytes(whole + b"{]\n")
    with pytest.raises(StoreError, match="cannot be opened"):
        mt.tune(value, SPACE, 4, **options)
