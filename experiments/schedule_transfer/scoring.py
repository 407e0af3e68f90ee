"""From final losses to figures: ratios to a search, interquartile means, intervals, and tests over tasks.

After Agarwal et al. 2021 (Deep reinforcement learning at the edge of the statistical precipice): interquartile means
instead of means or medians, with bootstrap intervals. Tasks that share a problem (network and data) are not
independent, so problems are resampled, each with all of its tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import trim_mean, wilcoxon
from tasks import SEARCHED, STARTS, Array

SEARCHES = {"best_of_24": range(24), "best_of_12": range(0, 24, 2), "best_of_5": (2, 7, 11, 16, 21)}
"""Which of the searched rates a search tries; the five lie in the middle of fifths of the range."""
_RESAMPLES = 4000

Losses = Mapping[str, Array]
"""By strategy: shape (seeds, starts), or (seeds, 1) where the start plays no part; `cosine` has all searched rates."""


@dataclass(frozen=True)
class TaskResult:
    """What the strategies reached on a task, all seeds together.

    Attributes:
        problem: Tasks of one problem are resampled together.
        val: Final validation losses.
        test: Final test losses, of the same networks.
    """

    problem: str
    val: Losses
    test: Losses

    @property
    def sensible(self) -> Array:
        """Which starts lie within a factor of ten of the best cosine rate (median over seeds)."""
        best = SEARCHED[np.median(self.val["cosine"], axis=0).argmin()]
        near: Array = np.abs(np.log10(STARTS / best)) <= 1.0
        return near

    def with_searches(self) -> TaskResult:
        """With the searches as strategies of their own, and `cosine` cut to the starts.

        A search takes the rate of the best validation loss of the same seed; `tuned_elsewhere` that of the best median
        over the other seeds.
        """
        cosine, chosen = self.val["cosine"], {}
        for name, tried in SEARCHES.items():
            among = np.array(tried)
            chosen[name] = among[cosine[:, among].argmin(axis=1)]
        if len(cosine) > 1:
            others = [np.median(np.delete(cosine, seed, axis=0), axis=0) for seed in range(len(cosine))]
            chosen["tuned_elsewhere"] = np.argmin(others, axis=1)

        def added(losses: Losses) -> Losses:
            searches = {name: np.take_along_axis(losses["cosine"], rate[:, None], 1) for name, rate in chosen.items()}
            return {**losses, "cosine": losses["cosine"][:, ::2], **searches}

        return TaskResult(self.problem, added(self.val), added(self.test))


@dataclass(frozen=True)
class Ratios:
    """A strategy's losses over those of the best of 24 cosines of the same seed: shape (seeds, starts) or (seeds, 1).

    Attributes:
        problem: Of the task.
        values: The ratios.
        sensible: Which starts lie in the sensible two decades.
    """

    problem: str
    values: Array
    sensible: Array

    @property
    def in_sensible_decades(self) -> Array:
        """The ratios from there; all of them where the start plays no part."""
        return self.values if self.values.shape[1] == 1 else self.values[:, self.sensible]


def ratios(results: Mapping[str, TaskResult], strategy: str, part: str = "val") -> dict[str, Ratios]:
    """By task, where the strategy was run; `part` is "val" or "test"."""
    found = {}
    for name, result in results.items():
        complete = result.with_searches()
        losses: Losses = getattr(complete, part)
        if strategy in losses:
            found[name] = Ratios(result.problem, losses[strategy] / losses["best_of_24"], result.sensible)
    return found


def interquartile_mean(values: Array) -> float:
    """Mean of the middle half."""
    return float(trim_mean(values, 0.25))


def over_all_starts(tasks: Sequence[Ratios]) -> float:
    """Interquartile mean over tasks x seeds x starts."""
    return interquartile_mean(np.concatenate([task.values.flatten() for task in tasks]))


def over_sensible_starts(tasks: Sequence[Ratios]) -> float:
    """The same over starts in the sensible two decades; these are of a like number in all tasks."""
    return interquartile_mean(np.concatenate([task.in_sensible_decades.flatten() for task in tasks]))


def interval(tasks: Sequence[Ratios], figure: Callable[[Sequence[Ratios]], float]) -> tuple[float, float]:
    """95 % bootstrap interval of a figure over tasks, problems being resampled."""
    rng = np.random.default_rng(0)
    by_problem: dict[str, list[Ratios]] = {}
    for task in tasks:
        by_problem.setdefault(task.problem, []).append(task)
    groups, figures = list(by_problem.values()), []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(len(groups), size=len(groups))
        figures.append(figure([task for i in drawn for task in groups[i]]))
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)


def worst_sensible(task: Ratios) -> float:
    """The worst start of the sensible two decades, in the median over seeds."""
    return float(np.median(task.in_sensible_decades, axis=0).max())


def summarise(results: Mapping[str, TaskResult], strategies: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The figures of each strategy over all tasks that it was run on."""
    summary: dict[str, dict[str, Any]] = {}
    for strategy in strategies:
        by_task, on_test = ratios(results, strategy), ratios(results, strategy, "test")
        if not by_task:
            continue
        tasks = list(by_task.values())
        summary[strategy] = {
            "tasks": len(tasks),
            "iqm": over_all_starts(tasks),
            "iqm_95": interval(tasks, over_all_starts),
            "iqm_sensible": over_sensible_starts(tasks),
            "iqm_sensible_95": interval(tasks, over_sensible_starts),
            "iqm_test": over_all_starts(list(on_test.values())),
            "iqm_sensible_test": over_sensible_starts(list(on_test.values())),
            "worst_sensible_start": {name: worst_sensible(task) for name, task in by_task.items()},
            "median": {name: float(np.median(task.values)) for name, task in by_task.items()},
            "median_sensible": {name: float(np.median(task.in_sensible_decades)) for name, task in by_task.items()},
            "median_test": {name: float(np.median(task.values)) for name, task in on_test.items()},
        }
    return summary


def compare(
    results: Mapping[str, TaskResult], rivals: Sequence[str], sensible: bool = False
) -> dict[str, dict[str, Any]]:
    """The policy against each rival over tasks: medians of a task, paired.

    Args:
        results: By task.
        rivals: Strategies.
        sensible: Whether only starts of the sensible two decades count.

    Returns:
        By rival: on which share of the tasks the policy's median loss is lower, the median over tasks of the quotient
        of both, and the p-value of a two-sided Wilcoxon signed-rank test of its logarithm, as it is and after Holm
        (1979).
    """
    mine = ratios(results, "policy")
    compared: dict[str, dict[str, Any]] = {}
    for rival in rivals:
        theirs = ratios(results, rival)
        common = [name for name in theirs if name in mine]
        if not common:
            continue
        part = "in_sensible_decades" if sensible else "values"
        medians = np.array([[np.median(getattr(of[name], part)) for of in (mine, theirs)] for name in common])
        logs = np.log(medians[:, 0] / medians[:, 1])
        p = float(wilcoxon(logs).pvalue) if np.any(logs != 0) else 1.0
        share, quotient = float((logs < 0).mean()), float(np.exp(np.median(logs)))
        compared[rival] = {"tasks": len(common), "beaten": share, "median_quotient": quotient, "p": p}
    for name, adjusted in _holm({name: entry["p"] for name, entry in compared.items()}).items():
        compared[name]["p_holm"] = adjusted
    return compared


def guard(results: Mapping[str, TaskResult], reference: str) -> dict[str, Any]:
    """The policy over the reference that it adjusts, from the same starts in the sensible two decades.

    Returns:
        The reference's name; by task the median over seeds and starts, and the worst start (median over seeds); and the
        worst of both, None where the reference was run on no task. Tasks that it was not run on are left out.
    """
    medians, worst = {}, {}
    for name, result in results.items():
        losses = result.with_searches().val
        if reference not in losses:
            continue
        quotient = (losses["policy"] / losses[reference])[:, result.sensible]
        medians[name], worst[name] = float(np.median(quotient)), float(np.median(quotient, axis=0).max())
    return {
        "reference": reference,
        "median": medians,
        "worst_start": worst,
        "worst_task_median": max(medians.items(), key=lambda item: item[1], default=None),
        "worst_task_worst_start": max(worst.items(), key=lambda item: item[1], default=None),
    }


def _holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's step-down correction."""
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda each: p[each])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = highest
    return adjusted
