"""Tunes an objective: proposes configurations, runs trials, and records every one of them."""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import check_distribution_compatibility, distribution_to_json
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ..envs.conditional_space import ConditionalSpace, NestedSpace
from ..envs.errors import ConfigurationError, MetatunerError, SearchSpaceError, StoreError, TrainingError
from ..envs.prior import Prior
from ..envs.records import KEY_ATTRIBUTE, MESSAGE_ATTRIBUTE, OWNER_ATTRIBUTE, Recorder, StudyFinished, StudyStarted
from .arguments import require_count, require_kind, require_objective, require_seconds, require_seed
from .child import packed
from .claims import Claims
from .cut_off_trials import retry_cut_off, this_process
from .grid import grid_configs
from .grid_sampler import GridSampler
from .interrupts import Interrupts
from .paused_trials import PausedTrials
from .policy_prior import prior_with
from .policy_sampler import PolicySampler
from .priors import addresses, prior_of
from .purse import Purse
from .quiet import quiet_optuna
from .result_page import result_html
from .roll_call import DEFAULT_BEAT_S, Beating, RollCall
from .storages import not_opened, open_storage
from .strategies import Setting, policy_of, strategy_named
from .study_news import StudyNews
from .study_settings import keep_settings, title_of
from .trial_folder import TrialFolders
from .trial_loop import Progress, TrialLoop
from .trial_queue import add_known, enqueue
from .trial_runner import Config, Constraints, Objective, TrialRunner

_FOLDER = Path(".metatuner", "trials")
_POLL_S, _KEY_WAIT_S = 0.2, 10.0

_RECORDERS = "metatuner.recorders"
"""The group of entry points that make recorders, so that this package need not know where records go."""


@dataclass(frozen=True)
class TuneResult:
    """What came out.

    Attributes:
        study: The Optuna study, with everything that was tried.
        run_id: MLflow's id of the study's run; None where it is not recorded there, or not yet.
    """

    study: Study
    run_id: str | None

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, failed ones too."""
        return self.study.trials

    @property
    def best_trial(self) -> FrozenTrial:
        """The best trial that finished.

        Raises:
            TrainingError: None did.
        """
        try:
            return self.study.best_trial
        except ValueError as error:
            failed = [trial for trial in self.trials if trial.state is OptunaState.FAIL]
            why = f"; the last one failed with {failed[-1].user_attrs.get(MESSAGE_ATTRIBUTE)}" if failed else ""
            raise TrainingError(f"none of the {len(self.trials)} trials has finished{why}") from error

    @property
    def best_config(self) -> dict[str, Any]:
        """The best trial's configuration."""
        return dict(self.best_trial.params)

    @property
    def best_value(self) -> float:
        """The best trial's value."""
        value = self.best_trial.value
        assert value is not None
        return value

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        try:
            best = self.best_trial
        except TrainingError:
            best = None
        return result_html(self.trials, self.study.direction, best)


def tune(
    objective: Objective,
    space: NestedSpace | None = None,
    budget: int = 30,
    *,
    strategy: str | BaseSampler = "policy",
    pruner: BasePruner | None = None,
    direction: str = "minimize",
    storage: str | Path | BaseStorage | None = None,
    tracking_uri: str | None = None,
    experiment: str = "metatuner",
    name: str | None = None,
    seed: int = 0,
    n_workers: int = 1,
    resume: bool = True,
    units: int | None = None,
    configs: Iterable[Config] = (),
    known: Iterable[tuple[Config, float]] = (),
    past: Sequence[Study] = (),
    prior: str | Sequence[str] | None = None,
    constraints: Constraints | None = None,
    metric: str = "objective",
    timeout: float | None = None,
    trial_timeout: float | None = None,
    isolated: bool = False,
    heartbeat: float = DEFAULT_BEAT_S,
    folder: str | Path = _FOLDER,
    recorder: Recorder | None = None,
    tags: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> TuneResult:
    """Tunes an objective, alone or beside others who do the same with the same storage and name.

    Workers that share a study share its budget; each is a process, here or on another machine. One that is killed
    leaves nothing behind but the trial that it ran, which another one tries again.

    Example:
        >>> import metatuner as mt
        >>> from optuna.distributions import FloatDistribution
        >>> result = mt.tune(lambda config: (config["x"] - 2) ** 2, {"x": FloatDistribution(-5, 5)}, budget=12)
        >>> sorted(result.best_config), round(result.best_value)
        (['x'], 0)

    Args:
        objective: Takes a configuration, a dict, and returns a number; or yields one for each unit of budget, so that
            it can be stopped early; or, where `space` is None, an Optuna objective. One that raises, or gives no
            number, is a failed trial: it is recorded, and the study goes on.
        space: Optuna's distributions by name. A dict in the place of a distribution is a choice of one of its keys,
            each with a space of its own, empty or not: `{"model": {"svm": {"C": ...}, "forest": {"depth": ...}}}`.
            The configuration is flat, and has what is active (`envs.conditional_space`).
        budget: Full trainings to spend, in all: those of a study that is resumed count, and failed ones too.
        strategy: A name out of `strategies.STRATEGIES`, or any Optuna sampler. "policy:FOLDER" and
            "policy:models:/NAME@champion" are such a policy, with the past trials that come with it.
        pruner: Any Optuna pruner; None takes the strategy's own.
        direction: "minimize" or "maximize".
        storage: Where the study lies: a journal file's path, a database URL as Optuna takes it, the address of its
            gRPC proxy, `grpc://HOST:PORT`, or an Optuna storage. None keeps it in memory.
        tracking_uri: The MLflow store to record in; None: `MLFLOW_TRACKING_URI`, else `mlflow.db` in this folder.
        experiment: The MLflow experiment's name.
        name: The study's name; None takes the objective's.
        seed: Proposals follow from it (with one worker).
        n_workers: Trials at a time, in threads.
        resume: Go on with the study of this name in the storage. Otherwise it must not be there.
        units: How many values a full training yields or reports; a generator is not asked for more. A trial that was
            stopped early then costs its share; otherwise every trial costs a full training.
        configs: Configurations to try first, such as the default one, in whole or in part. "manual" tries these alone.
        known: Whole configurations whose values are known: nobody has to try them.
        past: Studies of past tasks with at least half of this search space (`followed_study.past_tasks`): "policy"
            tries first what was good there, and judges by how such tasks resemble this one; "portfolio" tries what was
            good there, and nothing else.
        prior: More of them, an address or several: "mlflow:NAME" takes the studies of the MLflow experiments of this
            name, or that a regular expression matches, and runs that others logged there with `metric`, from the store
            of `tracking_uri`; "table:FILE.csv" takes the trials of a table (`tracking.trial_table` tells its columns).
            What they have in common with the space is logged, and is the study's tag `metatuner.prior`.
        constraints: Takes a configuration and returns numbers by name, all of them at most 0 where it is allowed.
            What is not allowed may be tried, but is never the best; TPE, GP and GA learn to keep away.
        metric: What the value is called in the record.
        timeout: Seconds after which no new trial begins.
        isolated: Whether each trial has a process of its own: one that crashes, hangs or runs out of memory then fails
            alone, and workers share no interpreter. Not for Optuna objectives, which need the study at hand.
        trial_timeout: Seconds that a trial may take. Where trials are not isolated, it is looked at between two units.
        heartbeat: Seconds between two signs of life of this worker. Whoever shows none for five times as long is taken
            for dead, and its trial is tried elsewhere: an objective must not hold Python's lock for so long.
        folder: Where the folders of trials that run lie (`trial_folder`): on a disk that all workers reach.
        recorder: Takes the record instead of MLflow; `NullRecorder()` records nothing.
        tags: Tags of the study's run, by which it is found among others.
        progress: Told after every trial.

    Returns:
        The study's result, with the best of all trials.

    Raises:
        ConfigurationError: An argument is wrong.
        SearchSpaceError: The space is.
        StoreError: The storage cannot be opened.
    """
    for name_of, count in (("budget", budget), ("n_workers", n_workers), ("units", 1 if units is None else units)):
        require_count(name_of, count)
    _check(objective, strategy, pruner, direction, storage, recorder, constraints, progress)
    _check_words(experiment, metric, name, tracking_uri)
    require_kind("tags", tags, (Mapping, type(None)), "a dict from names to texts, or None")
    for each in _listed("past", past):
        require_kind("past", each, Study, "a list of Optuna studies")
    require_seed(seed)
    require_seconds("timeout", timeout)
    require_seconds("trial_timeout", trial_timeout)
    require_seconds("heartbeat", heartbeat)
    require_kind("folder", folder, (str, Path), "a folder's path")
    tree = None if space is None else ConditionalSpace(space)
    title = name or str(getattr(objective, "__name__", type(objective).__name__))
    proposer = strategy if isinstance(strategy, str) else type(strategy).__name__
    if isolated and tree is None:
        raise ConfigurationError("an Optuna objective cannot have a process of its own: give it a space, as a dict")
    if isolated:
        packed(objective, {})  # what cannot be sent is not a failed trial
    given = _listed("configs", configs)
    if strategy == "manual" and not given:
        raise ConfigurationError("strategy 'manual' tries a given list: give it as `configs`")
    about: dict[str, Any] = {"metric": metric, "direction": direction, "tracking_uri": tracking_uri, "without": title}
    priors = [prior_of(each, tree, units=units or 1, **about) for each in addresses(prior)]
    if isinstance(strategy, str) and (policy := policy_of(strategy)) is not None and tree is not None:
        own = prior_with(policy, tree, without=title, units=units or 1)
        priors += [] if own is None else [own]
    past = [*past, *(study for each in priors for study in each.studies)]
    with quiet_optuna(), contextlib.ExitStack() as stack:
        study, made = open_study(title, storage, direction, resume=resume)
        if not made:
            _wait_for_key(study)
        roll = None
        if storage is not None:
            roll = RollCall(study, heartbeat, made=made)
            stack.callback(roll.leave)
        key = key_of(study)
        setting = Setting(
            None if tree is None else tree.common,
            budget,
            seed,
            len(study.get_trials(deepcopy=False)),
            n_workers,
            units,
            past,
            shared=storage is not None,
        )
        _require_compatible(study, tree)
        sampler, own_pruner = _proposer(strategy, setting)
        if strategy == "grid" and tree is not None:
            sampler = GridSampler(grid_configs(tree, budget, seed), tree, setting.fresh_seed)
        study.sampler, study.pruner = sampler, pruner or own_pruner
        if storage is not None:
            keep_settings(
                study,
                {
                    "objective": title_of(objective),
                    "budget": budget,
                    "strategy": proposer,
                    "direction": direction,
                    "experiment": experiment,
                    "seed": seed,
                    "units": units,
                    "prior": prior,
                    "metric": metric,
                    "trial_timeout": trial_timeout,
                    "isolated": isolated,
                    "heartbeat": heartbeat,
                },
            )
        beating = None
        if roll is not None:
            beating = Beating(roll)
            stack.callback(beating.close)
        retry_cut_off(study, _is_gone(roll))
        enqueue(study, given, tree)
        add_known(study, _listed("known", known), tree)
        purse = Purse(study, min(budget, len(given)) if strategy == "manual" else budget, units)
        left = functools.partial(_left, purse, study) if strategy in ("grid", "manual") else None
        into, run_id = stack.enter_context(_recording(recorder, tracking_uri, experiment))
        into.record(
            StudyStarted(
                name=title,
                # Tags, not params: a study may go on with others.
                tags={
                    **(tags or {}),
                    "metatuner.strategy": proposer,
                    "metatuner.seed": str(seed),
                    **_prior_tag(priors),
                },
                key=key,
                metric=metric,
                direction=direction,
                space={} if tree is None else {n: distribution_to_json(d) for n, d in tree.distributions.items()},
                conditions={} if tree is None else tree.conditions,
                budget=f"{purse.budget} full trainings",
                shared=roll is not None,
            )
        )
        interrupts = Interrupts()
        paused = None
        if isinstance(study.sampler, PolicySampler) and units and not isolated and space is not None:
            paused = PausedTrials()
            stack.callback(paused.close)
            study.sampler.paused = paused.__contains__
        follows = study.sampler if isinstance(study.sampler, PolicySampler) else None
        if follows and roll is not None:
            follows.shared = True
        folders = TrialFolders(Path(folder), key)
        runner = TrialRunner(
            objective,
            tree,
            into,
            proposer,
            metric,
            constraints,
            trial_timeout,
            isolated,
            n_workers > 1,
            interrupts,
            units,
            paused,
            follows.continued_by if follows else lambda trial: None,
            follows.why if follows else lambda trial: None,
            Claims(study, follows.may_meet) if follows and roll is not None else lambda trial: None,
            folders,
        )
        loop = TrialLoop(
            study,
            runner,
            purse,
            this_process() if roll is None else roll.name,
            seed=seed if isinstance(strategy, str) else None,
            roll=roll,
            threads=n_workers,
            timeout_s=timeout,
            interrupts=interrupts,
            progress=progress,
            left=left,
        )
        if roll is None or beating is None:
            with interrupts.taken_over():
                loop.run()
        else:
            _work(loop, roll, beating, StudyNews(study, into, proposer), interrupts)
        if roll is None or loop.has_ended:
            folders.remove_all()
        into.record(StudyFinished())
    return TuneResult(study, run_id())


def _is_gone(roll: RollCall | None) -> Callable[[FrozenTrial], bool]:
    return lambda trial: (
        roll is not None
        and OWNER_ATTRIBUTE in trial.user_attrs
        and roll.is_gone(str(trial.user_attrs[OWNER_ATTRIBUTE]))
    )


def _work(loop: TrialLoop, roll: RollCall, beating: Beating, news: StudyNews, interrupts: Interrupts) -> None:
    """Runs trials beside other workers. The leader stays to the end: what the others leave undone is its to finish."""
    news.tell(roll.leads)
    beating.then = lambda: news.tell(roll.leads)
    try:
        with interrupts.taken_over():
            loop.run()
            roll.look()  # the leader may have died a moment ago
            while loop.has_ended and roll.others() and (roll.leads or not roll.has_leader):
                time.sleep(_POLL_S)
                roll.look()
            if loop.has_ended:
                loop.tidy()
    finally:
        beating.then = lambda: None
        news.tell(not roll.others() or (roll.leads and loop.has_ended))


def _left(purse: Purse, study: Study) -> int:
    return purse.waiting + (study.sampler.left(study) if isinstance(study.sampler, GridSampler) else 0)


def _check(
    objective: object,
    strategy: object,
    pruner: object,
    direction: object,
    storage: object,
    recorder: object,
    constraints: object,
    progress: object,
) -> None:
    require_objective(objective)
    if direction not in ("minimize", "maximize"):
        raise ConfigurationError(f"expected the direction minimize or maximize, got {direction!r}")
    none = type(None)
    require_kind("strategy", strategy, (str, BaseSampler), "a name or an Optuna sampler")
    require_kind("pruner", pruner, (BasePruner, none), "an Optuna pruner or None")
    require_kind("storage", storage, (str, Path, BaseStorage, none), "a path, an address, an Optuna storage or None")
    require_kind("recorder", recorder, (Recorder, none), "a recorder, with a method `record`, or None")
    for name, function in (("constraints", constraints), ("progress", progress)):
        require_kind(name, function, (Callable, none), "a function or None")  # type: ignore[arg-type]


def _check_words(experiment: object, metric: object, name: object, tracking_uri: object) -> None:
    for what, value in (("experiment", experiment), ("metric", metric)):
        if not isinstance(value, str) or not value.strip():
            raise ConfigurationError(f"expected {what} to be a text that is not empty, got {value!r}")
    for what, value in (("name", name), ("tracking_uri", tracking_uri)):
        require_kind(what, value, (str, type(None)), "a text or None")


def _listed(name: str, values: object) -> list[Any]:
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise ConfigurationError(f"expected {name} as a list, got {values!r}")
    return list(values)


def _proposer(strategy: str | BaseSampler, setting: Setting) -> tuple[BaseSampler, BasePruner]:
    if isinstance(strategy, str):
        return strategy_named(strategy).make(strategy, setting)
    return strategy, NopPruner()


def open_study(
    name: str, storage: str | Path | BaseStorage | None, direction: str, *, resume: bool
) -> tuple[Study, bool]:
    """The study of this name, and whether it was made now; one that is not there is made. Arguments as for `tune`.

    Raises:
        ConfigurationError: It is there and should not be, or has the other direction.
        StoreError: The storage cannot be opened, or the study there has not one value a trial.
    """
    aim = StudyDirection[direction.upper()]
    try:
        opened = open_storage(storage) if isinstance(storage, str | Path) else storage
        try:
            study = optuna.create_study(storage=opened, study_name=name if storage is not None else None, direction=aim)
            return study, True
        except optuna.exceptions.DuplicatedStudyError:
            if not resume or opened is None:
                raise
            study = optuna.load_study(study_name=name, storage=opened)
    except optuna.exceptions.DuplicatedStudyError as error:
        raise ConfigurationError(
            f"the storage has a study {name!r} already: give another name, or resume=True to go on with it"
        ) from error
    except MetatunerError:
        raise
    except Exception as error:
        raise not_opened(error) from error
    values = (trial.values for trial in study.get_trials(deepcopy=False))
    if len(study.directions) != 1 or any(each is not None and len(each) != 1 for each in values):
        raise StoreError(f"the study {name!r} has trials with several values, or none: give another name")
    if study.direction is not aim:
        raise ConfigurationError(
            f"the study {name!r} is there, to {study.direction.name.lower()}, and you ask to {direction}: give another "
            "name, or the same direction"
        )
    return study, False


def _require_compatible(study: Study, space: ConditionalSpace | None) -> None:
    """Optuna keeps one kind of values for each name of a study."""
    for trial in study.get_trials(deepcopy=False) if space is not None else ():
        for name, before in trial.distributions.items():
            now = space.distributions.get(name, before) if space is not None else before
            try:
                check_distribution_compatibility(before, now)
            except ValueError as error:
                raise SearchSpaceError(
                    f"the study is there, and its trials have {name!r} in {before}; now the space has it in {now}: "
                    "give the study, or this hyperparameter, another name"
                ) from error


def _wait_for_key(study: Study) -> None:
    """Another worker may have made the study a moment ago: it says that it leads, and then gives the study its key."""
    deadline = time.monotonic() + _KEY_WAIT_S
    while KEY_ATTRIBUTE not in study.user_attrs:
        if study.get_trials(deepcopy=False) or time.monotonic() > deadline:
            return  # it is a study of Optuna's
        time.sleep(_POLL_S / 10)


def key_of(study: Study) -> str:
    """What tells this study from all others, of the same name too; it is given to one that has none."""
    if KEY_ATTRIBUTE not in study.user_attrs:
        study.set_user_attr(KEY_ATTRIBUTE, uuid.uuid4().hex)
    return str(study.user_attrs[KEY_ATTRIBUTE])


def _prior_tag(priors: Sequence[Prior]) -> dict[str, str]:
    lines = [line for each in priors for line in each.match.lines()]
    return {"metatuner.prior": "\n".join(lines)} if lines else {}


@contextlib.contextmanager
def _recording(
    recorder: Recorder | None, tracking_uri: str | None, experiment: str
) -> Iterator[tuple[Recorder, Callable[[], str | None]]]:
    """The recorder, and what tells the id of the study's run in it."""
    if recorder is not None:
        yield recorder, lambda: getattr(recorder, "run_id", None)
        return
    (found,) = entry_points(group=_RECORDERS, name="mlflow")
    with found.load()(tracking_uri, experiment) as mlflow:
        yield mlflow, lambda: mlflow.run_id
