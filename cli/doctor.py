"""Check this installation, or one study.

Without --study: versions, threads, devices, store, journal and policies, what is missing and how to get it.

With --study NAME: compares what MLflow shows with the study's own records, those of its Optuna storage (--storage) or
of its journal; where there are none, looks for trials that are open or there twice. --repair mends what it finds.

The exit code is 1 where something does not work or differs.
"""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryFile

from .. import __version__
from . import study_doctor
from .console import add_json_argument, add_store_arguments, say, say_json

EXAMPLE = "metatuner doctor --study my-study --storage sqlite:///study.db --repair"

_NEEDED = (
    "torch",
    "stable-baselines3",
    "gymnasium",
    "mlflow",
    "optuna",
    "numpy",
    "safetensors",
    "scikit-learn",
    "matplotlib",
)
_OTHER_STORE = "give a store that works with --tracking-uri"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    found: str
    advice: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    add_store_arguments(parser)
    study_doctor.add_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    if args.study is not None:
        return study_doctor.run(args)
    findings = [*_versions(), _threads(), _devices(), _store(args.tracking_uri), _journal(), *_policies()]
    if args.json:
        say_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "ok  " if finding.ok else "FAIL"
            say(
                f"{mark} {finding.what:<20} {finding.found}"
                + (f"\n       -> {finding.advice}" if finding.advice else "")
            )
    return 0 if all(finding.ok for finding in findings) else 1


def _versions() -> list[Finding]:
    findings = [Finding("metatuner", True, f"{__version__} on Python {platform.python_version()}")]
    for name in _NEEDED:
        try:
            findings.append(Finding(name, True, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, False, "not installed", f"pip install {name}"))
    return findings


def _threads() -> Finding:
    import torch

    setting = os.environ.get("OMP_NUM_THREADS", "not set")
    found = f"torch uses {torch.get_num_threads()} of {os.cpu_count()} cores (OMP_NUM_THREADS {setting})"
    crowded = torch.get_num_threads() > (os.cpu_count() or 1)
    return Finding("threads", True, found, "set OMP_NUM_THREADS to at most the number of cores" if crowded else "")


def _devices() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Finding("devices", True, "cpu, " + ", ".join(names))
    return Finding("devices", True, "cpu only; no CUDA device is needed")


def _store(tracking_uri: str | None) -> Finding:
    from ..envs.errors import MissingPackageError, StoreError
    from ..tracking.store import connect, require_databases, resolve

    try:
        store = resolve(tracking_uri)
        if store.database is not None and (problem := _unwritable(store.database.parent)):
            return Finding("store", False, f"{store.shown}: {problem}", _OTHER_STORE)
        if store.database is not None and not store.database.exists():
            require_databases()
            return Finding("store", True, f"{store.shown} (not there yet: made when first used)")
        connect(store).search_experiments(max_results=1)
    except StoreError as error:
        return Finding("store", False, str(error), _OTHER_STORE)
    except MissingPackageError as error:
        return Finding("store", False, str(error))
    except ImportError as error:
        return Finding("store", False, f"MLflow cannot be imported: {error}", "pip install --upgrade mlflow")
    except Exception as error:
        # Whatever a remote store's client raises: a doctor reports it, and goes on.
        return Finding("store", False, f"{type(error).__name__}: {error}", "is the MLflow server running?")
    return Finding("store", True, store.shown)


def _journal() -> Finding:
    from ..tracking.study_folder import JOURNAL_VARIABLE, StudyFolder, journal_root

    root = journal_root()
    if problem := _unwritable(root):
        return Finding("journal", False, problem, f"name another folder with {JOURNAL_VARIABLE}")
    waiting = StudyFolder.all(root)
    if not waiting:
        return Finding("journal", True, f"nothing waits in {root}")
    records = sum(folder.remaining for folder in waiting)
    found = f"{records:,} records of {len(waiting)} studies wait in {root}"
    return Finding("journal", True, found, "a running study sends its own; for the rest: metatuner sync")


def _unwritable(folder: Path) -> str:
    """Why nothing can be written in a folder, which need not be there yet; empty where it can be."""
    nearest = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    try:
        # Only writing tells: permission bits say nothing of the superuser, of read-only disks and of full ones.
        with TemporaryFile(dir=nearest, buffering=0) as file:
            file.write(b"\0")
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror or error})"
    return ""


def _policies() -> list[Finding]:
    from ..agent.policy import DEFAULT_POLICY
    from ..agent.policy_files import read_card, shipped_policies
    from ..envs.errors import PolicyError

    findings = []
    for name in shipped_policies():
        try:
            card = read_card(name)
            findings.append(Finding(f"policy {name}", True, f"whole (sha256 {str(card['sha256'])[:12]})"))
        except PolicyError as error:
            findings.append(Finding(f"policy {name}", False, str(error), "reinstall metatuner"))
    if DEFAULT_POLICY not in shipped_policies():
        findings.append(Finding(f"policy {DEFAULT_POLICY}", False, "not in the package", "reinstall metatuner"))
    return findings
