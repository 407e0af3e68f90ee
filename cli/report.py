"""Write a report of one study: an HTML file that stands alone.

It is read from MLflow, also while the study runs: what it is, what came out, when and why, which hyperparameters
matter, schedules, what policies decided, costs and failures. The file fetches nothing and runs nothing.
"""

from __future__ import annotations

import argparse

from .console import add_json_argument, add_store_arguments, say, say_json
from .report_file import report_file, report_name, write_report

EXAMPLE = "metatuner report my-study --output report.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this verb."""
    parser.add_argument("study", metavar="STUDY", help="the study's name, or MLflow's id of its run")
    parser.add_argument("--experiment", help="its MLflow experiment (default: whichever has it)")
    parser.add_argument("--output", metavar="FILE.html", help="where the report goes (default: report-STUDY.html)")
    add_store_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Runs the verb."""
    from ..tracking.recorded_study import read_study
    from ..tracking.report import report_facts, report_page

    study = read_study(args.study, args.experiment, args.tracking_uri)
    file = report_file(args.output or report_name("report", study.started.name))
    write_report(file, report_page(study))
    facts = report_facts(study)
    if args.json:
        say_json({**facts, "file": str(file)})
        return 0
    states = ", ".join(f"{count} {state}" for state, count in facts["trials"].items()) or "none yet"
    say(f"{study.started.name}: trials: {states}")
    if (best := facts["best"]) is not None:
        say(f"  best {facts['metric']}: {best['value']:.6g} (trial {best['trial']})")
    say(f"report written to {file}")
    return 0
