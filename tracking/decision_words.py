"""A policy's decisions in words: what it did to which hyperparameter, what it saw just then, and who overruled it.

A policy is a network: the table of decisions has what it saw and what it answered, not which of the figures moved it.
So the words put the two side by side, and give a reason only where the record has one: a decision's note, which says
that the training was rolled back, or what the guard objected to.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..envs.records import Decision
from .wording import in_words

_SAME = 0.005
"""A loss that changed by less, as a share, is told as about the same."""


_GUARD = "guard: "


def sentences(decisions: Sequence[Decision]) -> list[str]:
    """Each decision of a training as a few sentences, in their order."""
    befores: list[Decision | None] = [None, *decisions]
    return [_decision(each, before) for each, before in zip(decisions, befores, strict=False)]


def summary(decisions: Sequence[Decision]) -> str:
    """All decisions of a training in a few sentences."""
    parts = [_course(name, decisions) for name in dict.fromkeys(name for each in decisions for name in each.values)]
    notes = Counter(note for each in decisions for note in _notes(each))
    said = "; ".join(f"{note}: {_times(count)}" for note, count in notes.most_common())
    return " ".join([f"{_count(len(decisions), 'decision')}.", *parts, *([f"Notes: {said}."] if said else [])])


def adjusts(decisions: Sequence[Decision]) -> bool:
    """Whether anything was adjusted at all: there are policies that follow a reference as it is."""
    return any(move != 0 for each in decisions for move in each.adjustments.values())


@dataclass(frozen=True, slots=True)
class Habit:
    """What policies did to a hyperparameter in decisions of one kind.

    Attributes:
        seen: What the policy saw, in words.
        raised: How often they raised it.
        lowered: How often they lowered it.
        kept: How often they left it alone.
    """

    seen: str
    raised: int
    lowered: int
    kept: int


def habits(trainings: Iterable[Sequence[Decision]], name: str) -> list[Habit]:
    """What policies did to a hyperparameter after a new validation loss had fallen, had risen, or had not been told.

    The first decision of a training is left out: nothing has been seen then. So are decisions with a note, which were
    not the policy's alone, and trainings that nobody adjusted.

    Args:
        trainings: The decisions of each training.
        name: The hyperparameter.
    """
    counts: dict[str, Counter[int]] = {}
    for decisions in trainings:
        for each in decisions[1:] if adjusts(decisions) else ():
            move = each.adjustments.get(name)
            if move is not None and not each.note:
                counts.setdefault(_seen(each), Counter())[_sign(move)] += 1
    ordered = [seen for seen in _SEEN if seen in counts]
    return [Habit(seen, counts[seen][1], counts[seen][-1], counts[seen][0]) for seen in ordered]


_FELL, _ROSE, _STOOD, _UNTOLD = (
    "the validation loss had fallen",
    "the validation loss had risen",
    "the validation loss was about the same",
    "no new validation loss was known",
)
_SEEN = (_FELL, _ROSE, _STOOD, _UNTOLD)


def _seen(decision: Decision) -> str:
    change = decision.signals.get("val_since_last")
    if change is None or decision.signals.get("val_age", 0.0) > 0:
        return _UNTOLD
    if abs(math.expm1(change)) < _SAME:
        return _STOOD
    return _FELL if change < 0 else _ROSE


def _sign(move: float) -> int:
    return (move > 0) - (move < 0)


def _decision(decision: Decision, before: Decision | None) -> str:
    moves = [_move(name, decision, before) for name in decision.values]
    return " ".join(
        part
        for part in (f"Step {decision.step:,}: {', '.join(moves)}.", _sight(decision, before), *_verdicts(decision))
        if part
    )


def _move(name: str, decision: Decision, before: Decision | None) -> str:
    value, move = decision.values[name], decision.adjustments.get(name, 0.0)
    was = before.values.get(name) if before is not None else None
    if move == 0:
        moved = was is not None and was != value
        return f"{in_words(name)} not adjusted, {f'from {was:.3g} to' if moved else 'at'} {value:.3g}"
    verb = "raised" if move > 0 else "lowered"
    strength = f"{abs(move):.0%} of the largest move"
    if was is None or was == value:
        return f"{in_words(name)} {verb} to {value:.3g} ({strength})"
    # Where the reference moves, or a divergence cut it, the value may go the other way.
    ratio = f"times {value / was:.3g}, " if was and value / was > 0 else ""
    return f"{in_words(name)} {verb}, from {was:.3g} to {value:.3g} ({ratio}{strength})"


def _sight(decision: Decision, before: Decision | None) -> str:
    """What the policy saw; nothing where the table does not tell."""
    seen = decision.signals
    if before is None:
        return "Nothing had been measured yet."
    if seen.get("diverged", 0.0) > 0:
        what = "begun to overfit" if "overfitted" in decision.note else "diverged"
        return f"The training had {what} since the decision before."
    parts = []
    if "val_since_last" in seen:
        parts.append(_validation(decision))
    if "train_since_last" in seen:
        parts.append(f"the training loss {_change(seen['train_since_last'])}")
    if not parts:
        return ""
    return f"It saw {' and '.join(parts)} since the decision before."


def _validation(decision: Decision) -> str:
    seen = decision.signals
    if _seen(decision) == _UNTOLD:
        return "no new validation loss"
    above = math.expm1(seen.get("val_since_best", 0.0))
    place = f", {above:.1%} above its best" if above >= _SAME else ", its best so far" if above < 0 else ""
    return f"the validation loss {_change(seen['val_since_last'])}{place},"


def _change(log_ratio: float) -> str:
    share = math.expm1(log_ratio)
    if abs(share) < _SAME:
        return "about the same"
    if share > 1:
        return f"grown {share + 1:.3g} times"
    return f"{'up' if share > 0 else 'down'} by {abs(share):.1%}"


def _notes(decision: Decision) -> list[str]:
    """What its note says, in parts that recur."""
    if not decision.note:
        return []
    own, guard, why = decision.note.partition(_GUARD)
    return [*filter(None, [own.strip("; ")]), *([f"the guard overruled the policy ({why})"] if guard else [])]


def _verdicts(decision: Decision) -> list[str]:
    own, guard, why = decision.note.partition(_GUARD)
    told = [f"Note: {own.strip('; ')}."] if own.strip("; ") else []
    return [*told, *([f"The guard overruled the policy, because of: {why}."] if guard else [])]


def _course(name: str, decisions: Sequence[Decision]) -> str:
    signs = Counter(_sign(each.adjustments.get(name, 0.0)) for each in decisions)
    values = [each.values[name] for each in decisions if name in each.values]
    label = in_words(name)
    label = label[:1].upper() + label[1:]
    if not signs[1] and not signs[-1]:
        return f"{label} was never adjusted ({_path(values)})."
    return f"{label} was raised {_times(signs[1])} and lowered {_times(signs[-1])} ({_path(values)})."


def _path(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    if low == high:
        return f"{low:.3g} throughout"
    return f"{values[0]:.3g} at first, {values[-1]:.3g} at last, between {low:.3g} and {high:.3g}"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")


def _count(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
