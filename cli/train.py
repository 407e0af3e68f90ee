"""Meta-train a policy on generated tasks.

A schedule policy learns on hundreds of small networks at once, with PPO or another algorithm; a search policy learns
with PPO on generated functions with learning curves and past tasks. The folder then holds policy.safetensors and
card.json, with an evaluation on validation tasks. An interrupted run goes on from its last checkpoint when the same
command is given again. The learning curve is recorded in MLflow.
"""

from __future__ import annotations

import argparse
import os
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_json

EXAMPLE = "metatuner train schedule --steps 600000 --seed 0 --out my-policy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("job", choices=("schedule", "search"), help="which job the policy is for")
    parser.add_argument(
        "--algorithm",
        choices=("ppo", "recurrent-ppo", "sac"),
        default="ppo",
        help="what learns: PPO, PPO with a memory, or soft actor-critic (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=None,
        help="decisions to learn from (default: 600,000 of schedules, for each member; 150,000 of searches)",
    )
    parser.add_argument("--seed", type=int, default=0, help="everything random follows from it (default: %(default)s)")
    parser.add_argument(
        "--reference",
        choices=("constant", "cosine", "stable_decay"),
        default="constant",
        help="the schedule that it learns to adjust (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the policy's folder")
    parser.add_argument("--name", default=None, help="the policy's name (default: the folder's)")
    for option, default, what in (
        ("--decisions", (10, 60), "decisions a training"),
        ("--horizon", (50, 400), "optimiser steps a training (cut to a multiple of its decisions)"),
    ):
        least_and_most = ("LEAST", "MOST")
        explained = f"{what}, drawn between (default: {default[0]} {default[1]})"
        parser.add_argument(option, type=int, nargs=2, default=default, metavar=least_and_most, help=explained)
    parser.add_argument(
        "--groups", type=int, default=12, help="groups of networks of one shape, side by side (default: %(default)s)"
    )
    parser.add_argument(
        "--group-size", type=int, default=16, help="networks of one shape at once (default: %(default)s)"
    )
    parser.add_argument(
        "--members",
        type=int,
        default=1,
        help="schedule policies that learn apart, and decide by their mean (default: %(default)s)",
    )
    parser.add_argument(
        "--optimism",
        type=float,
        default=0.0,
        help="how far above their mean members move a rate, in standard deviations among them (default: %(default)s)",
    )
    parser.add_argument(
        "--unlearn",
        action="store_true",
        help="let the guard take back intervals in which a training begins to overfit",
    )
    parser.add_argument(
        "--clear",
        action="store_true",
        help="make the larger half of the data clear, as real data of thousands of rows often are",
    )
    parser.add_argument(
        "--copies",
        type=int,
        default=4,
        help="networks of the same task, judged against each other (default: %(default)s)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes that train, or search (default: %(default)s)",
    )
    parser.add_argument("--device", default="cpu", help="where networks are trained (default: %(default)s)")
    parser.add_argument(
        "--evaluation-groups",
        type=int,
        default=None,
        help="task groups of each architecture to evaluate on (default: 4), or tasks of a search (default: 100); 0 "
        "skips the evaluation",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=int,
        default=None,
        help="iterations of schedules (default: 10), or updates of searches (default: 1)",
    )
    parser.add_argument("--fresh", action="store_true", help="begin anew instead of resuming")
    parser.add_argument("--experiment", default="metatuner-train", help="MLflow experiment (default: %(default)s)")
    add_store_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import torch

    from ..envs.records import Description, StudyStarted, TrialFinished, TrialStarted
    from ..tracking.recorder import MLflowRecorder

    # Small networks are fastest with one thread; there are as many processes as cores.
    torch.set_num_threads(1)
    out = Path(args.out)
    _require(args, out)
    name = args.name or out.resolve().name
    job = _schedule(args) if args.job == "schedule" else _search(args)
    bar = ProgressBar(job.steps, "meta-training", "decisions", silent=args.json)
    with MLflowRecorder(args.tracking_uri, experiment=args.experiment) as recorder:
        key = _study_key(out, fresh=args.fresh)
        recorder.record(
            StudyStarted(
                name=f"train {name}",
                params=job.params,
                key=key.read_text("ascii"),
                metric="rollout/ep_rew_mean",
                direction="maximize",
                budget=f"{job.steps:,} decisions",
                command=job.command,
            )
        )
        recorder.record(Description(markdown=f"# Meta-training of `{name}`\n\n{job.description}\n"))
        recorder.record(TrialStarted(trial=0, name=f"{args.job} seed={args.seed}", params=job.params))
        card = job.train(
            out=out,
            name=name,
            resume=not args.fresh,
            **({} if args.checkpoint_every is None else {"checkpoint_every": args.checkpoint_every}),
            recorder=recorder,
            progress=lambda done, total, mean: bar.at(min(done, total), f"mean return {mean:.3f}"),
            workers=args.workers,
        )
        recorder.record(TrialFinished(trial=0))
        key.unlink()
    bar.close()
    evaluation = card.get("evaluation", {})
    if args.json:
        say_json({"folder": str(out), "evaluation": evaluation, "run_id": recorder.run_id})
        return 0
    say(f"policy saved in {out}")
    for figure, value in evaluation.items():
        say(f"  {figure}: {value:.3f}" if isinstance(value, float) else f"  {figure}: {value}")
    say(f"use it:              {job.use.format(str(out))}")
    say(f"see how it learnt:   {recorder.ui_command}")
    return 0


def _require(args: argparse.Namespace, out: Path) -> None:
    """Checks what nobody else does, before anything is written."""
    from ..agent.arguments import require_count, require_seed
    from ..agent.policy_files import WEIGHTS
    from ..agent.run_folder import unfinished
    from ..envs.errors import ConfigurationError

    require_seed(args.seed)
    require_count("workers", args.workers)
    if args.checkpoint_every is not None:
        require_count("checkpoint-every", args.checkpoint_every)
    if args.evaluation_groups is not None:
        require_count("evaluation-groups", args.evaluation_groups, 0)
    if args.job == "search":
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        usual = parser.parse_args(["search", "--out", args.out])
        if given := [each for each in _OF_SCHEDULES if _option(args, each) != _option(usual, each)]:
            raise ConfigurationError(
                f"a search policy has no {', '.join(given)}: leave them out, or train one for schedules"
            )
    if not args.fresh and (out / WEIGHTS).exists() and not unfinished(out):
        raise ConfigurationError(f"{out} has a policy that is done: give another --out, or --fresh to replace it")


_OF_SCHEDULES = (
    "--algorithm", "--reference", "--decisions", "--horizon", "--groups", "--group-size", "--members", "--optimism",
    "--unlearn", "--clear", "--copies", "--device",
)  # fmt: skip


def _option(args: argparse.Namespace, option: str) -> object:
    value = getattr(args, option.removeprefix("--").replace("-", "_"))
    return tuple(value) if isinstance(value, list) else value


@dataclass(frozen=True)
class _Job:
    """A meta-training run: its settings in words and figures, and what starts it."""

    steps: int
    params: Mapping[str, Any]
    command: str
    description: str
    use: str
    train: Callable[..., Mapping[str, Any]]


def _schedule(args: argparse.Namespace) -> _Job:
    from ..agent.meta_training import Algorithm, MetaTrainingSettings, train_schedule_policy

    settings = MetaTrainingSettings(
        algorithm=Algorithm(args.algorithm),
        seed=args.seed,
        decisions=tuple(args.decisions),
        horizon=tuple(args.horizon),
        groups=args.groups,
        group_size=args.group_size,
        copies=args.copies,
        reference=args.reference,
        members=args.members,
        optimism=args.optimism,
        unlearns=args.unlearn,
        clear=args.clear,
        **({} if args.steps is None else {"steps": args.steps}),
    )

    def train(**how: Any) -> Mapping[str, Any]:
        out = how.pop("out")
        groups = {} if args.evaluation_groups is None else {"evaluation_groups": args.evaluation_groups}
        return train_schedule_policy(settings, out, device=args.device, **groups, **how).card

    description = (
        f"{args.algorithm.upper()} on batched trainings of small networks; the policy learns to adjust hyperparameters "
        "of optimisers and layers from validation rewards. `rollout/ep_rew_mean` is the mean of log(starting / final "
        "validation loss) over the trainings of an iteration."
    )
    use = "AdaptiveSchedule(optimizer, total_steps=..., policy={!r})"
    return _Job(settings.members * settings.steps, vars(settings), settings.command, description, use, train)


def _search(args: argparse.Namespace) -> _Job:
    from ..agent.search_training import SearchTrainingSettings, train_search_policy

    settings = SearchTrainingSettings(seed=args.seed, **({} if args.steps is None else {"steps": args.steps}))

    def train(**how: Any) -> Mapping[str, Any]:
        out = how.pop("out")
        tasks = {} if args.evaluation_groups is None else {"evaluation_tasks": args.evaluation_groups}
        return train_search_policy(settings, out, **tasks, **how).card

    description = (
        "PPO on searches of generated functions with learning curves; the policy learns which configuration to start "
        "and which training to continue. `rollout/ep_rew_mean` is the mean of log(2 / final regret)."
    )
    use = "PolicySampler(policy={!r})"
    return _Job(settings.steps, vars(settings), settings.command, description, use, train)


def _study_key(out: Path, *, fresh: bool) -> Path:
    """The file with the study's key: it lasts as long as the run, so that a resumed one goes on in the same place."""
    path = out / "study.key"
    if fresh or not path.exists() or not re.fullmatch(rb"[0-9a-f]{32}", path.read_bytes()):
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(uuid.uuid4().hex, encoding="ascii")
    return path
