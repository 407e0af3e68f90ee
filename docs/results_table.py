"""The table of all results, read out of the experiments' JSON files: a reader for each file, or the reason why none.

A figure stands beside the strongest rival of the same experiment, or beside what ought to be. Whatever a reader
compares, it compares in all files of its kind, whether we are ahead there or behind.

Whoever adds an experiment adds its files to `READERS`, or to `WITHOUT_ROWS`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from rows import records, schedules, searches
from rows.row import BETTER, KEPT, LEVEL, MISSED, WORSE, Reader, Row

READERS: Mapping[str, Mapping[str, Reader]] = {
    "Schedules": {
        "perceptron_search/results_20.json": schedules.perceptrons,
        "perceptron_search/results_datasets_400_20.json": schedules.perceptrons,
        "perceptron_search/bold/results_20.json": partial(schedules.perceptrons, policy="schedule-bold"),
        "perceptron_search/bold/results_datasets_400_20.json": partial(schedules.perceptrons, policy="schedule-bold"),
        "schedule_transfer/results_480.json": partial(schedules.transfer, where="tables and images"),
        "schedule_transfer/text/results_480.json": partial(schedules.transfer, where="text"),
        "schedule_transfer/bold/results_480.json": partial(
            schedules.transfer, where="tables and images, schedule-bold"
        ),
        "schedule_transfer/bold/second_seed/results_480.json": partial(
            schedules.transfer, where="tables and images, a second seed of schedule-bold"
        ),
        "schedule_transfer/bold/text/results_480.json": partial(schedules.transfer, where="text, schedule-bold"),
        "schedule_transfer/results_2040.json": partial(schedules.transfer, where="five times longer"),
        "schedule_transfer/bold/results_2040.json": partial(
            schedules.transfer, where="five times longer, schedule-bold"
        ),
        "schedule_ablations/results_earlier_tasks.jsonl": schedules.ablations,
        "ray_population/results.json": schedules.population,
        "other_frameworks/results.json": schedules.other_frameworks,
        "schedule_overhead/results.json": schedules.overhead,
        "schedule_overhead/gpu/results.json": partial(schedules.overhead, where=", on a GPU"),
        "environment_speed/results.json": schedules.environment,
        "meta_training_speed/results.json": schedules.workers_in_meta_training,
    },
    "Searches": {
        "search_transfer/outcomes_lcbench.jsonl": partial(searches.replayed, where="LCBench"),
        "search_transfer/outcomes_taskset.jsonl": partial(searches.replayed, where="TaskSet"),
        "search_transfer/outcomes_hpobench_mlp.jsonl": partial(searches.replayed, where="HPOBench's perceptrons"),
        "search_transfer/outcomes_fcnet.jsonl": partial(searches.replayed, where="FCNet"),
        "search_transfer/outcomes_rbv2_xgboost.jsonl": partial(searches.replayed, where="XGBoost"),
        "compare/boosting.json": partial(searches.compared, run="boosting"),
        "compare/earlier/boosting.json": partial(searches.compared, run="boosting, earlier run"),
        "compare/perceptron.json": partial(searches.compared, run="perceptron"),
        "compare/earlier/perceptron.json": partial(searches.compared, run="perceptron, earlier run"),
        "suggest_time/results.json": searches.proposals,
    },
    "What past tasks bring": {
        "search_stream/regrets.json": searches.stream,
        "task_sequences/results.json": partial(searches.sequences, seeds="a seed a task"),
        "task_sequences/results_same_seed.json": partial(searches.sequences, seeds="one seed for all"),
        "task_sequences/results_budgets.json": searches.sequences_by_budget,
        "transfer_matrix/results.json": searches.matrix,
        "adversarial_history/results.json": searches.adversarial,
        "learn_from_history/results.json": searches.learnt,
    },
    "The record, faults and workers": {
        "tracking_cost/results.json": records.recording,
        "tracking_faults/results.json": records.killed,
        "ray_population/chaos.json": records.dying_nodes,
        "workers/throughput.json": records.throughput,
        "workers/chaos.json": partial(records.faults, what="workers killed"),
        "workers/chaos_mysql.json": partial(records.faults, what="workers killed, MySQL"),
        "workers/network.json": partial(records.faults, what="wires cut"),
        "workers/faults.json": records.clocks_disks_memory,
        "workers/scale.json": records.scale,
        "fuzzing/results.json": records.fuzzed,
    },
}
"""Who reads which file. One that is not there is passed over."""

WITHOUT_ROWS = {
    "schedule_transfer/rivals.jsonl": "the rivals' runs, which the results beside it are made of",
    "meta_training_speed/devices.json": "two devices, not all group sizes of both",
}
"""Files that have no rows, and why."""


def page(experiments: Path) -> str:
    """The page, as Markdown.

    Raises:
        SystemExit: A file has neither a reader nor a reason to have none, or gives no row.
    """
    there = {path.relative_to(experiments).as_posix() for path in experiments.glob("*/**/*.json*")}
    if unknown := sorted(there - {name for group in READERS.values() for name in group} - WITHOUT_ROWS.keys()):
        raise SystemExit(f"no row in docs/results_table.py for: {', '.join(unknown)}; give each a reader, or a reason")
    groups = {title: _rows(experiments, readers) for title, readers in READERS.items()}
    counts = Counter(row.verdict for group in groups.values() for _, row in group)
    lines = [
        "# All results in one table",
        "",
        "<!--- written by docs/generate.py from experiments/*/*.json: do not edit -->",
        "",
        f"{counts.total()} figures, read out of the files that the experiments wrote; each one leads to its file.",
        f"Beside the strongest rival {counts[BETTER]} are better, {counts[LEVEL]} level and **{counts[WORSE]} worse**;",
        f"of those without a rival {counts[KEPT]} are as they ought to be and **{counts[MISSED]} are not**.",
        "",
        "- Level is what looks the same in the digits shown. Many differences are no larger than chance makes them; in",
        "  brackets, where a file has them, 95 % intervals (of `% more time` the quartiles).",
        "- Figures of one experiment go together, so that counts say little.",
        "- Regret: 0 is the best configuration, 1 the median one. B is the budget in full trainings.",
        "- What was measured, and how to make it again, is on the page of each experiment, and in",
        "  [reproducing every figure](reproduce.md).",
    ]
    for title, rows in groups.items():
        lines += ["", f"## {title}"]
        for folder, mine in groupby(rows, lambda row: row[0].split("/", maxsplit=1)[0]):
            readme = experiments / folder / "README.md"
            lines += ["", f"### {_title(readme)}", "", f"[{folder}](../experiments/{folder}/README.md)", ""]
            lines += ["| figure | ours | strongest rival | verdict |", "|---" * 4 + "|"]
            lines += [_line(name, row) for name, row in mine]
    lines += ["", "## Files without a row", ""]
    lines += [f"- [{name}](../experiments/{name}): {why}." for name, why in WITHOUT_ROWS.items() if name in there]
    return "\n".join(lines) + "\n"


def _rows(experiments: Path, readers: Mapping[str, Reader]) -> list[tuple[str, Row]]:
    found = []
    for name, reader in readers.items():
        if (path := experiments / name).exists():
            rows = list(reader(_read(path)))
            if not rows:
                raise SystemExit(f"its reader in docs/results_table.py gives no row for {name}")
            found += [(name, row) for row in rows]
    return found


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)


def _title(readme: Path) -> str:
    return readme.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _line(name: str, row: Row) -> str:
    # Four columns are what a phone is wide enough for.
    ours, rival = f"[{row.ours}](../experiments/{name})", f"{row.rival}: {row.theirs}"
    return f"| {row.figure} | {ours} | {rival} | {row.verdict} |"
