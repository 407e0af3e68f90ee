"""What a search space has in common with what was tried in another one: hyperparameters by name, values by value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

_MOST_SETS = 64
"""Sets of hyperparameters that are weighed against each other, the most frequent ones."""


def gridless(distribution: BaseDistribution) -> BaseDistribution:
    """The distribution without steps: a value between two of them says as much of its neighbourhood as any."""
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return FloatDistribution(distribution.low, distribution.high)
    if isinstance(distribution, IntDistribution) and distribution.step != 1:
        return IntDistribution(distribution.low, distribution.high)
    return distribution


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value lies within a distribution's range, on a step or between two."""
    without = gridless(distribution)
    try:
        return without._contains(without.to_internal_repr(value))
    except (ValueError, TypeError, OverflowError):
        return False


def enough_in_common(shared: int, varied: int) -> bool:
    """Whether a past task with so many of the hyperparameters that a search varies is worth to be heard: at least half.

    On the generated tasks (`envs.search_families`) such a past helps, or does no harm, whether what it lacks was varied
    then, unseen, or had one value; where it knew one hyperparameter alone, a search was no better with it, or worse.
    """
    return 2 * shared >= varied


def shared_names(known: Sequence[frozenset[str]], least: int) -> frozenset[str]:
    """The hyperparameters that a past task is taken to know: those under which its trials tell the most values.

    A set counts as many values as it has names, times the trials that know them all. So a few trials that lack
    something are dropped rather than its column, and a column that few trials have is dropped rather than the others.

    Args:
        known: What each trial knows, of today's hyperparameters; at least one trial.
        least: Trials that a task must have: no set is chosen that leaves fewer, where there is another.
    """
    counts = Counter(known)
    most = [names for names, _ in counts.most_common(_MOST_SETS)]
    candidates = [names for names in dict.fromkeys([*most, frozenset.intersection(*known)]) if names]
    told = {names: sum(count for each, count in counts.items() if names <= each) for names in candidates}
    enough = [names for names in candidates if told[names] >= least] or candidates
    return max(enough, key=lambda names: (told[names] * len(names), len(names)), default=frozenset())
