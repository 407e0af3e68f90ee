from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test is called in an empty folder, and leaves neither its modules nor its paths to the next one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for module in ("objective", "spaces"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("MLFLOW_TRACKING_URI", "METATUNER_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
