"""The part of `metatuner doctor` that looks at one study."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .console import say, say_json
from .tune import EXPERIMENT

if TYPE_CHECKING:
    from ..tracking.audit import Difference
    from ..tracking.store import Store

_MOST_NAMES = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a study's examination."""
    parser.add_argument("--study", metavar="NAME", help="compare this study's records with MLflow")
    parser.add_argument(
        "--storage", metavar="URL", help="its Optuna storage: a database URL or a journal file (default: its journal)"
    )
    parser.add_argument(
        "--experiment",
        help="its MLflow experiment (default: whichever has it; where none has, --repair takes the default of `tune`)",
    )
    parser.add_argument("--repair", action="store_true", help="mend in MLflow what differs")


@dataclass(frozen=True)
class _Examination:
    """What was found.

    Attributes:
        differences: How MLflow differs.
        source: What MLflow was compared with.
        experiment: Where the study is, or goes if it is nowhere.
        remark: That it is nowhere; else empty.
    """

    differences: Sequence[Difference]
    source: str
    experiment: str
    remark: str = ""


def run(args: argparse.Namespace) -> int:
    """Compares, mends if that is asked for, and tells."""
    from ..tracking.audit import repair
    from ..tracking.store import resolve
    from ..tracking.transport import UnsentError

    store = resolve(args.tracking_uri)
    found = _of_storage(args, store) if args.storage is not None else _of_journal(args, store)
    problem = ""
    if args.repair:
        try:
            repair(found.differences, store, found.experiment)
        except UnsentError as error:
            problem = str(error)
    repaired = args.repair and not problem
    if args.json:
        say_json(
            {
                "source": found.source,
                "experiment": found.experiment,
                "differences": [
                    {"trial": each.trial, "what": each.what, "repairable": bool(each.repair)}
                    for each in found.differences
                ],
                "repaired": repaired,
                "problem": problem,
            }
        )
    else:
        _tell(found, repaired=repaired)
        if problem:
            say(f"not repaired: {problem}")
    return 0 if all(repaired and each.repair for each in found.differences) else 1


def _of_storage(args: argparse.Namespace, store: Store) -> _Examination:
    """Compares MLflow with the study's Optuna storage."""
    from ..tracking import audit, optuna_study
    from ..tracking.study_folder import run_of
    from ..tracking.study_places import experiments_with_key

    study = optuna_study.load(args.storage, args.study)
    key, remark = run_of(optuna_study.key_of(study)), ""
    experiment = args.experiment or _only(experiments_with_key(key, store), args.study, store)
    if experiment is None:
        experiment = EXPERIMENT
        remark = f"no experiment of {store.shown} had the study: --repair records it in {experiment!r}"
    differences = audit.compare(optuna_study.records(study), key, store, experiment)
    return _Examination(differences, "its Optuna storage", experiment, remark)


def _of_journal(args: argparse.Namespace, store: Store) -> _Examination:
    """Compares MLflow with the study's journal; where there is none, looks at what MLflow has alone."""
    from ..envs.errors import StoreError
    from ..tracking import audit, journal
    from ..tracking.study_folder import StudyFolder, journal_root
    from ..tracking.study_places import experiments_with_name
    from ..tracking.study_runs import studies_named
    from ..tracking.waiting_studies import waiting_hint

    experiment = args.experiment or _only(experiments_with_name(args.study, store), args.study, store)
    keys = studies_named(args.study, store, experiment) if experiment is not None else []
    if experiment is None or not keys:
        where = store.shown if experiment is None else f"the experiment {experiment!r} in {store.shown}"
        instead = waiting_hint(args.study) or (
            ": name another with --experiment or --tracking-uri, or the study's Optuna storage with --storage"
        )
        raise StoreError(f"{where} has no study {args.study!r}{instead}")
    waiting = {folder.target.study: folder for folder in StudyFolder.all(journal_root())}
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
    return _Examination(differences, " and ".join(sorted(sources)), experiment)


def _only(experiments: Sequence[str], study: str, store: Store) -> str | None:
    """The experiment that has the study; None where none has."""
    from ..envs.errors import StoreError

    if len(experiments) > 1:
        more = f" and {len(experiments) - _MOST_NAMES} more" if len(experiments) > _MOST_NAMES else ""
        raise StoreError(
            f"{len(experiments)} experiments of {store.shown} have a study {study!r}: expected one; name it with "
            f"--experiment: {', '.join(map(repr, experiments[:_MOST_NAMES]))}{more}"
        )
    return experiments[0] if experiments else None


def _tell(found: _Examination, *, repaired: bool) -> None:
    if found.remark:
        say(found.remark)
    for each in found.differences:
        subject = "study" if each.trial is None else f"trial {each.trial}"
        say(f"{'mended' if repaired and each.repair else 'differs'}  {subject}: {each.what}")
    if not found.differences:
        say(f"MLflow agrees with {found.source}")
    elif not repaired:
        say(f"{len(found.differences)} differences from {found.source}; mend them with --repair")
