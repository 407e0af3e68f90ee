"""Trainings that would be the same, number by number: one of them is enough.

A hyperparameter may have no effect where another one has a certain value, or the objective rounds it. Trainings with
equal values of a coarse metric are no such ones: they soon part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SAME_AGAIN = 9  # times as many pairs with equal values stay equal as part: then they are the same training


class Repetitions:
    """Learns from pairs of trials whether equal values mean equal trainings."""

    def __init__(self) -> None:
        self._again = self._no_more = 0  # pairs with equal values up to a rung, by whether they are equal at the next

    def learn(self, curve: Sequence[float], others: Mapping[int, Sequence[float]]) -> None:
        """A trial has reached its next rung; of several others that were equal up to there, one tells.

        Args:
            curve: Its values at each rung that it has reached.
            others: Those of the other trials, by number.
        """
        before = list(curve[:-1])
        for other in others.values() if before else ():
            if len(other) > len(before) and list(other[: len(before)]) == before:
                same = other[len(before)] == curve[-1]
                if same and curve[-1] == before[-1]:
                    return  # a metric that has not moved yet, such as an accuracy at chance, says nothing
                self._again, self._no_more = self._again + same, self._no_more + (not same)
                return

    def among(self, curves: Mapping[int, Sequence[float]]) -> frozenset[int]:
        """Numbers of trials that would repeat what another one has done, or is about to do.

        Args:
            curves: Values of all trials at each rung that they have reached, by number. Of equal ones the one that is
                trained furthest stands for all, and of these the first; not as long as its values do not move.
        """
        if not self._again or self._again < _SAME_AGAIN * self._no_more:
            return frozenset()
        leading: dict[tuple[float, ...], int] = {}
        for number in sorted(curves, key=lambda each: (-len(curves[each]), each)):
            for reached in range(1, len(curves[number]) + 1):
                leading.setdefault(tuple(curves[number][:reached]), number)
        found = []
        for number, curve in curves.items():
            lead = leading[tuple(curve)] if curve else number
            moved = len(curves[lead]) == len(curve) or curves[lead][len(curve)] != curve[-1]
            if lead != number and moved:
                found.append(number)
        return frozenset(found)
