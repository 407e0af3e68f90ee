"""Past trials as one table, a CSV file in UTF-8: anybody can write one, and it may be shared.

    task,trial,step,state,value,lr,depth
    digits,0,,finished,0.31,0.01,3
    digits,1,1,pruned,0.92,0.5,2
    digits,1,2,,0.88,,

A row is a trial, or a trial at a step. Columns, in any order:

- `task`: the name of the past task. Always needed.
- the value: the column with the metric's name, else `value`. Empty where a trial told none.
- `trial`: what tells trials of a task apart; the rows of one stand together. Without this column a row is a trial.
- `step`: a whole number, the unit of budget at which the value was reported; empty in the row of the final value.
  Without such a row the last step's value is the final one.
- `state`: finished (also where it is empty), pruned, failed or killed.
- `direction`: minimize or maximize, which values were good; empty where whoever reads the table says so.
- any other column: a hyperparameter. It is told in a trial's first row, and may be empty in those that follow; empty in
  all of them, it is not known. One whose name is taken by the columns above is written `params.NAME`.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from ..envs.errors import StoreError
from ..envs.records import TrialState
from .told_trials import ToldTrial, is_number

RESERVED = ("task", "trial", "step", "state", "value", "direction")
PREFIX = "params."

_LONGEST_LINE = 2**22


def read_table(path: str | Path, metric: str = "objective") -> Iterator[ToldTrial]:
    """Trials of a table, one after another: memory stays bounded however many there are.

    Args:
        path: The file.
        metric: The name of the column with values; where there is none, it is `value`.

    Raises:
        StoreError: The file cannot be read, or is no such table; it says where.
    """
    reader = None
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(_lines(file), strict=True)
            header = _Header.read(path, next(reader, []), metric)
            current: _Rows | None = None
            over = set[int]()  # trials whose rows have come, as hashes: they may be many
            for cells in reader:
                if not cells:
                    continue
                row = header.row(cells, reader.line_num)
                if current is not None and row.key is not None and row.key == current.key:
                    current.add(row)
                    continue
                if current is not None:
                    over.add(hash(current.key))
                    yield current.trial()
                if row.key is not None and hash(row.key) in over:
                    raise StoreError(
                        f"{path}, line {reader.line_num}: expected the rows of a trial to stand together, and trial "
                        f"{row.key[1]!r} of {row.key[0]!r} has others above: sort the table by task and trial"
                    )
                current = _Rows(row.key)
                current.add(row)
            if current is not None:
                yield current.trial()
    except FileNotFoundError as error:
        raise StoreError(f"there is no table {path}: name a CSV file that exists") from error
    except (csv.Error, UnicodeDecodeError) as error:
        at = f", line {reader.line_num}" if reader is not None else ""
        raise StoreError(f"{path}{at}: expected a CSV file in UTF-8 ({error})") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read ({error}): name a CSV file") from error


def _lines(file: IO[str]) -> Iterator[str]:
    """Lines, each of bounded length: a file may be one of gigabytes."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line of {_LONGEST_LINE:,} characters or more")
        yield line


@dataclass(frozen=True, slots=True)
class _Row:
    key: tuple[str, str] | None  # what rows of one trial have in common; None where a row is a trial
    task: str
    step: int | None
    state: TrialState | None
    direction: str | None
    value: float | None
    params: dict[str, str]


@dataclass(slots=True)
class _Rows:
    """The rows of one trial."""

    key: tuple[str, str] | None
    task: str = ""
    params: dict[str, str] = field(default_factory=dict)
    curve: dict[int, float] = field(default_factory=dict)
    state: TrialState = TrialState.FINISHED
    direction: str | None = None
    final: float | None = None

    def add(self, row: _Row) -> None:
        self.task = row.task
        self.params = row.params | self.params
        self.state = row.state or self.state
        self.direction = row.direction or self.direction
        if row.step is None:
            self.final = self.final if row.value is None else row.value
        elif row.value is not None:
            self.curve[row.step] = row.value

    def trial(self) -> ToldTrial:
        curve = dict(sorted(self.curve.items()))
        last = next(reversed(curve.values()), None)
        return ToldTrial(
            task=self.task,
            params=self.params,
            value=last if self.final is None else self.final,
            curve={step: value for step, value in curve.items() if is_number(value)},
            state=self.state,
            direction=self.direction,
        )


@dataclass(frozen=True, slots=True)
class _Header:
    path: str | Path
    places: dict[str, int]  # of the columns that are no hyperparameters
    params: dict[str, int]
    width: int
    value: str

    @classmethod
    def read(cls, path: str | Path, names: list[str], metric: str) -> _Header:
        names = [name.strip() for name in names]
        value = metric if metric in names else "value"
        shown = f"its columns are {', '.join(filter(None, names)) or 'none at all'}"
        for needed, column in (("the past tasks", "task"), ("the values", value)):
            if column not in names:
                either = f"{metric!r} or 'value'" if column == value else f"{column!r}"
                raise StoreError(f"{path}: expected a column {either} with {needed}; {shown}")
        if "step" in names and "trial" not in names:
            raise StoreError(f"{path}: expected a column 'trial', which tells whose steps they are; {shown}")
        fixed = {name for name in (*RESERVED, value) if name in names}
        params = {name.removeprefix(PREFIX): place for place, name in enumerate(names) if name and name not in fixed}
        twice = [name for name in names if name and names.count(name) > 1]
        if twice or len(params) < sum(bool(name) and name not in fixed for name in names):
            raise StoreError(
                f"{path}: expected a column once, got one twice ({', '.join(dict.fromkeys(twice))}); {shown}"
            )
        return cls(path, {name: names.index(name) for name in fixed}, params, len(names), value)

    def row(self, cells: list[str], line: int) -> _Row:
        if len(cells) != self.width:
            raise StoreError(f"{self.path}, line {line}: expected {self.width} cells, got {len(cells)}")
        fixed = {name: cells[place].strip() for name, place in self.places.items()}
        if not fixed["task"]:
            raise StoreError(f"{self.path}, line {line}: expected the name of a task, got an empty cell")
        return _Row(
            key=(fixed["task"], fixed["trial"]) if fixed.get("trial") else None,
            task=fixed["task"],
            step=self._step(fixed.get("step", ""), line),
            state=self._state(fixed.get("state", ""), line),
            direction=self._direction(fixed.get("direction", ""), line),
            value=self._number(fixed[self.value], line),
            params={name: cells[place] for name, place in self.params.items() if cells[place]},
        )

    def _number(self, text: str, line: int) -> float | None:
        try:
            return float(text) if text else None
        except ValueError:
            raise StoreError(
                f"{self.path}, line {line}: expected a number in column {self.value!r}, got {text[:80]!r}"
            ) from None

    def _step(self, text: str, line: int) -> int | None:
        try:
            return int(text) if text else None
        except ValueError:
            raise StoreError(
                f"{self.path}, line {line}: expected a whole number in column 'step', got {text[:80]!r}"
            ) from None

    def _direction(self, text: str, line: int) -> str | None:
        if text.lower() not in ("", "minimize", "maximize"):
            raise StoreError(
                f"{self.path}, line {line}: expected minimize or maximize in column 'direction', got {text[:80]!r}; a "
                f"hyperparameter of that name is written {PREFIX}direction"
            )
        return text.lower() or None

    def _state(self, text: str, line: int) -> TrialState | None:
        try:
            return TrialState(text.lower()) if text else None
        except ValueError:
            states = ", ".join(TrialState)
            raise StoreError(
                f"{self.path}, line {line}: expected one of {states} in column 'state', got {text[:80]!r}"
            ) from None
