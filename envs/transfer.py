"""How well a policy carries over from past tasks to others, as it was measured: plain data for reports.

Regrets are those of replayed tasks (`envs.replayed_tasks`): 0 is the best configuration that is known, 1 the median
trial of the task's history. A gain is the fall of the mean regret over all numbers of trials, so that early trials
count as much as late ones.
"""

from __future__ import annotations

from dataclasses import dataclass

POLICY, RULE, TPE, RANDOM = "policy", "rule", "tpe", "random"
"""Who searches: the policy, the rule that learning began from (the surrogate alone), Optuna's TPE, random search."""

_NAMES = {RULE: "surrogate alone", TPE: "TPE", RANDOM: "random search"}


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and what it may be with the confidence that was asked for.

    Attributes:
        mean: The mean.
        low: Lower end.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True, slots=True)
class TransferCurve:
    """Regrets by number of trials, over all tasks.

    Attributes:
        searcher: Who searched, one of `POLICY`, `RULE`, `TPE` and `RANDOM`.
        past: Other tasks that it was told of.
        regrets: After 1, 2, 3 ... trials.
        average: Over all numbers of trials.
        gain: Against the policy without past tasks.
    """

    searcher: str
    past: int
    regrets: tuple[Interval, ...]
    average: Interval
    gain: Interval

    @property
    def label(self) -> str:
        """In words."""
        tasks = f"{self.past} past task{'' if self.past == 1 else 's'}"
        if self.searcher == POLICY:
            return f"few-shot, {tasks}" if self.past else "zero-shot"
        return _NAMES[self.searcher] + (f", {tasks}" if self.past else "")


@dataclass(frozen=True, slots=True)
class TransferPair:
    """What a past does to a task.

    Attributes:
        past: The task that was told of; "all others" for all of them.
        target: The task that was searched.
        gain: Against no past.
        last_gain: The same after the last trial alone.
        p: Of no gain and no loss, two-sided, corrected for the number of pairs.
        doubted: Share of the moves at which the search did not believe the past.
        significant: Whether p says that there is a gain or a loss, with the confidence that was asked for.
    """

    past: str
    target: str
    gain: Interval
    last_gain: float
    p: float
    doubted: float
    significant: bool

    @property
    def worse(self) -> bool:
        """Whether this is negative transfer."""
        return self.significant and self.gain.mean < 0

    @property
    def better(self) -> bool:
        """Whether the past has helped."""
        return self.significant and self.gain.mean > 0


@dataclass(frozen=True, slots=True)
class Transfer:
    """Everything that was measured.

    Attributes:
        policy: The policy's name.
        tasks: Names of the tasks, each of which was searched.
        sample: Names of those in the matrix.
        trials: Of each search, in full trainings.
        repeats: Searches of each task in each way.
        seed: What was drawn follows from it.
        confidence: Of all intervals.
        curves: One a way to search; the first one is the policy without past tasks.
        pairs: The matrix: each task of the sample alone as the past of each other one.
        together: All other tasks as the past of each task.
    """

    policy: str
    tasks: tuple[str, ...]
    sample: tuple[str, ...]
    trials: int
    repeats: int
    seed: int
    confidence: float
    curves: tuple[TransferCurve, ...]
    pairs: tuple[TransferPair, ...]
    together: tuple[TransferPair, ...]

    @property
    def negative(self) -> list[TransferPair]:
        """Pairs of negative transfer, the worst first."""
        return sorted((pair for pair in self.pairs if pair.worse), key=lambda pair: pair.gain.mean)

    @property
    def rule(self) -> str:
        """By which pairs are flagged, in words."""
        return (
            f"A pair is flagged where a two-sided t-test of its {self.repeats} paired differences rejects no change, "
            "with variances shrunk towards those of all pairs (Smyth 2004) and p corrected for "
            f"{len(self.pairs)} pairs (Benjamini and Hochberg 1995): of those that are flagged, "
            f"{1 - self.confidence:.0%} may be expected to be flagged by chance."
        )

    @property
    def verdict(self) -> list[str]:
        """What came out, a few lines in words."""
        few = [curve for curve in self.curves if curve.searcher == POLICY and curve.past]
        most = max(few, key=lambda curve: curve.past)
        worst = min(self.together, key=lambda pair: pair.gain.mean)
        last = min(self.together, key=lambda pair: pair.last_gain)
        helped, lost = sum(pair.better for pair in self.pairs), sum(pair.worse for pair in self.together)
        return [
            f"{most.label}: a gain of {most.gain} over zero-shot",
            f"one task as the past: {len(self.negative)} of {len(self.pairs)} pairs are negative transfer, {helped} a "
            "gain; the others cannot be told from no change",
            f"all other tasks as the past: {lost} of {len(self.together)} tasks are significantly worse off; the least "
            f"gain is {worst.gain}, on {worst.target}, and {last.last_gain:.3f} after the last trial, on {last.target}",
        ]
