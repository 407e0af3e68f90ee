"""Facts about the program, the machine and the code that a study ran on."""

from __future__ import annotations

import getpass
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

PACKAGES = ("metatuner", "torch", "stable-baselines3", "gymnasium", "mlflow", "optuna", "numpy")
_GIT_TIMEOUT_S = 2.0


@cache
def package_versions() -> Mapping[str, str]:
    """Versions of the packages that decide what a study does. A package that is missing is left out."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_commit(folder: Path | None = None) -> str | None:
    """The commit checked out in a folder, or None where there is no repository or no git."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "--verify", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def user_name() -> str:
    """Who runs this; "unknown" where the system does not say, as in some containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def source_name() -> str:
    """The program that runs, by the name under which a person knows it."""
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] not in ("", "-", "-c") else Path("python")
    return program.parent.name if program.name == "__main__.py" else program.name


def study_tags() -> dict[str, str]:
    """Tags of a study: MLflow's own names where it has one, so that its page shows them in their places."""
    tags = {
        "mlflow.user": user_name(),
        "mlflow.source.name": source_name(),
        "mlflow.source.type": "LOCAL",
        **{f"package.{name}": version for name, version in package_versions().items()},
    }
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    return tags


def environment_json() -> str:
    """What is needed to run a study again, as JSON."""
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "git_commit": git_commit(),
        "packages": package_versions(),
    }
    return json.dumps(facts, indent=2) + "\n"
