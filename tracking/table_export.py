"""Past trials written as a table to share (`trial_table`): hyperparameters and values, not who ran them where.

What is left out: ids, names and tags of runs, times, users and paths. Trials are numbered, and so are tasks where the
table is to be anonymous, or where a task's name looks like a path or an address. A hyperparameter with values that look
like that is left out too, unless it is asked for.
"""

from __future__ import annotations

import contextlib
import csv
import re
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ..envs.errors import ConfigurationError, StoreError
from ..envs.records import TrialState
from .told_trials import ToldTrial
from .trial_table import PREFIX, RESERVED

_LONGEST = 64
_TELLING = re.compile(
    r"[/\\@~]"
    r"|[0-9a-fA-F]{16}|[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-"  # ids
    r"|\b\d{1,3}(\.\d{1,3}){3}\b|[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2}"  # addresses, and times of the day
    r"|\w\.\w[\w.-]*:\d|\.(com|org|net|edu|gov|io|local|internal|corp|lan)\b"  # hosts
)
_TELLING_NAME = re.compile(r"^[/~]|[\\@]|/(home|Users|tmp|mnt)/")


@dataclass(frozen=True, slots=True)
class Export:
    """What was written.

    Attributes:
        tasks: Tasks.
        trials: Trials.
        names: Hyperparameters.
        withheld: Hyperparameters that were left out since values look like a path, an address, an id or a document, or
            their names like a path.
    """

    tasks: int
    trials: int
    names: tuple[str, ...]
    withheld: tuple[str, ...]


def write_table(
    path: str | Path,
    trials: Iterable[ToldTrial],
    *,
    exclude: Collection[str] = (),
    include: Collection[str] = (),
    anonymous: bool = False,
    metric: str = "objective",
) -> Export:
    """Writes a table; one that is there is replaced once the new one is whole.

    Args:
        path: The file.
        trials: What to write, read once; those that tell nothing are left out.
        exclude: Hyperparameters to leave out.
        include: Hyperparameters to write whatever their values look like.
        anonymous: Whether tasks are numbered.
        metric: What trials were judged by. Whoever reads the table may look for a column of that name: a hyperparameter
            that has it is told from it.

    Raises:
        ConfigurationError: `exclude` or `include` names a hyperparameter that no trial has.
        StoreError: There is nothing to write, or the file cannot be written.
    """
    final = Path(path)
    beside = final.with_name(f"{final.name}.part")
    try:
        # Which columns there are, and which of them may be shown, is known after the last trial.
        with (
            beside.open("w", encoding="utf-8", newline="") as file,
            tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as body,
        ):
            draft = _Draft(anonymous)
            csv.writer(body).writerows(row for trial in trials for row in draft.rows(trial))
            names, withheld = draft.chosen(frozenset(exclude), frozenset(include))
            body.seek(0)
            _copy(body, file, draft, names, {*RESERVED, "objective", metric})
        beside.replace(final)
    except OSError as error:
        raise StoreError(f"{path} cannot be written ({error}): name a file in a folder that exists") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
    return Export(len(draft.tasks), draft.count, names, withheld)


def looks_private(text: str) -> bool:
    """Whether a text looks like a path, an address, an id or a document, rather than a number or a choice."""
    try:
        float(text)
    except ValueError:
        return len(text) > _LONGEST or _TELLING.search(text) is not None
    return False


@dataclass(slots=True)
class _Draft:
    """Rows with a cell for each hyperparameter that has been seen so far."""

    anonymous: bool
    count: int = 0
    tasks: dict[str, str] = field(default_factory=dict)  # what each is called in the table
    places: dict[str, int] = field(default_factory=dict)
    private: dict[str, None] = field(default_factory=dict)
    _numbers: Counter[str] = field(default_factory=Counter)
    _shown: set[str] = field(default_factory=set)

    def rows(self, trial: ToldTrial) -> Iterator[list[str]]:
        """The rows of a trial: of its curve, then of its final value."""
        if not trial.says_something:
            return
        self.count += 1
        task = self._task(trial.task)
        number = str(self._numbers[task])
        self._numbers[task] += 1
        points = [(str(step), repr(float(value))) for step, value in trial.curve.items()]
        # The table has no word for what is not allowed.
        state = trial.state if trial.allowed or trial.state is not TrialState.FINISHED else TrialState.FAILED
        if state is not TrialState.PRUNED:
            told = trial.value is not None and state is TrialState.FINISHED
            points.append(("", repr(float(trial.value)) if told and trial.value is not None else ""))
        for i, (step, value) in enumerate(points):
            first = i == 0
            once = [str(state), value, trial.direction or "", *self._cells(trial)] if first else ["", value, ""]
            yield [task, number, step, *once]

    def chosen(self, exclude: frozenset[str], include: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Hyperparameters that are written, and those that are not since they look private."""
        if not self.count:
            raise StoreError("there are no past trials with a value to write: name another experiment, or metric")
        if unknown := sorted((exclude | include) - self.places.keys()):
            raise ConfigurationError(
                f"no past trial has a hyperparameter {', '.join(map(repr, unknown))}: expected some of "
                f"{', '.join(self.places)}"
            )
        withheld = tuple(name for name in self.private if name not in include and name not in exclude)
        return tuple(name for name in self.places if name not in exclude and name not in withheld), withheld

    def _cells(self, trial: ToldTrial) -> list[str]:
        for name, text in trial.params.items():
            self.places.setdefault(name, len(self.places))
            if looks_private(text) or _TELLING_NAME.search(name):
                self.private[name] = None
        return [trial.params.get(name, "") for name in self.places]

    def _task(self, name: str) -> str:
        if name not in self.tasks:
            number, shown = len(self.tasks) + 1, name.strip()
            hidden = self.anonymous or not shown or looks_private(shown)
            while hidden or shown in self._shown:
                shown, number = f"task {number}", number + 1
                hidden = False
            self.tasks[name] = shown
            self._shown.add(shown)
        return self.tasks[name]


def _copy(body: Any, file: IO[str], draft: _Draft, names: tuple[str, ...], taken: Collection[str]) -> None:
    """The draft with its header, without the columns that are not written."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*RESERVED, *(f"{PREFIX}{each}" if _meant_otherwise(each, taken) else each for each in names)])
    places = [len(RESERVED) + draft.places[name] for name in names]
    for row in csv.reader(body):
        writer.writerow([*row[: len(RESERVED)], *(row[place] if place < len(row) else "" for place in places)])


def _meant_otherwise(name: str, taken: Collection[str]) -> bool:
    """Whether a column of a hyperparameter's name would not be read as that."""
    return name in taken or name.startswith(PREFIX)
