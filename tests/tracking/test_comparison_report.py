"""The report of a comparison."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
from metatuner.envs.comparison_summary import ComparisonSummary
from metatuner.envs.records import TrialState
from metatuner.envs.strategy_comparison import ComparedRun, ComparedTrial, StrategyComparison
from metatuner.tracking.comparison_plots import (
    by_spent_figure,
    by_wall_figure,
    exploration_figure,
    finals_figure,
    rank_figure,
)
from metatuner.tracking.comparison_report import comparison_report, verdicts

NAMES = ("policy", "tpe", "random", "de", "ga", "gp", "cmaes", "<b>")


def comparison(
    repeats: int = 5, names: tuple[str, ...] = NAMES, *, fail: str = "", known: bool = True, direction: str = "minimize"
) -> StrategyComparison:
    """Each strategy is better than the one before it, in all repeats; the policy, the first one, is the worst."""
    runs = []
    for place, name in enumerate(names):
        for repeat in range(repeats):
            trials = tuple(
                ComparedTrial(
                    number + 1.0,
                    TrialState.FAILED if name == fail else TrialState.FINISHED,
                    None if name == fail else 10.0 - place + repeat / 100 - number / 10,
                    0.5,
                    0.1,
                    *((0.5 / (number + 1), 0.2) if known and number else (None, None)),
                    message="ValueError: no" if name == fail else "",
                )
                for number in range(4)
            )
            runs.append(ComparedRun(name, repeat, repeat, trials))
    return StrategyComparison("digits", "train", "objective", direction, 4, None, names, repeats, tuple(runs))


def test_a_report_has_every_strategy_and_runs_nothing() -> None:
    found = comparison()
    report = comparison_report(found, ComparisonSummary.of(found, "random"), "metatuner compare <x>")
    assert "<script" not in report
    assert not re.search(r'(src|href)="(?!#)', report)
    assert "<b>" not in report
    rows = re.findall(r"<tr><td>(.*?)</td>", report)
    assert rows[:8] == ["&lt;b&gt;", "cmaes", "gp", "ga", "de", "random", "tpe", "policy"]
    assert report.count("<svg") == 5
    assert "metatuner compare &lt;x&gt;" in report


def test_it_says_where_the_policy_loses() -> None:
    found = comparison()
    said = " ".join(verdicts(found, ComparisonSummary.of(found, "random")))
    assert "Best: <b> (rank 1.00" in said
    assert "<b> from random, tpe, policy; cmaes from tpe, policy; gp from policy." in said
    assert "behind <b>, cmaes, gp, ga, de, random, tpe, and ahead of none" in said
    best = comparison(direction="maximize")
    said = " ".join(verdicts(best, ComparisonSummary.of(best, "random")))
    assert "Best: policy" in said
    assert "behind" not in said


def test_it_says_that_few_repeats_prove_nothing() -> None:
    few, many = (ComparisonSummary.of(comparison(repeats), "random") for repeats in (5, 10))
    assert not any(pair.adjusted < 0.05 for pair in few.pairs.values())
    (caution,) = [text for text in few.cautions if "too few for the paired tests" in text]
    assert "0.0625" in caution
    assert "At least 9 repeats" in caution
    assert not any("too few" in text for text in many.cautions)
    assert all(pair.adjusted < 0.05 for pair in many.pairs.values())


def test_two_repeats_of_two_strategies_are_no_error() -> None:
    found = comparison(2, ("tpe", "gp"), known=False)
    summary = ComparisonSummary.of(found, "tpe")
    assert summary.friedman is None
    assert any("no pair can be told apart" in text for text in summary.cautions)
    assert by_wall_figure(found).axes
    assert exploration_figure(found) is None


def test_a_strategy_that_always_fails_is_last_and_has_no_value() -> None:
    found = comparison(fail="gp")
    summary = ComparisonSummary.of(found, "random")
    assert summary.lines[-1].strategy == "gp"
    assert math.isinf(summary.lines[-1].median)
    assert summary.lines[-1].failed == 20
    assert "gp: 20 of 20 trials failed, the last one with ValueError: no." in summary.cautions
    assert summary.as_json()["strategies"][-1]["median"] is None
    panel = finals_figure(found, summary).axes[0]
    assert len(panel.get_lines()) == 2 * 8 - 1  # it has points that nobody sees, and no median


def test_who_found_the_same_is_named() -> None:
    found = comparison(3, ("tpe", "gp"))
    twins = tuple(dataclasses.replace(run, strategy="gp") for run in found.of("tpe"))
    same = dataclasses.replace(found, runs=(*found.of("tpe"), *twins))
    assert any("tpe and gp found the same" in text for text in ComparisonSummary.of(same, "tpe").cautions)


def test_repeats_that_end_alike_are_missed() -> None:
    found = comparison(9, ("tpe", "gp", "random"))
    runs = [run for run in found.runs if (run.strategy, run.repeat) != ("tpe", 0)]
    alike = ComparedRun("tpe", 0, 0, found.of("random")[0].trials)
    tied = dataclasses.replace(found, runs=(*runs, alike))
    assert not any("exactly as" in text for text in ComparisonSummary.of(tied, "random").cautions)
    few = dataclasses.replace(found, repeats=7, runs=tuple(run for run in tied.runs if run.repeat < 7))
    summary = ComparisonSummary.of(few, "random")
    assert (summary.pairs["tpe"].better, summary.pairs["tpe"].worse) == (0, 6)
    assert any(text.startswith("tpe ended exactly as random") for text in summary.cautions)


def test_figures_show_the_numbers() -> None:
    found = comparison()
    panel = by_spent_figure(found).axes[0]
    lines = {line.get_label(): line for line in panel.get_lines()}
    assert float(lines["policy"].get_ydata()[-1]) == pytest.approx(10 + 0.02 - 0.3)
    assert np.isnan(lines["policy"].get_ydata()[0])
    ranked = rank_figure(found, ComparisonSummary.of(found, "random")).axes[0]
    assert [label.get_text() for label in ranked.get_yticklabels()][-1] == "policy"
