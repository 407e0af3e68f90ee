"""Past trials held against a search space: what fits, as Optuna studies, and what does not, in figures.

A hyperparameter is matched by its name and a value by what it is, whatever range and scale it was drawn from then. A
task need not know all hyperparameters (`envs.overlap.enough_in_common`), and may know others. A trial with a value out
of today's range is left out, and so is one that lacks what the others of its task have (`envs.overlap.shared_names`). A
run that ended with a value that is no finite number counts as failed. Where the study of a task went the other way, its
values are turned round: what was good there is good here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..envs.errors import StoreError
from ..envs.overlap import enough_in_common, gridless, holds, shared_names
from ..envs.past_tasks import LEAST_TRIALS
from ..envs.prior import Prior
from ..envs.prior_match import PriorMatch
from ..envs.records import TrialState
from ..envs.search_state import rung_units
from .curves import Curve
from .names import shorten
from .task_sample import MatchedTrial, TaskSample
from .told_trials import ToldTrial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.study import Study
    from optuna.trial import FrozenTrial


def matched(
    trials: Iterable[ToldTrial],
    space: Mapping[str, BaseDistribution],
    address: str,
    *,
    metric: str,
    direction: str = "minimize",
    units: int | None = None,
) -> Prior:
    """Past trials as studies in memory, one a task.

    Of a task with very many trials a sample is kept (`task_sample`), so memory is bounded by the number of tasks.

    Args:
        trials: The past trials; they are read once.
        space: The search space: Optuna's distributions by name.
        address: Where the trials come from, for messages.
        metric: What trials were judged by, for messages.
        direction: "minimize" or "maximize".
        units: Values that a full training reports: of a curve only what a search looks at is kept then.

    Raises:
        StoreError: No trial has a value and a hyperparameter of the space.
    """
    matching = _Matching(space, direction, units)
    for trial in trials:
        matching.add(trial)
    if not matching.tasks:
        raise StoreError(matching.why_none(address, metric))
    return matching.prior(address)


_MOST_NAMED = 12


class _Matching:
    def __init__(self, space: Mapping[str, BaseDistribution], direction: str, units: int | None) -> None:
        self._space = {name: gridless(each) for name, each in space.items()}
        self._varied = [name for name, each in space.items() if not each.single()]
        self._direction = direction
        self._rungs = None if units is None else rung_units(units)
        self.read = 0
        self.tasks: dict[str, TaskSample] = defaultdict(TaskSample)
        self._left_out: Counter[str] = Counter()
        self._out_of_range: dict[str, str] = {}  # a value of each hyperparameter that has such ones
        self._turned: set[str] = set()
        self._gone: dict[str, None] = {}
        self._found: dict[str, None] = {}

    def add(self, trial: ToldTrial) -> None:
        self.read += 1
        if trial.own:
            self._left_out["own"] += 1
            return
        self._found |= dict.fromkeys(trial.params)
        config = {name: _value(trial.params[name], each) for name, each in self._space.items() if name in trial.params}
        if not trial.says_something:
            self._left_out["valueless"] += 1
        elif not any(name in config for name in self._varied):
            self._left_out["foreign"] += 1
        elif _MISSING in config.values():
            self._left_out["out_of_range"] += 1
            name = next(name for name, value in config.items() if value is _MISSING)
            self._out_of_range.setdefault(name, trial.params[name])
        else:
            self._gone |= dict.fromkeys(name for name in trial.params if name not in self._space)
            self.tasks[trial.task].add(self._matched(trial, config))

    def why_none(self, address: str, metric: str) -> str:
        """What is said where nothing matches: the most frequent reason."""
        if not self.read:
            return f"{address!r} has no past runs: name another experiment or table"
        (reason, number), *_ = self._left_out.most_common(1)
        mine, theirs = ", ".join(self._varied), ", ".join(list(self._found)[:_MOST_NAMED])
        another = "another experiment or table"
        odd = " and ".join(f"{name} {shorten(value, 40)!r}" for name, value in list(self._out_of_range.items())[:2])
        why = {
            "own": f"of this very study; give it another name, or name {another}",
            "valueless": f"without a value of {metric!r}; name another metric, or {another}",
            "foreign": f"without any of {mine}, but with {theirs}; name {another}",
            "out_of_range": f"with a value that is out of today's ranges or not written as in these, such as {odd}; "
            f"widen those, or name {another}",
        }
        return f"none of the {self.read:,} past runs of {address!r} tells anything here: {number:,} {why[reason]}"

    def _matched(self, trial: ToldTrial, config: dict[str, Any]) -> MatchedTrial:
        state = TrialState.FAILED if trial.failed else trial.state
        value = trial.value if state is TrialState.FINISHED else None
        curve = self._thinned(trial.curve)
        direction = trial.direction or self._direction
        if direction != self._direction:
            self._turned.add(trial.task)
            curve = {step: -each for step, each in curve.items()}
        lower = None if value is None else value if direction == "minimize" else -value
        return MatchedTrial(config, lower, curve, state)

    def _thinned(self, curve: Curve) -> Curve:
        """The curve's last step up to each rung, and its last one."""
        if self._rungs is None or len(curve) <= len(self._rungs) + 1:
            return dict(curve)
        steps = [max((step for step in curve if step <= unit), default=None) for unit in (*self._rungs, max(curve))]
        return {step: curve[step] for step in dict.fromkeys(steps) if step is not None}

    def prior(self, address: str) -> Prior:
        studies: list[Study] = []
        known = dict.fromkeys(self._varied, 0)
        counted = tasks = thin = 0
        for name, sample in self.tasks.items():
            trials = sample.trials()
            self._left_out["spare"] += sample.count - len(trials)
            names = shared_names([frozenset(self._varied).intersection(each.config) for each in trials], LEAST_TRIALS)
            kept = [trial for trial in trials if names <= trial.config.keys()]
            self._left_out["incomplete"] += len(trials) - len(kept)
            studies.append(self._study(name, kept, names))
            if not _says_enough(kept, names):
                thin += 1
            elif enough_in_common(len(names), len(self._varied)):
                counted, tasks = counted + len(kept), tasks + 1
                known |= {each: known[each] + 1 for each in names}
        match = PriorMatch(
            address=address,
            read=self.read,
            trials=counted,
            tasks=tasks,
            known=known,
            gone=tuple(self._gone),
            thin_tasks=thin,
            strange_tasks=len(self.tasks) - tasks - thin,
            turned_tasks=len(self._turned),
            **self._left_out,
        )
        return Prior(studies, match)

    def _study(self, name: str, trials: list[MatchedTrial], names: frozenset[str]) -> Study:
        import optuna

        study = optuna.create_study(study_name=name, direction=optuna.study.StudyDirection[self._direction.upper()])
        study.add_trials([self._trial(trial, names) for trial in trials])
        return study

    def _trial(self, trial: MatchedTrial, names: frozenset[str]) -> FrozenTrial:
        import optuna

        # What has a single value today is not varied, and stays.
        config = {n: value for n, value in trial.config.items() if n in names or n not in self._varied}
        states = optuna.trial.TrialState
        state = {TrialState.FAILED: states.FAIL, TrialState.PRUNED: states.PRUNED}.get(trial.state, states.COMPLETE)
        value = trial.value if trial.value is None or self._direction == "minimize" else -trial.value
        return optuna.trial.create_trial(
            state=state,
            params=config,
            distributions={name: self._space[name] for name in config},
            value=value,
            intermediate_values=dict(trial.curve),
        )


_MISSING = object()


def _value(text: str, distribution: BaseDistribution) -> Any:
    """A hyperparameter's value from its text; `_MISSING` where it has none within its range."""
    from optuna.distributions import CategoricalDistribution

    if isinstance(distribution, CategoricalDistribution):
        exact = [choice for choice in distribution.choices if str(choice) == text]
        if len(exact) > 1:
            return _MISSING  # such as 1 and "1": which of them it was nobody can tell
        numbers = [
            each for each in distribution.choices if isinstance(each, int | float) and not isinstance(each, bool)
        ]
        return next(iter([*exact, *(each for each in numbers if each == _number(text))]), _MISSING)
    number = _number(text)
    if number is None or not holds(distribution, number):
        return _MISSING
    return distribution.to_external_repr(number)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _says_enough(trials: list[MatchedTrial], names: frozenset[str]) -> bool:
    """Whether a task is of use to a search, see `envs.past_tasks.History.says_enough`."""
    told = sum(trial.state is not TrialState.FAILED for trial in trials)
    ended = any(trial.value is not None for trial in trials)
    return told >= LEAST_TRIALS and ended and any(len({trial.config[n] for trial in trials}) > 1 for n in names)
