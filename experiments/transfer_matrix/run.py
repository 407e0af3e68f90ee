"""Which data sets help which, and does a past that does not fit do harm?

    OMP_NUM_THREADS=1 python experiments/transfer_matrix/run.py --bench FOLDER

`metatuner transfer` on LCBench's data sets as a history: random configurations, trained in full. FOLDER holds the
benchmark's `load.py`, as for search_transfer.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from metatuner.__main__ import main as metatuner
from metatuner.envs.transfer import Interval, Transfer, TransferCurve, TransferPair
from metatuner.tracking.transfer_plots import matrix_figure, transfer_figure

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "learn_from_history"), str(HERE.parent / "search_transfer")]
from run import write_space  # noqa: E402 - their folders have just been put on the path
from tasks import TableTask, tasks_of  # noqa: E402


def main() -> None:
    """Measures, and writes results.json and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="the folder with the benchmark's load.py")
    parser.add_argument("--tasks", type=int, default=12, help="data sets, the first ones (default: %(default)s)")
    parser.add_argument("--known", type=int, default=100, help="past trials of each (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="of each search (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="searches in each way (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=HERE, help="where the results go")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    tasks = tasks_of(args.bench, "lcbench", args.tasks)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        write_past(tasks, args.known)
        write_space(tasks[0].space)
        began, said = time.monotonic(), io.StringIO()
        with contextlib.redirect_stdout(said):
            code = metatuner(
                "transfer --prior table:past.csv --space spaces.py:space --json "
                f"--trials {args.trials} --repeats {args.repeats}".split()
            )
        assert code == 0, said.getvalue()
    told = json.loads(said.getvalue())
    minutes = round((time.monotonic() - began) / 60, 1)
    (out / "results.json").write_text(json.dumps({**told, "minutes": minutes}, indent=1) + "\n", encoding="utf-8")
    found = transfer_of(told)
    transfer_figure(found).savefig(out / "curves.png", dpi=130)
    matrix_figure(found).savefig(out / "matrix.png", dpi=130)
    print(*found.verdict, f"{minutes} minutes", sep="\n")


def write_past(tasks: list[TableTask], known: int) -> None:
    """The history as a table: see `metatuner.tracking.trial_table` for its columns."""
    with Path("past.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        names = list(tasks[0].space)
        writer.writerow(["task", "value", *names])
        for task in tasks:
            for row in np.random.default_rng(0).permutation(len(task.points))[:known]:
                config = task.cube.decode(task.points[row])
                writer.writerow([task.name.split("/")[1], task.values[row, -1], *(config[name] for name in names)])


def transfer_of(told: dict) -> Transfer:
    """What `metatuner transfer --json` has printed, as it was."""
    curves = tuple(
        TransferCurve(
            each["searcher"],
            each["past"],
            tuple(Interval(**regret) for regret in each["regrets"]),
            Interval(**each["average"]),
            Interval(**each["gain"]),
        )
        for each in told["curves"]
    )
    pairs, together = (
        tuple(TransferPair(**{**pair, "gain": Interval(**pair["gain"])}) for pair in told[which])
        for which in ("pairs", "together")
    )
    plain = {name: told[name] for name in ("policy", "trials", "repeats", "seed", "confidence")}
    names = {name: tuple(told[name]) for name in ("tasks", "sample")}
    return Transfer(**plain, **names, curves=curves, pairs=pairs, together=together)


if __name__ == "__main__":
    main()
