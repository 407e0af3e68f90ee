"""Why the configurations of a study were proposed, counted by who said so.

Sources are those of the search policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .study_summary import TrialSummary

MEANINGS: Mapping[str, str] = {
    "given": "the user asked for it, or it was cut off and done again",
    "chance": "drawn at random, since nothing told more",
    "design": "too early to be clever: the middle of the ranges, or a point at random",
    "test": "whether past tasks are right: the middle of the ranges, where one would begin without them",
    "prior": "past tasks expect most of it",
    "surrogate": "what was learnt in this study expects most of it",
    "adjustment": "close to one of the best trials so far",
    "exploration": "not the best guess, but one that may be much better than it looks",
    "continuation": "a paused training that promised most for what its next units cost",
}
"""What it means that a source says so, for people."""


_CONTINUES = re.compile(r"continuation: trial (\d+)\b")


@dataclass(frozen=True, slots=True)
class Proposals:
    """Trials that one source proposed.

    Attributes:
        source: Who said so.
        meaning: What it means; empty for a source that is not known here.
        trials: How many there are.
        best: The best value among them; None where none counts.
        led: How many of them were the best so far when they ended.
    """

    source: str
    meaning: str
    trials: int
    best: float | None
    led: int


def proposals(trials: Sequence[TrialSummary], *, maximize: bool) -> list[Proposals]:
    """Trials by who proposed them, the most frequent source first.

    Args:
        trials: A study's trials; those of which nobody told why they were proposed are left out.
        maximize: Whether a larger value is better.
    """
    sources = {trial.trial: trial.proposal.source for trial in trials if trial.proposal is not None}
    leaders = _leaders(trials, maximize=maximize)
    found = []
    for source in dict.fromkeys(sources.values()):
        mine = [trial for trial in trials if sources.get(trial.trial) == source]
        values = [trial.value for trial in mine if trial.counts and trial.value is not None]
        best = (max(values) if maximize else min(values)) if values else None
        led = sum(trial.trial in leaders for trial in mine)
        found.append(Proposals(source, MEANINGS.get(source, ""), len(mine), best, led))
    return sorted(found, key=lambda each: -each.trials)


def full_reason(trial: int, reasons: Mapping[int, str]) -> str:
    """Why a trial was proposed; where it goes on with another one, also why that one was begun."""
    reason, seen = reasons[trial], {trial}
    told = reason
    while (found := _CONTINUES.match(reason)) is not None and int(found[1]) in reasons and int(found[1]) not in seen:
        first = int(found[1])
        seen.add(first)
        reason = reasons[first]
        told += f"; #{first} was begun for this reason: {reason}"
    return told


def _leaders(trials: Sequence[TrialSummary], *, maximize: bool) -> set[int]:
    """Numbers of the trials that were better than all that had ended before them."""
    leaders: set[int] = set()
    best: float | None = None
    for trial in sorted(trials, key=lambda each: each.started_ms + 1000 * each.seconds):
        if not trial.counts or trial.value is None:
            continue
        if best is None or (trial.value > best if maximize else trial.value < best):
            best = trial.value
            leaders.add(trial.trial)
    return leaders
