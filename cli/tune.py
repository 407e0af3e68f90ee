"""Tune a function of a Python file.

The file has the objective and its search space, a dict from names to Optuna distributions; a dict in the place of a
distribution is a choice of one of its keys, each with a space of its own. The objective takes a configuration and
returns a number, or yields one for each unit of budget. Where the file has no space, the objective is taken for
Optuna's: it takes a trial.

Every trial is recorded in MLflow. An interrupted study goes on when the same command is given again. Given while it
runs, on any machine that reaches the storage, it helps: see also `metatuner worker`.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .command_line import command_line
from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_json, shown_log
from .objective_file import function_of, load_file, space_of
from .study_name import file_name, study_name

if TYPE_CHECKING:
    from optuna.study import Study

    from ..envs.conditional_space import NestedSpace

EXAMPLE = "metatuner tune objective.py:train --budget 30"

EXPERIMENT = "metatuner"
"""The MLflow experiment, unless another is named."""

_OPTIONS = {
    "--space": "space",
    "--budget": "budget",
    "--strategy": "strategy",
    "--past": "past",
    "--prior": "prior",
    "--maximize": "maximize",
    "--metric": "metric",
    "--units": "units",
    "--workers": "workers",
    "--timeout": "timeout",
    "--trial-timeout": "trial_timeout",
    "--isolated": "isolated",
    "--seed": "seed",
    "--experiment": "experiment",
    "--name": "name",
}
"""What a study follows from, by option."""

_STUDIES = Path(".metatuner") / "studies"
_TRIALS = Path(".metatuner") / "trials"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    add_study_arguments(parser)
    parser.add_argument("--name", help="the study's name (default: the function's)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="where the study lies: a database URL, grpc://HOST:PORT or a journal file (default: "
        f"{_STUDIES}/NAME.journal)",
    )
    parser.add_argument("--fresh", action="store_true", help="do not go on with a study: it must be a new one")


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what both this verb and `worker` have."""
    parser.add_argument("objective", metavar="FILE.py:FUNCTION", help="what to tune")
    parser.add_argument(
        "--space",
        metavar="NAME",
        help="the file's variable with the search space; none for an Optuna objective (default: space, or none)",
    )
    parser.add_argument("--budget", type=int, default=30, help="full trainings to spend, in all (default: %(default)s)")
    parser.add_argument(
        "--strategy",
        default="policy",
        help="who proposes; policy:FOLDER and policy:models:/NAME@champion are such a policy, with the past trials "
        "that come with it (default: %(default)s)",
    )
    parser.add_argument(
        "--past",
        action="extend",
        nargs="+",
        default=[],
        metavar="NAME",
        help="studies of similar tasks in the same place, with most of these hyperparameters: what was good there is "
        "tried first",
    )
    parser.add_argument(
        "--prior",
        action="append",
        metavar="ADDRESS",
        help="the same from elsewhere: mlflow:EXPERIMENT takes all studies of the experiments of this name, or that a "
        "regular expression matches; table:FILE.csv what `metatuner prior export` has written. May be given again",
    )
    parser.add_argument("--maximize", action="store_true", help="the larger the better")
    parser.add_argument(
        "--metric",
        default="objective",
        help="what values are called, and what past runs of others are judged by (default: %(default)s)",
    )
    parser.add_argument(
        "--units", type=int, help="values that a full training yields: one that is stopped early costs its share"
    )
    parser.add_argument("--workers", type=int, default=1, help="trials at a time (default: %(default)s)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="after which no new trial begins")
    parser.add_argument("--trial-timeout", type=float, metavar="SECONDS", help="that a trial may take")
    parser.add_argument("--isolated", action="store_true", help="each trial in a process of its own")
    parser.add_argument("--seed", type=int, default=0, help="proposals follow from it (default: %(default)s)")
    parser.add_argument("--experiment", default=EXPERIMENT, help="MLflow experiment (default: %(default)s)")
    parser.add_argument(
        "--heartbeat",
        type=float,
        default=10.0,
        metavar="SECONDS",
        help="between two signs of life; a worker that shows none for five times as long is taken for dead (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--folder",
        default=str(_TRIALS),
        metavar="FOLDER",
        help="where trials that run keep their checkpoints (metatuner.trial_folder): on a disk that all workers reach "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--most-paused",
        type=int,
        default=100,
        metavar="N",
        help="trainings that wait at their yield, with all that they hold in memory (default: %(default)s)",
    )
    add_store_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    name = study_name(args)
    objective = load_objective(args)
    if not args.storage:
        _STUDIES.mkdir(parents=True, exist_ok=True)
    if not args.name:
        _require_same(objective[0], name, args.storage or _journal(name))
    settings = {**settings_in(args), "command": command_line("tune", args, ["objective"], _OPTIONS)}
    return run_study(args, objective, name, args.storage or _journal(name), settings, resume=not args.fresh)


def _require_same(objective: Any, name: str, storage: str) -> None:
    """Functions of two files may have one name, which is their studies' name where none is given."""
    from ..agent.study_settings import settings_of, title_of
    from ..envs.errors import ConfigurationError, StoreError

    if "://" not in storage and not Path(storage).exists():
        return
    try:
        known = (settings_of(storage, name) or {}).get("objective", title_of(objective))
    except StoreError:
        return  # `tune` tells what is wrong, if anything is
    if known != title_of(objective):
        raise ConfigurationError(
            f"there is a study {name!r} already, of {known}, and you ask to tune {title_of(objective)}: give this one "
            f"a name (--name), or go on with that one nevertheless (--name {name})"
        )


def settings_in(args: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the study."""
    return {
        "budget": args.budget,
        "strategy": args.strategy,
        "direction": "maximize" if args.maximize else "minimize",
        "experiment": args.experiment,
        "seed": args.seed,
        "units": args.units,
        "trial_timeout": args.trial_timeout,
        "isolated": args.isolated,
        "prior": args.prior,
        "metric": args.metric,
        "heartbeat": args.heartbeat,
    }


def load_objective(args: argparse.Namespace) -> tuple[Any, Any]:
    """The objective and its space."""
    file, _, function = args.objective.rpartition(":")
    module = load_file(file, args.objective)
    return function_of(module, function, file), space_of(module, args.space, file)


def run_study(
    args: argparse.Namespace,
    objective: tuple[Any, Any],
    name: str,
    storage: str,
    settings: Mapping[str, Any],
    *,
    resume: bool = True,
) -> int:
    """Tunes an objective, with its space, shows how far the study is, and tells what came out."""
    from ..agent.cut_off_trials import is_cut_off
    from ..agent.tune import tune
    from ..tracking.optuna_study import load as load_study
    from ..tracking.store import resolve

    past = [load_study(args.storage or _journal(each), each) for each in args.past]
    if past and objective[1] is not None and not args.json:
        _say_past(past, objective[1], settings.get("units") or 1)
    bar = ProgressBar(settings["budget"], "tuning", "trainings", silent=args.json)

    def progress(spent: float, budget: float, best: float | None) -> None:
        bar.at(min(round(spent), round(budget)), "" if best is None else f"best {best:.6g}")

    # What the prior tells is worth knowing before the first trial.
    with contextlib.nullcontext() if args.json else shown_log("metatuner.agent.priors"):
        result = tune(
            *objective,
            **settings,
            storage=storage,
            tracking_uri=args.tracking_uri,
            name=name,
            n_workers=args.workers,
            resume=resume,
            timeout=args.timeout,
            folder=args.folder,
            most_paused=args.most_paused,
            past=past,
            progress=progress,
        )
    bar.close()
    best = result.best_trial
    if args.json:
        say_json(
            {
                "best_value": best.value,
                "best_config": best.params,
                "trials": len(result.trials),
                "run_id": result.run_id,
            }
        )
        return 0
    failed = sum(trial.state.name == "FAIL" and not is_cut_off(trial) for trial in result.trials)
    some = f", {failed} of which failed" if failed else ""
    say(f"best of {len(result.trials)} trials{some}: {best.value:.6g} (trial {best.number})")
    for key, value in best.params.items():
        say(f"  {key}: {value:.6g}" if isinstance(value, float) else f"  {key}: {value}")
    say(f"see every trial:  {resolve(args.tracking_uri).ui_command}")
    return 0


def _say_past(past: Sequence[Study], space: NestedSpace, units: int) -> None:
    """What past studies have that a search of this space can use."""
    from ..agent.followed_study import study_history
    from ..envs.conditional_space import ConditionalSpace
    from ..envs.search_state import rung_units
    from ..envs.unit_cube import UnitCube

    common = ConditionalSpace(space).common
    if all(each.single() for each in common.values()):
        return  # there is nothing to tell apart
    cube = UnitCube(common)
    for study in past:
        history = study_history(study, cube, rung_units(units))
        if history is None:
            say(f"past {study.study_name}: nothing counts, its trials are too few or not of this search space")
        else:
            say(f"past {study.study_name}: {len(history.values)} of {len(study.trials)} trials count")


def _journal(name: str) -> str:
    return str(_STUDIES / f"{file_name(name)}.journal")
