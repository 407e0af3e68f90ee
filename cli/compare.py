"""Compare strategies on an objective of yours.

Each strategy tunes the objective several times with the same budget. One HTML file tells which is how good and how
soon, which differences are more than luck, how long proposals take, and where strategies look.

Every run is a study in one MLflow experiment. An interrupted comparison goes on when the same command is given again;
with more repeats or other strategies, what was run already is taken as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .command_line import command_line
from .console import ProgressBar, add_json_argument, add_store_arguments, say, say_json, table
from .objective_file import function_of, load_file, space_of
from .report_file import report_file, report_name, write_report
from .study_name import file_name, study_name

if TYPE_CHECKING:
    from ..envs.comparison_summary import ComparisonSummary
    from ..envs.strategy_comparison import StrategyComparison

EXAMPLE = "metatuner compare objective.py:train --strategies policy,tpe,gp,random --budget 20 --repeats 10"

_COMPARISONS = Path(".metatuner") / "comparisons"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("objective", metavar="FILE.py:FUNCTION", help="what to tune, as for metatuner tune")
    parser.add_argument(
        "--space",
        metavar="NAME",
        help="the file's variable with the search space; none for an Optuna objective (default: space, or none)",
    )
    parser.add_argument(
        "--strategies",
        default="policy,tpe,gp,random",
        metavar="NAME,...",
        help="who is compared (default: %(default)s)",
    )
    parser.add_argument("--budget", type=int, default=20, help="full trainings of each run (default: %(default)s)")
    parser.add_argument(
        "--repeats",
        type=int,
        default=10,
        help="runs of each strategy; fewer than 6 to 9 are too few for the paired tests (default: %(default)s)",
    )
    parser.add_argument(
        "--baseline",
        metavar="NAME",
        help="the strategy that the others are tested against (default: random if it is there, else the first one)",
    )
    parser.add_argument("--maximize", action="store_true", help="the larger the better")
    parser.add_argument(
        "--units", type=int, help="values that a full training yields: one that is stopped early costs its share"
    )
    parser.add_argument("--trial-timeout", type=float, metavar="SECONDS", help="that a trial may take")
    parser.add_argument("--isolated", action="store_true", help="each trial in a process of its own")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the first repeat; each other has the next (default: %(default)s)"
    )
    parser.add_argument("--name", help="the comparison's name (default: the function's)")
    parser.add_argument("--output", metavar="FILE.html", help="where the report goes (default: compare-NAME.html)")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help=f"where studies lie: a database URL or a folder of journals (default: {_COMPARISONS}/NAME)",
    )
    parser.add_argument("--experiment", default="metatuner-compare", help="MLflow experiment (default: %(default)s)")
    add_store_arguments(parser)
    add_json_argument(parser)


_OPTIONS = {
    "--strategies": "strategies",
    "--baseline": "baseline",
    "--name": "name",
    "--budget": "budget",
    "--repeats": "repeats",
    "--seed": "seed",
    "--units": "units",
    "--space": "space",
    "--maximize": "maximize",
    "--trial-timeout": "trial_timeout",
    "--isolated": "isolated",
}


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..agent.comparison import COMPARISON_TAG, ComparisonSettings, compare, require_able
    from ..envs.comparison_summary import ComparisonSummary
    from ..tracking.comparison_record import record_comparison
    from ..tracking.comparison_report import comparison_report
    from ..tracking.recorder import MLflowRecorder

    file, _, function = args.objective.rpartition(":")
    settings = ComparisonSettings(
        name=study_name(args),
        strategies=tuple(each.strip() for each in args.strategies.split(",") if each.strip()),
        budget=args.budget,
        repeats=args.repeats,
        seed=args.seed,
        direction="maximize" if args.maximize else "minimize",
        units=args.units,
        trial_timeout=args.trial_timeout,
        isolated=args.isolated,
        tracking_uri=args.tracking_uri,
    )
    baseline = _baseline(args.baseline, settings.strategies)
    output = report_file(args.output or report_name("compare", settings.name))
    module = load_file(file, args.objective)
    objective, space = function_of(module, function, file), space_of(module, args.space, file)
    require_able(space, settings)
    total = settings.budget * settings.repeats * len(settings.strategies)
    bar = ProgressBar(total, "comparing", "trainings", silent=args.json)
    # Figures of single studies would take longer than cheap trainings; the report has those that compare.
    with MLflowRecorder(args.tracking_uri, args.experiment, plots=False) as recorder:
        comparison = compare(
            objective,
            space,
            settings,
            recorder=recorder,
            storage=args.storage or _COMPARISONS / file_name(settings.name),
            progress=lambda spent, which: bar.at(round(spent), which),
        )
    bar.close()
    _require_values(comparison)
    summary = ComparisonSummary.of(comparison, baseline)
    report = comparison_report(comparison, summary, command_line("compare", args, ["objective"], _OPTIONS))
    write_report(output, report)
    with MLflowRecorder(args.tracking_uri, args.experiment, plots=False, sampling=None) as recorder:
        record_comparison(comparison, summary, report, recorder, COMPARISON_TAG)
        recorder.flush()
        run_id = recorder.run_id
    if args.json:
        say_json({"report": str(output), "run_id": run_id, **_json(comparison, summary)})
        return 0
    _say_result(summary, comparison)
    if comparison.over:
        say(
            f"{comparison.over} of these {len(comparison.runs)} runs were there already, and are recorded where they "
            "ran; with another --name all are run again"
        )
    say(f"report:           {output}")
    say(f"see every trial:  {recorder.ui_command}")
    return 0


def _require_values(comparison: StrategyComparison) -> None:
    from ..envs.errors import TrainingError

    trials = [trial for run in comparison.runs for trial in run.trials]
    if all(trial.value is None for trial in trials):
        why = next((trial.message for trial in trials if trial.message), "they failed, or were not allowed")
        raise TrainingError(
            f"none of the {len(trials)} trials gave a value, so there is nothing to compare ({why}): mend the "
            "objective, and give the comparison another --name"
        )


def _baseline(given: str | None, strategies: tuple[str, ...]) -> str:
    from ..envs.errors import ConfigurationError

    chosen = given or ("random" if "random" in strategies else strategies[0])
    if chosen not in strategies:
        raise ConfigurationError(f"expected the baseline to be one of {', '.join(strategies)}, got {chosen!r}")
    return chosen


def _json(comparison: StrategyComparison, summary: ComparisonSummary) -> dict[str, object]:
    """The tables for a machine."""
    import numpy as np

    from ..envs.paired_tests import median

    spent = np.arange(1, comparison.budget + 1, dtype=np.float64)
    signed = {each: comparison.sign * comparison.by_spent(each, spent) for each in comparison.strategies}
    return {
        "name": comparison.name,
        "objective": comparison.objective,
        "direction": comparison.direction,
        "budget": comparison.budget,
        "units": comparison.units,
        "repeats": comparison.repeats,
        **summary.as_json(),
        "best_by_repeat": {each: _finite(signed[each][:, -1]) for each in comparison.strategies},
        "median_by_spent": {each: _finite(median(signed[each].T)) for each in comparison.strategies},
    }


def _finite(values: object) -> list[float | None]:
    import numpy as np

    return [float(value) if np.isfinite(value) else None for value in np.asarray(values)]


def _say_result(summary: ComparisonSummary, comparison: StrategyComparison) -> None:
    from ..tracking.comparison_report import verdicts

    rows = [
        [
            line.strategy,
            f"{line.median:.4g}",
            f"{line.low:.4g} to {line.high:.4g}",
            f"{line.mean_rank:.2f}",
            str(line.failed),
            f"{line.training_s:.3g}",
            f"{line.proposing_s:.3g}",
        ]
        for line in summary.lines
    ]
    header = ["strategy", "median best", "95 % interval", "mean rank", "failed", "s in trainings", "s elsewhere"]
    say(table(header, rows))
    for text in [*verdicts(comparison, summary), *summary.cautions]:
        say(text)
