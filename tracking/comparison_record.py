"""A comparison of strategies in MLflow: a run with the report, and one below it for each strategy.

Runs below have the curve of the best value as a metric whose step is the full trainings spent, so that MLflow's own
charts lay strategies over each other.
"""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np

from ..envs.comparison_summary import ComparisonSummary, StrategyLine
from ..envs.paired_tests import median
from ..envs.records import (
    Artifact,
    Description,
    Metrics,
    Recorder,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
)
from ..envs.strategy_comparison import StrategyComparison
from .comparison_report import verdicts

REPORT = "comparison.html"


def record_comparison(
    comparison: StrategyComparison, summary: ComparisonSummary, report: str, recorder: Recorder, tag: str
) -> None:
    """Records it; what is recorded already stays as it is.

    Args:
        comparison: What was measured.
        summary: What it says.
        report: The HTML file.
        recorder: Takes the record.
        tag: The tag whose value, the comparison's name, all studies of the comparison have.
    """
    data = json.dumps(summary.as_json(), indent=2)
    identity = f"{comparison.name} {comparison.objective} {comparison.finals.tolist()} {summary.baseline}"
    recorder.record(
        StudyStarted(
            name=f"comparison {comparison.name}",
            params={
                "strategies": ", ".join(comparison.strategies),
                "repeats": comparison.repeats,
                "budget": comparison.budget,
                "baseline": summary.baseline,
            },
            tags={tag: comparison.name},
            key=hashlib.sha256(identity.encode()).hexdigest()[:32],
            metric=comparison.metric,
            direction=comparison.direction,
            budget=f"{comparison.budget} full trainings for each of {len(comparison.runs)} runs",
        )
    )
    ended: frozenset[int] = getattr(recorder, "ended", frozenset())
    for number, line in enumerate(summary.lines):
        if number not in ended:
            _record_strategy(comparison, line, number, recorder)
    recorder.record(Artifact(trial=None, path=REPORT, text=report))
    recorder.record(Artifact(trial=None, path="comparison.json", text=data))
    recorder.record(Description(markdown=_page(comparison, summary, tag)))
    recorder.record(StudyFinished())


def _record_strategy(comparison: StrategyComparison, line: StrategyLine, number: int, recorder: Recorder) -> None:
    recorder.record(TrialStarted(trial=number, name=line.strategy, params={"strategy": line.strategy}))
    spent = np.arange(1, comparison.budget + 1, dtype=np.float64)
    for step, loss in enumerate(median(comparison.by_spent(line.strategy, spent).T).tolist(), start=1):
        if math.isfinite(loss):
            values = {comparison.metric: comparison.sign * loss}
            recorder.record(Metrics(trial=number, step=step, values=values))
    figures = {key: float(value) for key, value in vars(line).items() if key not in ("strategy", "median")}
    known = {f"comparison/{key}": value for key, value in figures.items() if math.isfinite(value)}
    recorder.record(Metrics(trial=number, step=comparison.budget, values=known))
    recorder.record(TrialFinished(trial=number, value=line.median if math.isfinite(line.median) else None))


def _page(comparison: StrategyComparison, summary: ComparisonSummary, tag: str) -> str:
    """What a person reads first on the run's page."""
    rows = [
        f"| {line.strategy} | {line.median:.4g} | {line.mean_rank:.2f} | {line.failed} | {line.training_s:.3g} | "
        f"{line.proposing_s:.3g} |"
        for line in summary.lines
    ]
    return "\n".join(
        [
            f"# {comparison.name}: {len(comparison.strategies)} strategies compared",
            "",
            f"{comparison.repeats} runs of each, {comparison.budget} full trainings a run. "
            + " ".join(verdicts(comparison, summary)),
            "",
            "| strategy | median best | mean rank | failed trials | s in trainings | s elsewhere |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *summary.cautions,
            "",
            f"All figures: `{REPORT}` among the artifacts. All runs: search for "
            f"``tags.`{tag}` = '{comparison.name}'``.",
            "",
        ]
    )
