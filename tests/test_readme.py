"""The code of README.md, run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

BLOCKS = re.findall(r"```python\n(.*?)```", Path(__file__).parents[1].joinpath("README.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_code_block_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "METATUNER_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    exec(compile(BLOCKS[number], f"README.md, block {number}", "exec"), {})


def test_there_are_code_blocks() -> None:
    assert len(BLOCKS) >= 2
