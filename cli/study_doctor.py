"""The part of `metatuner doctor` that looks at one study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .console import say, say_json

if TYPE_CHECKING:
    from ..tracking.audit import Difference
    from ..tracking.store import Store


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a study's examination."""
    parser.add_argument("--study", metavar="NAME", help="compare this study's records with MLflow")
    parser.add_argument(
        "--storage", metavar="URL", help="its Optuna storage: a database URL or a journal file (default: its journal)"
    )
    parser.add_argument("--experiment", help="its MLflow experiment (default: the study's name)")
    parser.add_argument("--repair", action="store_true", help="mend in MLflow what differs")


def run(args: argparse.Namespace) -> int:
    """Compares, mends if that is asked for, and tells."""
    from ..tracking.audit import repair
    from ..tracking.store import resolve
    from ..tracking.transport import UnsentError

    store, experiment = resolve(args.tracking_uri), args.experiment or args.study
    differences, source = _examine(args, store, experiment)
    problem = ""
    if args.repair:
        try:
            repair(differences, store, experiment)
        except UnsentError as error:
            problem = str(error)
    open_ones = [each for each in differences if problem or not (args.repair and each.repair)]
    if args.json:
        found = [{"trial": each.trial, "what": each.what, "repairable": bool(each.repair)} for each in differences]
        say_json({"source": source, "differences": found, "repaired": args.repair and not problem, "problem": problem})
    else:
        _tell(differences, source, repaired=args.repair and not problem)
        if problem:
            say(f"not repaired: {problem}")
    return 1 if open_ones else 0


def _examine(args: argparse.Namespace, store: Store, experiment: str) -> tuple[list[Difference], str]:
    """The differences, and what MLflow was compared with."""
    from ..envs.errors import StoreError
    from ..tracking import audit, journal, optuna_study
    from ..tracking.study_folder import StudyFolder, journal_root, run_of
    from ..tracking.study_runs import studies_named

    if args.storage is not None:
        study = optuna_study.load(args.storage, args.study)
        found = audit.compare(optuna_study.records(study), run_of(optuna_study.key_of(study)), store, experiment)
        return found, "its Optuna storage"
    waiting = {folder.target.study: folder for folder in StudyFolder.all(journal_root())}
    keys = studies_named(args.study, store, experiment)
    if not keys:
        raise StoreError(
            f"the experiment {experiment!r} in {store.shown} has no study {args.study!r}: name another with "
            "--experiment or --tracking-uri, or the study's Optuna storage with --storage"
        )
    differences: list[Difference] = []
    sources = set()
    for key in keys:
        if key in waiting:
            folder = waiting[key]
            sent = folder.acknowledged  # what comes after is not lost but late
            records = (entry.record for entry in journal.read(folder.records) if entry.end <= sent)
            differences += audit.compare(records, key, store, experiment)
            sources.add(f"its journal ({folder.remaining} more records wait: metatuner sync)")
        else:
            differences += audit.unattended(key, store, experiment)
            sources.add("itself, since no journal of it is left")
    return differences, " and ".join(sorted(sources))


def _tell(differences: Sequence[Difference], source: str, *, repaired: bool) -> None:
    for each in differences:
        subject = "study" if each.trial is None else f"trial {each.trial}"
        say(f"{'mended' if repaired and each.repair else 'differs'}  {subject}: {each.what}")
    if not differences:
        say(f"MLflow agrees with {source}")
    elif not repaired:
        say(f"{len(differences)} differences from {source}; mend them with --repair")
