"""A schedule policy as a scheduler of Ray Tune: it adjusts the hyperparameters of a population while it trains.

    scheduler = PolicyScheduler({"lr": tune.loguniform(1e-5, 1.0)}, perturbation_interval=2, total_time=50)
    tuner = tune.Tuner(
        train,
        param_space={"lr": tune.loguniform(1e-5, 1.0)},
        tune_config=tune.TuneConfig(scheduler=scheduler, metric="val_loss", mode="min", num_samples=8),
    )

The machinery is that of Ray's population based training (Jaderberg et al. 2017): its intervals, its checkpoints, its
quantiles, its exploitation. What is new is exploration.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from optuna.distributions import IntDistribution

from ..envs.adjustments import Adjustable, adjustable
from ..envs.errors import ConfigurationError, MissingPackageError, SearchSpaceError, TrainingError
from ..envs.records import Decision
from .policy import DEFAULT_POLICY, Policy
from .reported_schedule import ReportedSchedule
from .setbacks import HOPELESS
from .trial_probe import MEASURED

try:
    from ray.tune.result import TRAINING_ITERATION
    from ray.tune.schedulers import PopulationBasedTraining, TrialScheduler
    from ray.tune.schedulers.pbt import _make_experiment_tag
    from ray.tune.search.optuna import OptunaSearch
    from ray.tune.search.sample import Domain
except ImportError as error:
    raise MissingPackageError(
        f"PolicyScheduler needs Ray Tune, which cannot be imported ({error}): install metatuner[ray]"
    ) from error

_log = logging.getLogger(__name__)
_PREFIX = f"{MEASURED}/"


class DecisionRecorder(Protocol):
    """Whoever remembers what was decided for Ray's trials, such as `TuneRecorder`."""

    def decided(self, trial_id: str, decision: Decision, /) -> None:
        """Takes a decision for the trial of this id."""


class PolicyScheduler(PopulationBasedTraining):
    """Population based training in which a learned policy adjusts every trial, not chance the worst ones alone.

    At each interval of a trial the policy sees its losses and hyperparameters so far, and adjusts the latter as it does
    in `AdaptiveSchedule`. The trial is paused, which saves a checkpoint, and goes on from there with the new
    configuration. A trial in the bottom quantile goes on from the checkpoint of one in the top quantile instead, with
    what the policy decided there, moved by Ray's own perturbation: the policy would decide the same for both. Such a
    clone takes over the other one's past, so that the policy goes on seeing one training.

    A trial that reports a first validation loss of 0 or below, or none that is a number, is stopped, and a warning
    says so. A trial whose loss is not finite, or 20 times its start, counts as one of the bottom quantile. Where there
    is no top quantile, it goes back to its last checkpoint with a lower learning rate.

    The trainable must report the validation loss, with a checkpoint, at each interval at least, go on from
    `tune.get_checkpoint()`, and take hyperparameters from its configuration after it has loaded the checkpoint (an
    optimiser's state has its own). It should report what a `TrialProbe` measures: a policy that sees losses alone is no
    match for chance, as experiments/ray_population shows.

    With `reuse_actors=True` in the `TuneConfig` going on takes milliseconds instead of a second; but then Ray (2.60)
    gives up a trial whose node dies at that moment, in spite of `max_failures`.

    A trial's policy begins anew when an experiment is restored (`Tuner.restore`): Ray keeps no state of schedulers.

    Example:
        >>> import metatuner as mt
        >>> from ray import tune
        >>> def train(config):
        ...     ...  # as in docs/ray.md: checkpoints, and tune.report({"val_loss": ..., **probe.report()}, ...)
        >>> space = {"lr": tune.loguniform(1e-5, 1.0), "weight_decay": tune.loguniform(1e-6, 0.1)}
        >>> scheduler = mt.PolicyScheduler(space, perturbation_interval=2, total_time=50)
        >>> config = tune.TuneConfig(scheduler=scheduler, metric="val_loss", mode="min", num_samples=8)
        >>> tuner = tune.Tuner(train, param_space=space, tune_config=config)
        >>> results = tuner.fit()  # it starts a cluster  # doctest: +SKIP

    Args:
        hyperparam_mutations: What is adjusted, by name: Ray's `loguniform`, `uniform`, `randint`, ..., whose ranges are
            the bounds. Names tell the kind, as for `AdaptiveSchedule`. A trial whose configuration lacks one starts
            from a value at random.
        policy: A policy, its name, or its folder. "zero" leaves exploration to Ray.
        metric: The result by which trials are ranked; None takes that of the `TuneConfig`, like `mode`.
        mode: "min" or "max".
        time_attr: The result that tells how far a trial is.
        perturbation_interval: How much of it lies between two decisions. Policies have learnt on trainings of
            `policy.decisions` decisions or so.
        total_time: Where trials end; None tells the policy that nobody knows.
        val_loss: The result that is the validation loss, positive, lower is better. None: the metric.
        adaptive: Whether the optimiser normalises its steps, as Adam does and SGD does not.
        quantile_fraction: The share of trials at the bottom, and at the top.
        resample_probability: How often a clone takes a value at random instead of a perturbed one.
        guard: Whether `agent.guard.Guard` may overrule the policy.
        recorder: Takes the decisions; the same `TuneRecorder` must be among the run's callbacks.
        **options: As for Ray's `PopulationBasedTraining`: `burn_in_period`, `perturbation_factors`, `synch`,
            `log_config`, `require_attrs`.

    Raises:
        ConfigurationError: `total_time` is not above 0.
        SearchSpaceError: Nothing to adjust, or something that is no number with bounds.
        PolicyError: The policy cannot be loaded.
    """

    def __init__(
        self,
        hyperparam_mutations: Mapping[str, Domain],
        policy: str | Path | Policy = DEFAULT_POLICY,
        *,
        metric: str | None = None,
        mode: str | None = None,
        time_attr: str = TRAINING_ITERATION,
        perturbation_interval: float = 1,
        total_time: float | None = None,
        val_loss: str | None = None,
        adaptive: bool = True,
        quantile_fraction: float = 0.25,
        resample_probability: float = 0.0,
        guard: bool = True,
        recorder: DecisionRecorder | None = None,
        **options: Any,
    ) -> None:
        if total_time is not None and not total_time > 0:
            raise ConfigurationError(f"total_time must be above 0, or None where nobody knows, got {total_time!r}")
        self._adjustables = _adjustables(hyperparam_mutations)
        self._policy = policy if isinstance(policy, Policy) else Policy.load(policy)
        super().__init__(
            time_attr=time_attr,
            metric=metric,
            mode=mode,
            perturbation_interval=perturbation_interval,
            hyperparam_mutations=dict(hyperparam_mutations),
            quantile_fraction=quantile_fraction,
            resample_probability=resample_probability,
            **options,
        )
        self._decisions = None if total_time is None else max(1, round(total_time / perturbation_interval))
        self._total_time, self._val_loss = total_time, val_loss
        self._adaptive, self._guarded, self._recorder = adaptive, guard, recorder
        self._schedules: dict[Any, ReportedSchedule] = {}
        self._seeing = True
        self._adjusted: set[Any] = set()  # running trials whose configuration the policy has just changed

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Begins the schedule of a trial.

        Raises:
            ConfigurationError: There is no validation loss.
        """
        before = self._trial_state.get(trial)
        super().on_trial_add(tune_controller, trial)
        if before is not None:
            # It failed and is tried again from its checkpoint: it is the same training.
            before.last_checkpoint = None
            self._trial_state[trial], self._schedules[trial] = before, self._schedules[trial].branch()
            return
        if self._val_loss is None and self._mode != "min":
            raise ConfigurationError(
                f"the policy acts on a validation loss, which is lower where it is better, but {self._metric!r} is to "
                "be maximised: give the name of the result that is the validation loss as val_loss"
            )
        self._schedules[trial] = ReportedSchedule(
            self._policy,
            self._adjustables,
            trial.config,
            adaptive=self._adaptive,
            decisions=self._decisions,
            guard=self._guarded,
        )

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Takes in a result, and pauses a trial that is to go on with another configuration.

        A trial whose first validation loss is not positive, so that nothing can be compared with it, is stopped.
        """
        decision: str = TrialScheduler.CONTINUE
        if self._total_time is not None and result.get(self._time_attr, 0) >= self._total_time:
            return decision  # nothing comes after it
        val_loss = result.get(self._val_loss or self._metric)
        if (self._val_loss or self._metric) in result and not isinstance(val_loss, Real):
            return self._give_up(trial, f"its validation loss is {val_loss!r}: expected a number")
        if val_loss is not None and self._time_attr in result:
            measured = {name.removeprefix(_PREFIX): v for name, v in result.items() if name.startswith(_PREFIX)}
            if not measured:
                self._warn_of_blindness()
            # The interval that this result is in is not over.
            over = max(0, math.ceil(result[self._time_attr] / self._perturbation_interval) - 1)
            try:
                self._schedules[trial].report(float(val_loss), measured, decision=over)
            except TrainingError as error:
                return self._give_up(trial, str(error))
        decision = super().on_trial_result(tune_controller, trial, result)
        if trial not in self._adjusted:
            return decision
        self._adjusted.discard(trial)
        return decision if decision == TrialScheduler.NOOP else TrialScheduler.PAUSE

    def _give_up(self, trial: Any, why: str) -> str:
        """Stops a trial that no policy can judge; the others go on."""
        _log.warning("trial %s is stopped: %s", trial.trial_id, why)
        decision: str = TrialScheduler.STOP
        return decision

    def _warn_of_blindness(self) -> None:
        if self._seeing and self._policy.actor is not None:
            _log.warning(
                "trials report no measurements, so the policy acts on validation losses alone, which it has not "
                "learnt: report those of a TrialProbe, too"
            )
        self._seeing = False

    def _save_trial_state(self, state: Any, time: float, result: dict[str, Any], trial: Any) -> float:
        """An interval of the trial has ended: the policy decides, for it and for those that will be its clones."""
        score: float = super()._save_trial_state(state, time, result, trial)
        self._schedules[trial].decide(int(result[TRAINING_ITERATION]))
        return score

    def _checkpoint_or_exploit(
        self, trial: Any, tune_controller: Any, upper_quantile: list[Any], lower_quantile: list[Any]
    ) -> None:
        """A trial becomes the clone of a better one, as Ray has it, or goes on with what the policy has decided."""
        schedule, better = self._schedules[trial], [each for each in upper_quantile if each is not trial]
        if schedule.diverged:
            lower_quantile, upper_quantile = [*lower_quantile, trial] if better else [], better
        super()._checkpoint_or_exploit(trial, tune_controller, upper_quantile, lower_quantile)
        if self._schedules[trial] is not schedule:
            return
        self._adjust(trial, schedule)
        if 0 < schedule.diverged_in_a_row < HOPELESS and trial.checkpoint:  # otherwise it is not the rate's doing
            # What was saved before this result is what it goes back to; there the next interval ends again.
            tune_controller.pause_trial(trial, should_checkpoint=False)
            self._trial_state[trial].last_perturbation_time -= self._perturbation_interval

    def _adjust(self, trial: Any, schedule: ReportedSchedule) -> None:
        """Sets the configuration that the policy has decided; it counts when the trial is paused and goes on."""
        config = self._with(trial.config, schedule.values)
        if config != trial.config:
            trial.set_config(config)
            tag = _make_experiment_tag(self._trial_state[trial].orig_tag, config, self._hyperparam_mutations)
            trial.set_experiment_tag(tag)
            self._adjusted.add(trial)
        self._record(trial, schedule)

    def _get_new_config(self, trial: Any, trial_to_clone: Any) -> tuple[dict[str, Any], dict[str, str]]:
        """The configuration of a clone: the other trial's, perturbed by Ray, within bounds."""
        config, operations = super()._get_new_config(trial, trial_to_clone)
        schedule = self._schedules[trial] = self._schedules[trial_to_clone].branch()
        schedule.displace({each.name: config[each.name] for each in self._adjustables})
        self._record(trial, schedule, f"goes on from trial {trial_to_clone.trial_id}, perturbed")
        return self._with(config, schedule.values), operations

    def _with(self, config: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, Any]:
        whole = {each.name for each in self._adjustables if isinstance(each.distribution, IntDistribution)}
        return {**config, **{name: round(value) if name in whole else value for name, value in values.items()}}

    def _record(self, trial: Any, schedule: ReportedSchedule, note: str = "") -> None:
        if self._recorder is not None and schedule.last is not None:
            notes = "; ".join(filter(None, [note, schedule.last.note]))
            self._recorder.decided(trial.trial_id, replace(schedule.last, values=schedule.values, note=notes))


def _adjustables(mutations: Mapping[str, Domain]) -> tuple[Adjustable, ...]:
    """What is adjusted, with Ray's ranges as bounds."""
    if not mutations:
        raise SearchSpaceError("expected at least one hyperparameter to adjust, got none")
    found = []
    for name, domain in mutations.items():
        if not isinstance(domain, Domain):
            raise SearchSpaceError(
                f"expected Ray's loguniform, uniform, randint or another range of numbers for {name!r}, got {domain!r}"
            )
        try:
            distribution = OptunaSearch.convert_search_space({name: domain})[name]
        except ValueError as error:
            raise SearchSpaceError(f"{name!r} has no bounds that a policy could keep to: {error}") from error
        found.append(adjustable(name, distribution))
    return tuple(found)
