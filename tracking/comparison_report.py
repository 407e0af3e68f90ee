"""A comparison of strategies as one HTML file."""

from __future__ import annotations

import math

from ..envs.comparison_summary import ALPHA, ComparisonSummary, StrategyLine
from ..envs.strategy_comparison import StrategyComparison
from .comparison_plots import by_spent_figure, by_wall_figure, exploration_figure, finals_figure, rank_figure
from .html_page import heading, page, paragraph, picture, table

_LEARNED = "policy"
"""The strategy of ours: what beats it is said first."""


def comparison_report(comparison: StrategyComparison, summary: ComparisonSummary, command: str = "") -> str:
    """The whole file.

    Args:
        comparison: What was measured.
        summary: What it says.
        command: How to do it again.
    """
    better = "more" if comparison.direction == "maximize" else "less"
    parts = [
        paragraph(
            f"{len(comparison.strategies)} strategies have tuned {comparison.objective}, each {comparison.repeats} "
            f"times with {comparison.budget} full trainings; {better} is better. All of a repeat have the same seed."
        ),
        *(paragraph(text) for text in verdicts(comparison, summary)),
        table(
            [
                "strategy",
                "median best",
                "95 % from",
                "to",
                "mean rank",
                "trials",
                "failed",
                "s in trainings",
                "s elsewhere",
            ],
            [_cells(line) for line in summary.lines],
        ),
        paragraph(
            "Median of the best values of the runs, with a bootstrap interval (too narrow where runs are few); trials "
            "of a run in the mean, failed ones of all runs; median seconds of a run, those elsewhere being what the "
            "strategy's proposals, the study's storage and the record take. Random search, which thinks of nothing, "
            "tells how much of that is storage and record."
        ),
        heading("How good, how soon"),
        picture(by_spent_figure(comparison), f"Best {comparison.metric} by full trainings spent: {_BANDS}"),
        picture(
            by_wall_figure(comparison),
            f"The same by seconds, those of proposals too: {_BANDS} A point is where the slowest run ended.",
        ),
        heading("At the end"),
        picture(
            finals_figure(comparison, summary),
            "The best value of each run (points) and the median of each strategy (lines).",
        ),
        heading("Which differences are more than luck?"),
        *(paragraph(text) for text in _tests(summary)),
        picture(
            rank_figure(comparison, summary),
            f"Mean ranks (diamonds) and those of each repeat (points). Bars are as wide as Nemenyi's critical "
            f"difference at {ALPHA:g}, {summary.critical_difference:.2f}: where two overlap, the strategies are not "
            "told apart. The dotted line is the end of the best one's.",
        ),
        table(
            [f"against {summary.baseline}", "better in", "worse in", "p (Wilcoxon)", "p (Holm)", f"below {ALPHA:g}"],
            [
                [name, pair.better, pair.worse, pair.p, pair.adjusted, "yes" if pair.adjusted < ALPHA else "no"]
                for name, pair in summary.pairs.items()
            ],
        ),
        *(paragraph(text) for text in summary.cautions),
    ]
    exploration = exploration_figure(comparison)
    if exploration is not None:
        parts += [
            heading("Exploring or exploiting?"),
            picture(
                exploration,
                "How far proposals lie from the best configuration, and from the nearest one, of those before: medians "
                "over tenths of the budget. 0 is the same configuration again, 1 the opposite corner of the search "
                "space, and two random points are about 0.4 apart. Far is exploring, near is exploiting.",
            ),
        ]
    parts += [
        heading("Every run"),
        table(
            ["repeat", *comparison.strategies],
            [
                [str(repeat), *(_shown(comparison.sign * float(final)) for final in finals)]
                for repeat, finals in enumerate(comparison.finals)
            ],
        ),
        heading("How this was measured"),
        paragraph(
            "Each run is a study of its own, without knowledge of past tasks. Strategies take turns, in the other "
            "order every other repeat. Values count from trainings that were finished: one that was stopped early "
            "costs its share of the budget and has none. Friedman's and Nemenyi's tests and Wilcoxon's signed ranks, "
            "exact and two-sided, are used as in Demšar, Statistical comparisons of classifiers over multiple data "
            "sets, JMLR 7 (2006), with the repeats in the place of data sets; Holm, A simple sequentially rejective "
            "multiple test procedure, Scandinavian Journal of Statistics 6 (1979)."
        ),
    ]
    if command:
        parts.append(paragraph(f"Again: {command}"))
    return page(f"{comparison.name}: {len(comparison.strategies)} strategies compared", parts)


_BANDS = "medians (lines) and quartiles (bands) of the runs; the first trials may lie outside."


def verdicts(comparison: StrategyComparison, summary: ComparisonSummary) -> list[str]:
    """What is found, in sentences: the best first, and what is better than the learned policy."""
    best = summary.lines[0]
    alike = [line.strategy for line in summary.lines if line.mean_rank == best.mean_rank]
    ranked = f"rank {best.mean_rank:.2f} of {len(summary.lines)} in the mean, median {_shown(best.median)}"
    found = [f"Best: {', '.join(alike)} ({ranked})."]
    policy = next((line for line in summary.lines if line.strategy == _LEARNED), None)
    if policy is not None and policy.strategy not in alike:
        ahead = [line.strategy for line in summary.lines if line.mean_rank < policy.mean_rank]
        behind = [line.strategy for line in summary.lines if line.mean_rank > policy.mean_rank]
        found.append(
            f"The policy (rank {policy.mean_rank:.2f}, median {_shown(policy.median)}) is behind {', '.join(ahead)}"
            + (f", and ahead of {', '.join(behind)}." if behind else ", and ahead of none.")
        )
    if summary.friedman is not None and summary.friedman.p < ALPHA:
        apart = summary.apart
        found.append(
            "Told apart by their mean ranks (Friedman, Nemenyi): "
            + ("; ".join(f"{name} from {', '.join(others)}" for name, others in apart.items()) or "none")
            + "."
        )
    significant = [name for name, pair in summary.pairs.items() if pair.adjusted < ALPHA]
    found.append(
        f"Significantly different from {summary.baseline} (Wilcoxon, Holm, {ALPHA:g}): "
        + (", ".join(significant) if significant else "none")
        + "."
    )
    return found


def _tests(summary: ComparisonSummary) -> list[str]:
    if summary.friedman is None:
        return []
    p = summary.friedman.p
    return [
        f"Friedman's test: the statistic is {summary.friedman.statistic:.2f}, p {'is' if p >= 1e-4 else 'is below'} "
        f"{max(p, 1e-4):.2g}. "
        + (
            f"That all {len(summary.lines)} strategies are alike is rejected at {ALPHA:g}."
            if p < ALPHA
            else "It does not reject that all strategies are alike, so that differences of ranks may be luck."
        )
    ]


def _cells(line: StrategyLine) -> list[object]:
    interval = [_shown(line.low), _shown(line.high)]
    seconds = [_shown(line.training_s), _shown(line.proposing_s)]
    return [line.strategy, _shown(line.median), *interval, line.mean_rank, line.trials, line.failed, *seconds]


def _shown(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "none"
