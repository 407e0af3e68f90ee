"""What waits to be logged to one run."""

from __future__ import annotations

from collections.abc import Mapping

from ..envs.records import Decision
from .names import LONGEST_PARAM, LONGEST_TAG, NAME_TAG, clean_name, shorten
from .operations import DECISIONS_FILE, Log, Operation, Point, Write
from .table import decisions_csv
from .traces import Trace

FULL = 800  # MLflow takes 1000 entries a batch, tags and params included
_TABLE_GROWTH = 1.25


class RunLog:
    """Collects metrics, tags and decisions of a run until they are worth a request.

    Args:
        run: The run's key.
        trace: Keeps what is drawn at the end.
    """

    def __init__(self, run: str, trace: Trace) -> None:
        self.run = run
        self.trace = trace
        self._points: list[Point] = []
        self._latest: dict[str, Point] = {}
        self._params: dict[str, str] = {}
        self._tags: dict[str, str] = {}
        self._keys: dict[str, str] = {}
        self._decisions: list[Decision] = []
        self._rows_written = 0

    def add(self, name: str, value: float, step: int, time_ms: int) -> None:
        """Add a metric's value at a step."""
        point = self._in_order(Point(self._key(name), float(value), time_ms, int(step)))
        self._points.append(point)
        self.trace.add(name, point.step, point.value)

    def _in_order(self, point: Point) -> Point:
        """The point, not before an earlier one of its step: the last value of a step is the one with the last time.

        MLflow takes the greater one where times are equal, and clocks are set back.
        """
        before = self._latest.get(point.key)
        if before is not None and before.step == point.step and before.value != point.value:
            point = point._replace(time_ms=max(point.time_ms, before.time_ms + 1))
        self._latest[point.key] = point
        return point

    def add_decision(self, decision: Decision) -> None:
        """Add a row to the table of decisions."""
        self._decisions.append(decision)
        self.trace.decisions.add(decision.step, 0.0)
        if decision.note:
            self.trace.notes.append((decision.step, decision.note))

    def add_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        for name, value in tags.items():
            self._tags[self._key(name)] = shorten(str(value), LONGEST_TAG)

    def set_params(self, params: Mapping[str, object]) -> list[Operation]:
        """Set params. One that is too long is kept whole as an artifact."""
        whole: list[Operation] = []
        for name, value in params.items():
            key, text = self._key(name), str(value)
            path = f"params/{key}.txt"
            if len(text) > LONGEST_PARAM:
                whole.append(Write(run=self.run, path=path, text=text))
            self._params[key] = shorten(text, LONGEST_PARAM, f"artifact {path}")
        return whole

    def flush_if_full(self) -> list[Operation]:
        """What waits, if it is enough for a whole request."""
        return self.flush() if len(self._points) >= FULL else []

    def flush(self, *, table: bool = False) -> list[Operation]:
        """What waits.

        Args:
            table: Write the table of decisions in any case. Otherwise it is written when it has grown by a quarter: a
                trial that is cut off leaves most of it, and all of its writings together cost a few tables.
        """
        operations: list[Operation] = []
        if self._points or self._params or self._tags:
            operations.append(
                Log(run=self.run, metrics=tuple(self._points), params=dict(self._params), tags=dict(self._tags))
            )
            self._points, self._params, self._tags = [], {}, {}
        rows = len(self._decisions)
        if rows and (table or rows > self._rows_written * _TABLE_GROWTH):
            operations.append(Write(run=self.run, path=DECISIONS_FILE, text=decisions_csv(self._decisions)))
            self._rows_written = rows
        return operations

    def _key(self, name: str) -> str:
        """The valid key of a name. Where it differs, a tag tells the name that was meant."""
        if name not in self._keys:
            self._keys[name] = key = clean_name(name)
            if key != name:
                self._tags[f"{NAME_TAG}{key}"] = shorten(name, LONGEST_TAG)
        return self._keys[name]
