"""What a trial did over its steps, kept small enough to be drawn at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_MOST_POINTS = 2_000


@dataclass(frozen=True, slots=True)
class Training:
    """One trial as plain data, ready to be drawn.

    Attributes:
        name: The trial's name.
        curves: Steps and values of each metric.
        decisions: The steps at which a policy decided.
        notes: Steps and texts of decisions out of the ordinary.
    """

    name: str
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    decisions: Sequence[int] = ()
    notes: Sequence[tuple[int, str]] = ()

    @property
    def has_curves(self) -> bool:
        """Whether anything was measured at two steps or more."""
        return any(len(set(steps)) > 1 for steps, _ in self.curves.values())


@dataclass(slots=True)
class Curve:
    """A metric over steps in bounded memory: when it is full, every other point goes. The last point always stays."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    _stride: int = 1
    _seen: int = 0
    _last: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """Add a point."""
        if self._seen % self._stride == 0:
            self.steps.append(step)
            self.values.append(value)
            self._last = None
        else:
            self._last = (step, value)
        self._seen += 1
        if len(self.steps) > _MOST_POINTS:
            del self.steps[1::2], self.values[1::2]
            self._stride *= 2

    @property
    def end(self) -> tuple[int, float]:
        """The last point that was added."""
        return self._last or (self.steps[-1], self.values[-1])

    def points(self) -> tuple[Sequence[int], Sequence[float]]:
        """A copy of what is kept."""
        last_step, last_value = ([self._last[0]], [self._last[1]]) if self._last else ([], [])
        return (*self.steps, *last_step), (*self.values, *last_value)


@dataclass(slots=True)
class Trace:
    """A trial while it runs."""

    name: str
    curves: dict[str, Curve] = field(default_factory=dict)
    decisions: Curve = field(default_factory=Curve)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def add(self, name: str, step: int, value: float) -> None:
        """Add a point to a curve."""
        if (curve := self.curves.get(name)) is None:
            curve = self.curves[name] = Curve()
        curve.add(step, value)

    def last(self, name: str) -> float | None:
        """The last value of a curve; None where there is no such curve."""
        return self.curves[name].end[1] if name in self.curves else None

    @property
    def end(self) -> int:
        """The last step of any curve; 0 where there is none."""
        return max((curve.end[0] for curve in self.curves.values()), default=0)

    def training(self) -> Training:
        """A copy of what is kept, as plain data."""
        curves = {name: curve.points() for name, curve in self.curves.items()}
        return Training(self.name, curves, self.decisions.points()[0], tuple(self.notes))
