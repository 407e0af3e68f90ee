"""Does a policy get better by learning from a user's history?

    OMP_NUM_THREADS=1 python experiments/learn_from_history/run.py --bench FOLDER --champion search-default rule

The history is LCBench's data sets as somebody would have left them: random configurations, the worse half of them
stopped early. `metatuner learn` begins from each champion, keeps three tenths of the data sets apart, and registers
what it has learnt; only what is better with a confidence of 95 % is promoted. `rule` is the untrained policy that
meta-training begins from. FOLDER holds the benchmark's `load.py`, as for search_transfer.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from metatuner.__main__ import main as metatuner
from metatuner.agent.search_actor import SearchActor, SearchActorShape
from metatuner.agent.search_policy import SearchPolicy
from optuna.distributions import BaseDistribution, distribution_to_json

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "search_transfer"))
from tasks import TableTask, tasks_of  # noqa: E402 - its folder has just been put on the path

SPACE = """
import json
from pathlib import Path
from optuna.distributions import json_to_distribution

told = json.loads(Path(__file__).with_suffix(".json").read_text())
space = {name: json_to_distribution(each) for name, each in told.items()}
"""


def main() -> None:
    """Learns once from each champion, and writes results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="the folder with the benchmark's load.py")
    parser.add_argument("--champion", nargs="+", default=["search-default", "rule"])
    parser.add_argument("--trials", type=int, default=100, help="of each data set (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--searches", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(args.bench, "lcbench")
    results = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        write_past(tasks, args.trials)
        write_space(tasks[0].space)
        SearchPolicy("rule", SearchActor(SearchActorShape()), {}).save("rule")
        for champion in args.champion:
            began, said = time.monotonic(), io.StringIO()
            with contextlib.redirect_stdout(said):
                code = metatuner(
                    f"learn table:past.csv spaces.py:space --units {tasks[0].units} --name from-{champion} --json "
                    f"--champion {champion} --steps {args.steps} --searches {args.searches}".split()
                )
            assert code == 0, said.getvalue()
            told = json.loads(said.getvalue())
            minutes = round((time.monotonic() - began) / 60, 1)
            results[champion] = {"promoted": told["promoted"], **told["comparison"], "minutes": minutes}
            print(champion, results[champion], flush=True)
            (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def write_past(tasks: list[TableTask], trials: int) -> None:
    """The history as a table: see `metatuner.tracking.trial_table` for its columns."""
    with Path("past.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = list(tasks[0].space)
        writer.writerow(["task", "trial", "step", "state", "value", *names])
        for task in tasks:
            random = np.random.default_rng(0)
            curves = [
                (task.cube.decode(task.points[row]), task.values[row])
                for row in random.permutation(len(task.points))[:trials]
            ]
            usual = np.median([curve[len(curve) // 4] for _, curve in curves])
            for trial, (config, curve) in enumerate(curves):
                stopped = curve[len(curve) // 4] > usual
                kept = curve[: len(curve) // 4 + 1] if stopped else curve
                for step, value in enumerate(kept, start=1):
                    state = "pruned" if stopped else "finished"
                    writer.writerow([task.name, trial, step, state, value, *(config[name] for name in names)])


def write_space(space: dict[str, BaseDistribution]) -> None:
    """The search space as a Python file."""
    Path("spaces.py").write_text(SPACE)
    Path("spaces.json").write_text(json.dumps({name: distribution_to_json(each) for name, each in space.items()}))


if __name__ == "__main__":
    main()
