"""Teach the search policy your own history.

Past studies of one search space are searched again and again, as Gaussian processes that were fitted to their
trials; some are kept apart. On those the result is compared with the champion, and it is registered in MLflow's Model
Registry as a new version. Only if it is better with the confidence that is asked for does it become the champion, the
policy that models:/NAME@champion names.

The file has the search space that the studies share, as for `metatuner tune`.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from .command_line import command_line
from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_json
from .past_tasks import given_space, lessons_in

if TYPE_CHECKING:
    from ..agent.search_learning import Comparison, Lessons, SearchLearningSettings
    from ..agent.search_policy import SearchPolicy

EXAMPLE = "metatuner learn mlflow:churn-.* objective.py:space --units 10 --name churn"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("prior", metavar="PRIOR", help="where past tasks are, such as mlflow:EXPERIMENT")
    parser.add_argument("space", metavar="FILE.py:SPACE", help="the search space")
    parser.add_argument(
        "--prior",
        dest="others",
        action="append",
        default=[],
        metavar="ADDRESS",
        help="where more past tasks are: mlflow:EXPERIMENT or table:FILE.csv. May be given again",
    )
    parser.add_argument("--name", required=True, help="the policy's name in the registry")
    parser.add_argument(
        "--units", type=int, default=1, help="values that a full training yields (default: %(default)s)"
    )
    parser.add_argument(
        "--metric", default="objective", help="what runs of others were judged by (default: %(default)s)"
    )
    parser.add_argument("--maximize", action="store_true", help="the larger the better")
    parser.add_argument(
        "--champion",
        metavar="POLICY",
        help="what to begin from and to compare with (default: the registered champion, else search-default)",
    )
    parser.add_argument("--steps", type=int, default=20_000, help="moves to learn from (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="what is drawn follows from it (default: %(default)s)")
    parser.add_argument(
        "--held-out", type=float, default=0.3, help="share of the tasks that are kept apart (default: %(default)s)"
    )
    parser.add_argument(
        "--searches",
        type=int,
        default=10,
        help="searches of each task that is kept apart, at each of three budgets (default: %(default)s)",
    )
    parser.add_argument("--parallel", type=int, default=16, help="searches side by side (default: %(default)s)")
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="with which it must be better (default: %(default)s)"
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="the policy's folder, where an interrupted run goes on (default: .metatuner/learn/NAME)",
    )
    parser.add_argument("--experiment", default="metatuner-learn", help="MLflow experiment (default: %(default)s)")
    add_store_arguments(parser)
    add_json_argument(parser)


_OPTIONS = {
    "--prior": "others",
    "--name": "name",
    "--units": "units",
    "--metric": "metric",
    "--maximize": "maximize",
    "--champion": "champion",
    "--steps": "steps",
    "--seed": "seed",
    "--held-out": "held_out",
    "--searches": "searches",
    "--parallel": "parallel",
    "--confidence": "confidence",
}


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import torch

    from ..agent.search_learning import LEAST_TASKS, SearchLearningSettings
    from ..envs.errors import ConfigurationError
    from ..tracking.registry import promote, push, require_policy_name

    torch.set_num_threads(1)
    require_policy_name(args.name)
    settings = SearchLearningSettings(
        steps=args.steps,
        seed=args.seed,
        held_out=args.held_out,
        searches=args.searches,
        confidence=args.confidence,
        parallel=args.parallel,
    )
    out = Path(args.out or Path(".metatuner") / "learn" / args.name)
    if (out / "card.json").exists():
        raise ConfigurationError(f"{out} has a policy that is done: give another --out, or remove that folder")
    lessons = lessons_in(args, [args.prior, *args.others], given_space(args.space), LEAST_TASKS)
    comparison, run_id, ui_command = _learn(args, settings, lessons, out)
    # The run that it learnt in tells of which tasks.
    learnt_from = [run_id] if run_id else []
    version = push(out, args.name, tracking_uri=args.tracking_uri, learnt_from=learnt_from)
    if comparison.better:
        promote(args.name, version.version, tracking_uri=args.tracking_uri)
    if args.json:
        found = {"folder": str(out), "uri": version.uri, "promoted": comparison.better, "run_id": run_id}
        say_json({**found, "comparison": vars(comparison)})
        return 0
    say(f"kept apart to judge by: {', '.join(comparison.tasks)}")
    say(comparison.verdict)
    say(f"registered as {version.uri}" + (", now the champion" if comparison.better else "; the champion stays"))
    if comparison.better:
        say(f"use it:              tune(..., strategy=PolicySampler(policy='models:/{args.name}@champion'))")
    else:
        say(f"use it all the same: metatuner policies promote {args.name} {version.version}")
    say(f"see how it learnt:   {ui_command}")
    return 0


def _learn(
    args: argparse.Namespace, settings: SearchLearningSettings, lessons: Lessons, out: Path
) -> tuple[Comparison, str | None, str]:
    """Learns, and records it; returns the comparison, the id of the run and the command that shows it."""
    from ..agent.search_learning import learn_search_policy
    from ..envs.records import Description, StudyStarted, TrialFinished, TrialStarted
    from ..tracking.recorder import MLflowRecorder

    champion = _champion(args.champion, args.name, args.tracking_uri)
    bar = ProgressBar(settings.steps, "learning", "moves", silent=args.json)
    with MLflowRecorder(args.tracking_uri, experiment=args.experiment) as recorder:
        prior = ", ".join([args.prior, *args.others])
        params = {**vars(settings), "prior": prior, "tasks": len(lessons.names), "champion": champion.name}
        recorder.record(
            StudyStarted(
                name=f"learn {args.name}",
                params=params,
                key=hashlib.sha256(f"{out.resolve()} {lessons.digest} {settings}".encode()).hexdigest()[:32],
                metric="evaluation/candidate",
                budget=f"{settings.steps:,} moves",
                command=command_line("learn", args, ["prior", "space"], _OPTIONS),
            )
        )
        recorder.record(TrialStarted(trial=0, name=f"search seed={args.seed}", params=params))
        policy, comparison = learn_search_policy(
            lessons,
            champion,
            settings,
            out,
            name=args.name,
            recorder=recorder,
            progress=lambda done, total, mean: bar.at(min(done, total), f"mean return {mean:.3f}"),
        )
        recorder.record(Description(markdown=_page(args.name, champion, policy, comparison)))
        recorder.record(TrialFinished(trial=0, value=comparison.candidate))
    bar.close()
    return comparison, recorder.run_id, recorder.ui_command


def _champion(given: str | None, name: str, tracking_uri: str | None) -> SearchPolicy:
    """The policy that is given, else the registered champion of this name, else the shipped one."""
    from ..agent.search_policy import DEFAULT_SEARCH_POLICY, SearchPolicy
    from ..envs.errors import UnknownPolicyError
    from ..tracking.registry import CHAMPION, versions

    if given is None:
        try:
            registered = versions(tracking_uri, name)
        except UnknownPolicyError:
            registered = []
        champions = [each for each in registered if CHAMPION in each.aliases]
        given = f"models:/{name}@{CHAMPION}" if champions else DEFAULT_SEARCH_POLICY
    return SearchPolicy.load(given, tracking_uri)


def _page(name: str, champion: SearchPolicy, policy: SearchPolicy, comparison: Comparison) -> str:
    """What a person reads first on the run's page."""
    learnt = ", ".join(policy.card["learnt_from"]["tasks"])
    return (
        f"# What `{name}` has learnt\n\n"
        f"Begun from `{champion.name}`, on {learnt}.\n\n"
        f"On {', '.join(comparison.tasks)}, which it has not learnt from, it is {comparison.verdict}.\n"
    )
