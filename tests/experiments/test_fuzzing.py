"""Whatever a reader of files, stores and spaces is given: an error of ours, or something that can be used.

The readers and their inputs are those of the experiment, which gives them many more.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from metatuner.envs.errors import MetatunerError

FOLDER = Path(__file__).parents[2] / "experiments" / "fuzzing"


@contextlib.contextmanager
def importable() -> Iterator[None]:
    before = set(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))
        for name in {path.stem for path in FOLDER.glob("*.py")} & (set(sys.modules) - before):
            del sys.modules[name]


def module(name: str) -> ModuleType:
    with importable():
        return importlib.import_module(name)


READERS: Mapping[str, Any] = module("readers").READERS
INPUTS = {
    "policy: folder and address": 12,
    "policy: Model Registry": 4,
    "table of past trials": 60,
    "past runs in MLflow": 4,
    "address of past tasks": 200,
    "journal: sent to MLflow": 4,
    "study in MLflow: report": 3,
    "Optuna journal": 15,
    "search space": 300,
    "configurations: given and known": 200,
    "schedule: saved state": 100,
    "address of a store": 200,
    "meta-training: checkpoint of a schedule's": 10,
    "meta-training: checkpoint of a search's": 5,
    "command line": 15,
}
"""How many each gets here, so that all of them take seconds."""


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sys, "path", sys.path.copy())


@pytest.mark.parametrize("name", READERS)
def test_any_input_is_refused_in_our_words_or_can_be_used(name: str, tmp_path: Path) -> None:
    with READERS[name](tmp_path) as fuzzed:

        @settings(max_examples=INPUTS.get(name, 30), suppress_health_check=list(HealthCheck))
        @given(fuzzed.inputs)
        def check(data: Any) -> None:
            try:
                fuzzed.read(data)
            except MetatunerError as error:
                assert str(error)

        check()


def test_what_promises_gigabytes_takes_no_memory() -> None:
    measured: dict[str, dict[str, Any]] = module("memory").measured()
    assert len(measured) > 5
    for name, found in measured.items():
        assert found["MB"] < 64, name
        assert found["outcome"].endswith("Error"), name
