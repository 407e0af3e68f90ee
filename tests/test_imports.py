"""Who may import whom, and what a mere `--help` may cost."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Each of these takes a good part of a second or more to import.
HEAVY = {"gymnasium", "matplotlib", "mlflow", "optuna", "sklearn", "stable_baselines3", "torch"}


def imported_by(*arguments: str, cwd: Path) -> set[str]:
    """The top-level modules that a Python process imports, by its own report."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    report = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    errors = [line for line in done.stderr.splitlines() if line not in report]
    assert done.returncode == 0, "\n".join(errors)
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in report}


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    names = imported_by("-m", "metatuner", "--help", cwd=tmp_path)
    assert {"metatuner", "argparse"} <= names
    assert not names & HEAVY


def test_import_metatuner_imports_nothing_heavy(tmp_path: Path) -> None:
    names = imported_by("-c", "import metatuner", cwd=tmp_path)
    assert "metatuner" in names
    assert not names & HEAVY


def test_the_environments_and_the_agent_do_without_mlflow(tmp_path: Path) -> None:
    names = imported_by("-c", "import metatuner.envs, metatuner.agent", cwd=tmp_path)
    assert "metatuner" in names
    assert "mlflow" not in names


def test_the_import_contract_is_kept() -> None:
    command = [f"{sysconfig.get_path('scripts')}/lint-imports", "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
