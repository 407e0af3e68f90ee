"""Trial after trial until the budget is spent, in threads of one process, beside any number of other processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import datetime

from optuna import TrialPruned
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.study._tell import _tell_with_warning
from optuna.trial import FrozenTrial, Trial, TrialState

from ..envs.records import OWNER_ATTRIBUTE
from .cut_off_trials import end, give_back, is_repeated, retry_cut_off
from .interrupts import Interrupts
from .purse import Purse
from .roll_call import RollCall
from .trial_runner import GivenUp, TrialRunner
from .trial_seeds import seed_for_trial

Progress = Callable[[float, int, float | None], None]
"""Told after every trial: full trainings spent, those that may be, the best value so far."""

Left = Callable[[], int]
"""How many trials a strategy that has a list still has."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.01, 0.5


class TrialLoop:
    """A worker's trials.

    A trial begins with its owner's name, so that whoever is killed leaves none that is nobody's. It goes on if the
    budget pays for it even if all that began before it become full trainings. A worker that finds the budget spoken for
    waits: a trial that is cut off elsewhere is its to try again.

    Args:
        study: The study.
        runner: Runs trials.
        purse: The budget.
        name: The worker's name.
        seed: Of chance, which follows from it and the trial's number; None leaves it to the sampler.
        roll: The other workers; None where there can be none.
        threads: Trials at a time.
        timeout_s: Seconds after which no new trial begins; None for no end.
        interrupts: Ctrl-C.
        progress: Told after each trial; None for nobody.
        left: How many trials the strategy's list still has; None where it has none.
    """

    def __init__(
        self,
        study: Study,
        runner: TrialRunner,
        purse: Purse,
        name: str,
        *,
        seed: int | None = None,
        roll: RollCall | None = None,
        threads: int = 1,
        timeout_s: float | None = None,
        interrupts: Interrupts,
        progress: Progress | None = None,
        left: Left | None = None,
    ) -> None:
        self._study, self._runner, self._purse, self._name, self._seed = study, runner, purse, name, seed
        self._roll, self._threads, self._interrupts = roll, threads, interrupts
        self._progress, self._left = progress, left
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._mine: set[int] = set()  # numbers of the trials that run here
        self._beginning, self._changed = threading.Lock(), threading.Condition()
        self._strays: set[int] = set()
        self._failed = False
        self._reaped_s = -float("inf")

    def run(self) -> None:
        """Runs trials until there is nothing left to do.

        Raises:
            KeyboardInterrupt: Ctrl-C.
        """
        self._study._stop_flag = False
        if self._threads == 1:
            self._run_thread()
            return
        with ThreadPoolExecutor(self._threads) as threads:
            futures = [threads.submit(self._run_thread) for _ in range(self._threads)]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            except BaseException:
                self._failed = True  # no trial begins any more
                raise
            self._failed = any(each.done() and each.exception() is not None for each in futures)
        for each in futures:
            each.result()

    @property
    def has_ended(self) -> bool:
        """Whether the budget is spent, so that nobody has anything left to do."""
        return self._purse.is_empty or (self._left is not None and not self._left() and not self._purse.unfinished)

    def tidy(self) -> None:
        """Voids what waits to be tried again though another trial has done so, which nobody may have come to yet."""
        for trial in self._purse.queue():
            if is_repeated(trial, self._purse.trials) and self._takes(trial._trial_id):
                end(self._study, trial, void="another trial repeats the same one")

    def _run_thread(self) -> None:
        # Samplers of Optuna that know when they are done ask for the end, which is an error elsewhere.
        self._study._thread_local.in_optimize_loop = True
        try:
            while (trial := self._begun()) is not None:
                try:
                    self._run_trial(trial)
                finally:
                    with self._changed:
                        self._mine.discard(trial.number)
                        self._changed.notify_all()
                self._purse.look()
                if self._progress is not None:
                    self._progress(self._purse.spent, self._purse.budget, self._purse.best)
        finally:
            self._study._thread_local.in_optimize_loop = False
            self._study._storage.remove_session()

    def _begun(self) -> Trial | None:
        """The next trial, in its turn; None where there is no other."""
        wait_s = _FIRST_WAIT_S
        while not self._is_over():
            if self._roll is not None:
                self._roll.show_if_due()
            with self._beginning:
                trial = None if self._is_over() else self._taken() if self._purse.can_pay_waiting() else self._new()
            if trial is not None:
                return trial
            self._reap(at_once=wait_s > _FIRST_WAIT_S)
            with self._changed:
                self._changed.wait(wait_s)
            wait_s = min(1.5 * wait_s, _LONGEST_WAIT_S)
            self._purse.look()
        return None

    def _is_over(self) -> bool:
        if self._study._stop_flag or self._interrupts.pending or self._failed:
            return True
        if self._deadline_s is not None and time.monotonic() > self._deadline_s:
            return True
        # What runs elsewhere may be cut off, and then it is tried again here.
        return self.has_ended

    def _new(self) -> Trial | None:
        """A new trial, which its strategy is asked for; None where it is not this worker's turn."""
        if not self._purse.can_pay() or (self._left is not None and self._left() <= self._purse.waiting):
            return None
        started = FrozenTrial(
            number=-1,
            trial_id=-1,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={OWNER_ATTRIBUTE: self._name},
            system_attrs={},
            intermediate_values={},
        )
        trial_id = self._study._storage.create_new_trial(self._study._study_id, started)
        number = self._study._storage.get_trial_number_from_id(trial_id)
        self._mine.add(number)
        self._reap()
        self._purse.look()
        if not self._purse.can_pay(number):
            end(self._study, self._purse.trials[number], void="the budget was spoken for")
            self._mine.discard(number)
            return None
        return self._asked(trial_id, number)

    def _taken(self) -> Trial | None:
        """A trial out of the queue; None where another worker was quicker."""
        trial_id = next((each._trial_id for each in self._purse.queue() if self._takes(each._trial_id)), None)
        if trial_id is None:
            return None
        number = self._study._storage.get_trial_number_from_id(trial_id)
        self._mine.add(number)
        self._study._storage.set_trial_user_attr(trial_id, OWNER_ATTRIBUTE, self._name)
        self._purse.look()
        taken = self._purse.trials[number]
        if is_repeated(taken, self._purse.trials):
            end(self._study, taken, void="another trial repeats the same one")
        elif not self._purse.can_pay(number):
            give_back(self._study, taken, "the budget was spoken for")
        else:
            return self._asked(trial_id, number)
        self._mine.discard(number)
        return None

    def _takes(self, trial_id: int) -> bool:
        """Takes a trial out of the queue, unless another worker does; it is never without an owner."""
        storage = self._study._storage
        try:
            storage.set_trial_user_attr(trial_id, OWNER_ATTRIBUTE, self._name)
            return storage.set_trial_state_values(trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _asked(self, trial_id: int, number: int) -> Trial:
        # What was read a moment ago, this trial among it: the sampler need not read it again.
        self._study._thread_local.cached_all_trials = self._purse.trials
        if self._seed is not None:
            seed_for_trial(self._study.sampler, self._seed, number)
        return Trial(self._study, trial_id)

    def _reap(self, *, at_once: bool = False) -> None:
        """Ends what dead workers left, now and then, and enqueues it again."""
        if self._roll is None:
            return
        every_s = min(self._roll.every_s, 1.0) if at_once else self._roll.every_s
        if time.monotonic() - self._reaped_s > every_s:
            self._reaped_s = time.monotonic()
            retry_cut_off(self._study, self._is_gone)

    def _is_gone(self, trial: FrozenTrial) -> bool:
        assert self._roll is not None
        owner = trial.user_attrs.get(OWNER_ATTRIBUTE)
        if owner != self._name:
            # One of Optuna's own has no owner.
            return owner is not None and self._roll.is_gone(str(owner))
        if trial.number in self._mine or trial.number not in self._strays:
            self._strays.add(trial.number)  # whoever took it from the queue a moment ago is about to say so
            return False
        return True  # its number got lost on its way from the storage

    def _run_trial(self, trial: Trial) -> None:
        """Runs a trial and tells the study what came out; then it is recorded: the storage is the truth.

        Raises:
            KeyboardInterrupt: Ctrl-C, after the trial was ended.
        """
        value: float | None = None
        state: TrialState | None = None
        raised: BaseException | None = None
        given_up = False
        try:
            value = self._runner(trial)
        except GivenUp:
            given_up, state = True, TrialState.FAIL
        except TrialPruned:
            state = TrialState.PRUNED
        except (Exception, KeyboardInterrupt) as error:
            state, raised = TrialState.FAIL, error
        told = True
        try:
            _tell_with_warning(self._study, trial, value, state, suppress_warning=True)
        except (UpdateFinishedTrialError, ValueError):
            # Another worker has taken this one for dead, and tries the configuration again.
            told = False
        if not given_up:
            self._runner.ended(trial, told=told)
        if isinstance(raised, KeyboardInterrupt):
            raise raised
