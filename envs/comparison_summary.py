"""What a comparison of strategies says: a line for each, and which differences are more than luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .paired_tests import (
    Friedman,
    SignedRank,
    against_baseline,
    critical_difference,
    friedman,
    least_friedman_p,
    least_signed_rank_p,
    median,
    median_interval,
    ranks,
    repeats_to_reject,
)
from .records import TrialState
from .strategy_comparison import StrategyComparison

ALPHA = 0.05
"""The level of all tests."""


@dataclass(frozen=True)
class StrategyLine:
    """A strategy in figures; values as the objective gives them.

    Attributes:
        strategy: Its name.
        median: Median of the best values of its runs.
        low: Lower end of the median's 95 % bootstrap interval.
        high: Upper end.
        mean_rank: Its mean rank among all strategies, 1 is the best.
        trials: Trials of a run, in the mean.
        failed: Trials that failed, in all runs.
        training_s: Seconds of a run in the objective, median.
        proposing_s: Seconds of a run in everything else, median.
    """

    strategy: str
    median: float
    low: float
    high: float
    mean_rank: float
    trials: float
    failed: int
    training_s: float
    proposing_s: float


@dataclass(frozen=True)
class ComparisonSummary:
    """What a comparison says.

    Attributes:
        lines: The strategies, the best mean rank first.
        baseline: Which strategy the others are held against.
        friedman: Whether all are alike; None for two, where there is nothing beyond the pair.
        critical_difference: By how much mean ranks must differ (Nemenyi).
        pairs: Each other strategy against the baseline, by name.
        cautions: What these tests cannot say here, in words.
    """

    lines: tuple[StrategyLine, ...]
    baseline: str
    friedman: Friedman | None
    critical_difference: float
    pairs: Mapping[str, SignedRank]
    cautions: tuple[str, ...]

    @classmethod
    def of(cls, comparison: StrategyComparison, baseline: str) -> ComparisonSummary:
        """Judges a comparison; `baseline` is one of its strategies."""
        losses, names = comparison.finals, comparison.strategies
        repeats, methods = losses.shape
        mean_ranks = ranks(losses).mean(axis=0)
        lines = [_line(comparison, place, float(mean_ranks[place])) for place in range(methods)]
        pairs = {names[pair.method]: pair for pair in against_baseline(losses, names.index(baseline))}
        return cls(
            tuple(sorted(lines, key=lambda line: (line.mean_rank, comparison.sign * line.median))),
            baseline,
            friedman(losses) if methods > 2 else None,
            critical_difference(repeats, methods, ALPHA),
            pairs,
            (
                *_failures(comparison),
                *_alike(comparison),
                *_cautions(repeats, methods),
                *_thinned(pairs, baseline, repeats, methods),
            ),
        )

    @property
    def apart(self) -> dict[str, list[str]]:
        """From which worse ones each strategy's mean rank differs by more than the critical difference."""
        found = {
            one.strategy: [
                other.strategy for other in self.lines if other.mean_rank - one.mean_rank > self.critical_difference
            ]
            for one in self.lines
        }
        return {name: others for name, others in found.items() if others}

    def as_json(self) -> dict[str, Any]:
        """The same for machines: numbers that JSON does not have are None."""
        return {
            "baseline": self.baseline,
            "strategies": [{key: _plain(value) for key, value in vars(line).items()} for line in self.lines],
            "friedman": None if self.friedman is None else vars(self.friedman),
            "nemenyi_critical_difference": self.critical_difference,
            "nemenyi_apart": self.apart,
            "against_baseline": {
                name: {"better": pair.better, "worse": pair.worse, "p": pair.p, "p_holm": pair.adjusted}
                for name, pair in self.pairs.items()
            },
            "cautions": list(self.cautions),
        }


def _line(comparison: StrategyComparison, place: int, mean_rank: float) -> StrategyLine:
    strategy, losses = comparison.strategies[place], comparison.finals[:, place]
    runs = comparison.of(strategy)
    ends = sorted(comparison.sign * end for end in median_interval(losses))
    return StrategyLine(
        strategy=strategy,
        median=comparison.sign * float(median(losses)),
        low=ends[0],
        high=ends[1],
        mean_rank=mean_rank,
        trials=float(np.mean([len(run.trials) for run in runs])),
        failed=sum(run.failed for run in runs),
        training_s=float(np.median([run.training_s for run in runs])),
        proposing_s=float(np.median([run.proposing_s for run in runs])),
    )


def _failures(comparison: StrategyComparison) -> list[str]:
    """Who had trials that failed, and why."""
    found = []
    for strategy in comparison.strategies:
        trials = [trial for run in comparison.of(strategy) for trial in run.trials]
        failed = [trial for trial in trials if trial.state is TrialState.FAILED]
        if failed:
            why = f", the last one with {failed[-1].message}" if failed[-1].message else ""
            found.append(f"{strategy}: {len(failed)} of {len(trials)} trials failed{why}.")
    return found


def _alike(comparison: StrategyComparison) -> list[str]:
    """Which strategies found the same in every repeat."""
    if np.isfinite(found := comparison.finals).all() and (found == found[0, 0]).all():
        return ["All strategies found the same value in all repeats: the objective may not depend on what is tuned."]
    names: dict[tuple[float, ...], list[str]] = {}
    for strategy, losses in zip(comparison.strategies, comparison.finals.T.tolist(), strict=True):
        names.setdefault(tuple(losses), []).append(strategy)
    return [
        f"{' and '.join(same)} found the same in every repeat: a strategy that begins at random is random search, with "
        "the same seed, until it has learnt something."
        for same in names.values()
        if len(same) > 1
    ]


def _cautions(repeats: int, methods: int) -> list[str]:
    """What is to be known before the tests are believed."""
    found = [
        "The repeats differ by the seed alone: what is found holds for this objective, and says nothing of other ones."
    ]
    least, pairs = least_signed_rank_p(repeats), methods - 1
    if pairs * least > ALPHA:
        corrected = f", after Holm's correction for {pairs} comparisons {min(1.0, pairs * least):.3g}" * (pairs > 1)
        found.append(
            f"{repeats} repeats are too few for the paired tests: the smallest two-sided p that Wilcoxon's test can "
            f"give is {least:.3g}{corrected}, so that no difference from the baseline can be significant at {ALPHA:g}, "
            f"however large. At least {repeats_to_reject(methods, ALPHA)} repeats are needed."
        )
    if methods > 2 and (smallest := least_friedman_p(repeats, methods)) > ALPHA:
        found.append(
            f"They are too few for Friedman's test too: its smallest p is {smallest:.3g}, even where all repeats agree "
            "on every rank."
        )
    largest = methods - 1
    if critical_difference(repeats, methods, ALPHA) > largest:
        found.append(
            f"No two mean ranks can differ by more than {largest}, which is less than Nemenyi's critical difference: "
            "no pair can be told apart."
        )
    if methods > 2 and repeats < 10:
        found.append("With fewer than ten repeats Friedman's p, by chi-square, is rough.")
    return found


def _thinned(pairs: Mapping[str, SignedRank], baseline: str, repeats: int, methods: int) -> list[str]:
    """Which paired tests have too few repeats left, where there would be enough."""
    needed = repeats_to_reject(methods, ALPHA)
    names = [name for name, pair in pairs.items() if pair.better + pair.worse < needed]
    if repeats < needed or not names:
        return []
    return [
        f"{', '.join(names)} ended exactly as {baseline} in some repeats, which Wilcoxon's test leaves out: with fewer "
        f"than {needed} others none of them can be significant by itself after Holm's correction. More repeats would "
        "tell."
    ]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
