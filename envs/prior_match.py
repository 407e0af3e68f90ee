"""What of the past a search space has matched, for people."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

_MOST_NAMED = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorMatch:
    """How past trials fit a search space.

    Attributes:
        address: Where they came from, such as "mlflow:NAME".
        read: Past trials that were looked at.
        trials: Those that count: of tasks that say enough.
        tasks: Tasks that say enough.
        known: By hyperparameter of the space how many of these tasks know it; 0 where it is new.
        gone: Hyperparameters of past trials that the space does not have.
        out_of_range: Trials left out since a value lies outside of today's range.
        incomplete: Trials left out since they lack hyperparameters that the others of their task have.
        foreign: Trials left out since they have no hyperparameter of the space.
        valueless: Trials left out since they tell no value: killed, or never judged.
        own: Trials left out since they are of the study that is to be tuned.
        spare: Trials left out since their task has so many that a sample of them is enough.
        thin_tasks: Tasks left out with too few trials, or all at one point.
        strange_tasks: Tasks left out that have less than half of the hyperparameters.
        turned_tasks: Tasks that went the other way, whose values are turned round.
    """

    address: str
    read: int
    trials: int
    tasks: int
    known: Mapping[str, int]
    gone: tuple[str, ...] = ()
    out_of_range: int = 0
    incomplete: int = 0
    foreign: int = 0
    valueless: int = 0
    own: int = 0
    spare: int = 0
    thin_tasks: int = 0
    strange_tasks: int = 0
    turned_tasks: int = 0

    def beside(self, elsewhere: Collection[str]) -> PriorMatch:
        """The same where these hyperparameters are somewhere else in the space, such as under a condition."""
        return replace(self, gone=tuple(name for name in self.gone if name not in elsewhere))

    def lines(self) -> list[str]:
        """The same in words, a few lines."""
        found = [f"prior {self.address}: {_count(self.trials, 'trial')} of {self.read:,} count, "
                 f"of {_count(self.tasks, 'past task')}"]  # fmt: skip
        by_all = [name for name, tasks in self.known.items() if 0 < tasks == self.tasks]
        by_some = [f"{name} (by {n} of {self.tasks})" for name, n in self.known.items() if 0 < n < self.tasks]
        new = [name for name, tasks in self.known.items() if not tasks]
        for what, names in (
            ("known by every task", by_all),
            ("known by some tasks", by_some),
            ("new here", new),
            ("no longer here", self.gone),
        ):
            if names:
                found.append(f"  {what}: {_listed(names)}")
        left_out = _counted(
            (self.out_of_range, "out of today's ranges"),
            (self.incomplete, "without what others of their task have"),
            (self.foreign, "without any hyperparameter of this space"),
            (self.valueless, "without a value"),
            (self.own, "of a study with this one's name"),
            (self.spare, "of tasks with more trials than are looked at"),
        )
        if left_out:
            found.append(f"  trials left out: {', '.join(left_out)}")
        tasks = _counted(
            (self.thin_tasks, "with too few trials, or all at one point"),
            (self.strange_tasks, "with less than half of the hyperparameters"),
        )
        if tasks:
            found.append(f"  tasks left out: {', '.join(tasks)}")
        if self.turned_tasks:
            found.append(f"  turned round, since what was good there were values at the other end: "
                         f"{_count(self.turned_tasks, 'task')}")  # fmt: skip
        return found


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _counted(*counts: tuple[int, str]) -> list[str]:
    """Those that are not zero, in words."""
    return [f"{count:,} {why}" for count, why in counts if count]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
