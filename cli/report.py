"""Write a report of one study: an HTML file that stands alone.

It is read from MLflow, also while the study runs: what it is, what came out, when and why, which hyperparameters
matter, schedules, what policies decided, costs and failures. The file fetches nothing and runs nothing.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from .console import add_json_argument, add_store_arguments, say, say_json

EXAMPLE = "metatuner report my-study --output report.html"

_LONGEST_NAME = 80


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
    file = Path(args.output or _file_name(study.started.name))
    _write(file, report_page(study))
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


def _file_name(study: str) -> str:
    """A name that every file system takes."""
    plain = re.sub(r"[^\w.-]+", "-", study).strip("-.")[:_LONGEST_NAME]
    return f"report-{plain or 'study'}.html"


def _write(file: Path, text: str) -> None:
    from ..envs.errors import ConfigurationError

    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the report cannot be written to {file} ({error.strerror}): name a file, in a folder that exists, with "
            "--output"
        ) from error
