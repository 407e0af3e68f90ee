"""An Optuna study as a search: what its trials say is learnt once, when it is new, however long the study."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import median_low
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from ..envs.constraints import is_allowed
from ..envs.errors import ConfigurationError
from ..envs.overlap import enough_in_common, holds, shared_names
from ..envs.past_tasks import LEAST_TRIALS, History, PastTasks
from ..envs.search_state import SearchState, rung_units
from ..envs.unit_cube import UnitCube
from .cut_off_trials import is_cut_off
from .purse import UNITS_ATTRIBUTE, spent_units
from .reasons import CHANCE, EXHAUSTED, GIVEN, Reason, reason_of
from .search_policy import SearchPolicy

LOOKAHEAD = 25
"""Full trainings that a search looks ahead, at most: the most that policies have learnt to spend."""

_ROUNDING = 1e-9  # in full trainings
_SAME = 1e-6  # in widths of a range: what encoding and decoding a configuration may change

_NAMELESS = "no-name-"
"""What the names of studies begin with that Optuna had to name."""


class FollowedStudy:
    """The search that a study is, and what its policy makes of it.

    Args:
        policy: Who chooses.
        space: The search space.
        units: Values that a full training reports; 1 where trainings are not to be stopped.
        budget: Full trainings that may be spent in all; None where nobody knows.
        past: Studies of past tasks, see `past_tasks`, or what they say.
        finishing: Whether the best training must come to its end before the budget does.
        seed: Choices follow from it, and from the trial's number.
        paused: Tells whether a trial that was stopped can be continued.
        shared: Whether other processes work on the study too.
    """

    def __init__(
        self,
        policy: SearchPolicy,
        space: Mapping[str, BaseDistribution],
        units: int,
        budget: float | None,
        past: Sequence[Study] | PastTasks,
        seed: int,
        *,
        paused: Callable[[int], bool],
        finishing: bool = True,
        shared: bool = False,
    ) -> None:
        self.space, self._shared, self._seed = dict(space), shared, seed
        self._policy, self._budget, self._paused = policy, budget, paused
        self._cube = UnitCube(space)
        self._units = rung_units(units)
        rungs = tuple(each / units for each in self._units)
        tasks = past if isinstance(past, PastTasks) else past_tasks(past, space, units, seed)
        self.state = SearchState(self._cube, rungs, 1.0, tasks, seed, finishing=finishing)
        self._unread: set[int] = set()
        self._next = 0
        self._reasons: dict[int, Reason] = {}
        self._meeting = set[int]()  # numbers of trials whose configurations other workers may choose too
        self._continues: dict[int, int] = {}  # a trial's number: that of the one whose training it goes on with
        self._full = units
        self._charged = defaultdict[int, float](float)  # full trainings by the number of a trial that has not ended

    def continued_by(self, trial: int) -> int | None:
        """The number of the trial whose training a trial goes on with; None for a new training."""
        return self._continues.get(trial)

    def catch_up(self, study: Study) -> None:
        """Learns from the trials that ended since the last time."""
        trials = study._get_trials(deepcopy=False, use_cache=True)
        self._unread |= set(range(self._next, len(trials)))
        self._next = max(self._next, len(trials))
        # Another thread may have caught up with more since this one read.
        for number in sorted(each for each in self._unread if each < len(trials)):
            if trials[number].state.is_finished():
                self._unread.discard(number)
                before = self.state.spent
                self._learn_ended(study, trials[number])
                self._settle(trials[number], self.state.spent - before)
                if trials[number].state is TrialState.FAIL and not trials[number].intermediate_values:
                    self.state.failure = 1.0
                self.state.again |= any(name not in self._cube.names for name in trials[number].params)
            elif self._shared and number not in self.state.trials and number not in self._continues:
                self._notice(trials[number])

    def why(self, trial: int) -> Reason | None:
        """Why a trial was chosen; None for one that was not."""
        return self._reasons.get(trial)

    def may_meet(self, trial: int) -> bool:
        """Whether other workers may choose a trial's configuration too, which is to be one that nobody has tried."""
        return trial in self._meeting

    def take(self, number: int, config: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration that the user gives; what it leaves open is drawn at random."""
        point = self._cube.sample(self._chance(number), 1)[0]
        fits = {name: config[name] for name in self._cube.names if name in config}
        fits = {name: value for name, value in fits.items() if holds(self._cube.space[name], value)}
        whole = {**self._cube.decode(point), **fits}
        self._reasons[number] = GIVEN
        self.state.start(number, self._cube.encode([whole])[0])
        return whole

    def choose(self, study: Study, number: int) -> dict[str, Any]:
        """A configuration for a trial, which starts a training or continues one."""
        self.catch_up(study)
        self.state.reseed(number)
        for each in self.state.trials.values():
            # A training that is no longer kept cannot go on.
            each.stopped = each.stopped or (
                0 < len(each.values) < len(self._units) and not each.running and not self._paused(each.number)
            )
        self._look_ahead()
        moves = self.state.moves()
        scores = self._policy.scores(moves)
        if not moves.possible.any():
            point = self._cube.sample(self._chance(number), 1)[0]
            self._reasons[number] = EXHAUSTED if self.state.is_exhausted else CHANCE
        else:
            best = int(scores.argmax())
            self._reasons[number] = reason_of(
                moves,
                best,
                designs=self.state.designs,
                tests=self.state.tests,
                believes=self.state.believes,
                knows=self.state.knows,
                names=() if self.state.past is None else self.state.past.names,
            )
            point = moves.points[best]
            if moves.trials[best] >= 0:
                self._continues[number] = int(moves.trials[best])
                self.state.resume(int(moves.trials[best]))
                return self._cube.decode(point)
        config = self._cube.decode(point)
        if self._shared and moves.possible.any() and self.state.may_meet(point):
            if self._is_taken(study, config):
                return self.choose(study, number)
            self._meeting.add(number)
        # What is tried is on the distributions' grid.
        self.state.start(number, self._cube.encode([config])[0], point)
        return config

    def _is_taken(self, study: Study, config: Mapping[str, Any]) -> bool:
        """Whether another worker has begun with a configuration in the time that choosing it took."""
        study._thread_local.cached_all_trials = None
        self.catch_up(study)
        return self.state.is_tried(self._cube.encode([config])[0])

    def goes_on(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether a trial goes on, now that it has reported."""
        mine = self._continues.get(trial.number, trial.number)
        if mine not in self.state.trials:
            return True
        followed = self.state.trials[mine]
        if followed.stopped and not followed.running:
            return False  # who asks again gets the same answer
        reported = max(trial.intermediate_values, default=0)
        rung = len(followed.values)
        if rung >= len(self._units) - 1 or reported < self._units[rung]:
            return True
        before = self.state.spent
        # What is forbidden is known before anything is trained: to go on with it is a waste.
        self.state.learn(mine, _lower(study, trial.intermediate_values[reported]) if is_allowed(trial) else math.inf)
        self._charged[trial.number] += self.state.spent - before
        self._look_ahead()
        moves = self.state.moves()
        best = int(self._policy.scores(moves).argmax())
        if not moves.possible.any() or moves.trials[best] != mine:
            # Nobody goes on with it until it is kept, see `_learn_ended`.
            self.state.stop(mine)
            return False
        self.state.resume(mine)
        return True

    def _chance(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, number])

    def _settle(self, trial: FrozenTrial, charged: float) -> None:
        """Makes of what an ended trial was charged, for the rungs that are known of it, what it has cost.

        Known trials cost nothing, one that failed before its first value a full training, and one that ends early no
        more than it was trained.
        """
        charged += self._charged.pop(trial.number, 0.0)
        units = spent_units(trial, self._full)
        if UNITS_ATTRIBUTE not in trial.user_attrs and trial.intermediate_values and units:
            units = min(max(1, *trial.intermediate_values), self._full)  # of whoever reports now and then
        cost = units / self._full
        if abs(cost - charged) > _ROUNDING:
            self.state.spent += cost - charged

    def _look_ahead(self) -> None:
        most = self.state.spent + self.state.in_flight + LOOKAHEAD
        self.state.budget = most if self._budget is None else min(self._budget, most)

    def _learn_ended(self, study: Study, trial: FrozenTrial) -> None:
        mine = self._continues.get(trial.number, trial.number)
        if is_cut_off(trial):
            if mine in self.state.trials and not self.state.trials[mine].values:
                self.state.drop(mine)
            elif mine in self.state.trials:
                self.state.trials[mine].running = False
                self.state.stop(mine)
            return
        point = self._point_of(trial) if mine == trial.number else None
        if mine not in self.state.trials:
            if point is None:
                return
            self.state.start(mine, point)
        elif mine == trial.number and any(name in trial.params for name in self._cube.names):
            # The objective may have asked for other ranges than the space has.
            if point is None:
                self.state.drop(mine)
                return
            if np.abs(point - self.state.trials[mine].point).max() > _SAME:
                self.state.move(mine, point)
        followed = self.state.trials[mine]
        for value in _curve(study, trial, self._units)[len(followed.values) :]:
            if math.isnan(value):
                break
            self.state.learn(mine, value)
        followed.running = False
        if trial.state is TrialState.FAIL or not followed.values:
            self.state.fail(mine)
        else:
            followed.stopped = not self._paused(mine)

    def _notice(self, trial: FrozenTrial) -> None:
        """Takes note of what another worker runs: nobody tries it twice."""
        if trial.state is TrialState.RUNNING and all(name in trial.params for name in self._cube.names):
            self.state.start(trial.number, self._cube.encode([trial.params])[0])

    def _point_of(self, trial: FrozenTrial) -> NDArray[np.float64] | None:
        """Where a trial is, shape (d,); None where it has nothing of the space, or a value out of it.

        What it did not ask for, in a conditional space, is as it was proposed, or in the middle.
        """
        config = _known(self._cube, trial)
        if not config:
            return None
        followed = self.state.trials.get(trial.number)
        rest = np.full(self._cube.dimensions, 0.5) if followed is None else followed.point
        point: NDArray[np.float64] = self._cube.encode([{**self._cube.decode(rest), **config}])[0]
        return point


def check_direction(study: Study) -> None:
    """A search has one value.

    Raises:
        ConfigurationError: The study has more.
    """
    if len(study.directions) != 1:
        raise ConfigurationError(
            f"expected a study of one objective, got one of {len(study.directions)}: take Optuna's NSGAIISampler for "
            "several, or weigh them into one"
        )


def past_tasks(
    past: Sequence[Study], space: Mapping[str, BaseDistribution], units: int = 1, seed: int = 0
) -> PastTasks | None:
    """What studies of past tasks say of a search space; None where they say too little.

    Args:
        past: The studies. One counts where it has at least half of the hyperparameters, and at least `LEAST_TRIALS`
            trials at different points: hyperparameters are matched by name, values by value, and a trial with a value
            out of today's range is left out.
        space: The search space.
        units: Values that a full training reports.
        seed: What is random follows from it.

    Raises:
        ConfigurationError: A study has more than one objective.
        SearchSpaceError: There is nothing to choose.
    """
    told = histories(past, UnitCube(space), rung_units(units))
    return PastTasks(told, seed) if told else None


def histories(past: Sequence[Study], cube: UnitCube, units: tuple[int, ...]) -> list[History]:
    """What studies of past tasks say, those that say enough; a task that is told of twice counts once.

    Args:
        past: The studies.
        cube: The search space.
        units: Units of budget at each rung.

    Raises:
        ConfigurationError: A study has more than one objective.
    """
    told = [history for history in (study_history(study, cube, units) for study in past) if history is not None]
    distinct = {history.fingerprint: history for history in reversed(told)}
    return [history for history in told if distinct[history.fingerprint] is history]


def study_history(study: Study, cube: UnitCube, units: tuple[int, ...]) -> History | None:
    """What a study of a past task says, where it says enough; `histories` tells what the arguments are."""
    check_direction(study)
    trials = study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished() and not is_cut_off(trial)]
    known = [(trial, config) for trial in ended if (config := _known(cube, trial))]
    if not known:
        return None
    names = shared_names([frozenset(config) for _, config in known], LEAST_TRIALS)
    if not enough_in_common(len(names), len(cube.names)):
        return None
    trials, configs = zip(*[(trial, config) for trial, config in known if names <= config.keys()], strict=True)
    whole = [trial for trial in ended if trial.state is TrialState.COMPLETE]
    steps = [max(trial.intermediate_values) for trial in whole if trial.intermediate_values]
    full = median_low(steps) if steps else 0
    curves = np.array([_curve(study, trial, units, full) for trial in trials])
    told = ~np.isnan(curves[:, 0])
    points = cube.encode_known([{name: config[name] for name in names} for config in configs])[told]
    kept = _whole(points, curves[told])
    name = "" if study.study_name.startswith(_NAMELESS) else study.study_name
    history = History(points[kept], curves[told][kept], name)
    return history if history.says_enough else None


def _known(cube: UnitCube, trial: FrozenTrial) -> dict[str, Any]:
    """What a trial of a past task tells of today's hyperparameters; nothing where a value is out of today's range."""
    config = {name: trial.params[name] for name in cube.names if name in trial.params}
    return config if all(holds(cube.space[name], value) for name, value in config.items()) else {}


def _whole(points: NDArray[np.float64], curves: NDArray[np.float64]) -> list[int]:
    """Rows that are not the beginning of another one: a training that is paused and goes on is a trial each time."""
    reached = (~np.isnan(curves)).sum(1)
    kept: dict[bytes, list[int]] = defaultdict(list)
    for row in np.argsort(-reached, kind="stable"):
        alike, known = kept[points[row].tobytes()], slice(reached[row])
        if not any(np.array_equal(curves[row, known], curves[other, known]) for other in alike):
            alike.append(int(row))
    return sorted(row for rows in kept.values() for row in rows)


def _curve(study: Study, trial: FrozenTrial, units: tuple[int, ...], full: int = 0) -> NDArray[np.float64]:
    """A trial's values at each rung, to be minimised: NaN beyond where it got, infinite where it is forbidden.

    Whoever has so many units today may have trained for `full` steps then: what was stopped before has no last value.
    """
    reports = sorted(trial.intermediate_values.items())
    curve = np.full(len(units), np.nan)
    for rung, unit in enumerate(units):
        upto = [value for step, value in reports if step <= unit]
        if reports and reports[-1][0] >= unit and upto:
            curve[rung] = _lower(study, upto[-1])
    if reports and reports[-1][0] < full:
        curve[-1] = np.nan
    if trial.state is TrialState.FAIL:
        curve[:] = np.inf
    elif trial.state is TrialState.PRUNED and not is_allowed(trial):
        curve[~np.isnan(curve)] = np.inf
    elif trial.state is TrialState.COMPLETE and trial.value is not None:
        curve[-1] = _lower(study, trial.value)
        # One that reported nothing tells only how it ended: so much is known of all its rungs.
        curve[:-1] = np.where(np.isnan(curve[:-1]), curve[-1], curve[:-1])
        if not is_allowed(trial):
            curve[:] = np.inf
    return curve


def _lower(study: Study, value: float) -> float:
    """The value where less is better; infinite where it is no finite number."""
    if not math.isfinite(value):
        return math.inf
    return value if study.direction is StudyDirection.MINIMIZE else -value
