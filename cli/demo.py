"""Train a real network with a learned schedule, beside cosine schedules and a learning-rate search.

A perceptron learns scikit-learn's digits from three starting learning rates, two of them badly chosen. Every run is
recorded in MLflow. All runs share initial weights and mini-batches; the test set is not touched.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_json, table

if TYPE_CHECKING:
    from ..agent.demo import DemoResult

EXAMPLE = "metatuner demo --steps 1000 --optimizer adam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("--steps", type=int, default=1000, help="optimiser steps a run (default: %(default)s)")
    parser.add_argument("--optimizer", choices=("adam", "adamw", "sgd"), default="adam", help="default: %(default)s")
    parser.add_argument("--policy", default="schedule-default", help="policy name or folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="weights, mini-batches and split (default: %(default)s)")
    parser.add_argument("--experiment", default="metatuner-demo", help="MLflow experiment (default: %(default)s)")
    add_store_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    import torch

    from ..agent.demo import DemoSettings, run_demo
    from ..agent.policy import Policy
    from ..tracking.recorder import MLflowRecorder

    torch.set_num_threads(1)  # such small networks are slower with more
    policy = Policy.load(args.policy)
    settings = DemoSettings(args.steps, args.optimizer, args.seed)
    bar = ProgressBar(settings.runs, "training", "runs", silent=args.json)
    with MLflowRecorder(args.tracking_uri, experiment=args.experiment) as recorder:
        result = run_demo(settings, policy, recorder, bar.at)
    bar.close()
    if args.json:
        say_json({**result.as_dict(), "run_id": recorder.run_id, "tracking_uri": recorder.tracking_uri})
    else:
        _report(result, recorder.ui_command)
    return 0


def _report(result: DemoResult, ui_command: str) -> None:
    rows = [
        [run.schedule, f"{run.lr:g}", f"{run.val_loss:.4f}", f"{100 * run.val_accuracy:.1f} %", f"{run.steps:,}"]
        for run in result.rows()
    ]
    say()
    say(table(["schedule", "start lr", "val loss", "val accuracy", "optimiser steps"], rows))
    say()
    for line in result.conclusions():
        say(line)
    say()
    say(f"See every run:  {ui_command}")
