"""Tunes an objective: proposes configurations, runs trials, and records every one of them."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from ..envs.conditional_space import ConditionalSpace, NestedSpace
from ..envs.errors import ConfigurationError
from ..envs.prior import Prior
from ..envs.records import OWNER_ATTRIBUTE, Recorder, StudyFinished, StudyStarted
from .child import packed
from .claims import Claims
from .cut_off_trials import retry_cut_off, this_process
from .grid import grid_configs
from .grid_sampler import GridSampler
from .interrupts import Interrupts
from .opened_study import key_of, open_study, require_compatible, wait_for_key
from .paused_trials import MOST, PausedTrials
from .policy_prior import prior_with
from .policy_sampler import PolicySampler
from .priors import addresses, prior_of
from .purse import Purse
from .quiet import quiet_optuna
from .roll_call import DEFAULT_BEAT_S, Beating, RollCall
from .strategies import Setting, policy_of, strategy_named
from .study_news import StudyNews
from .study_settings import KEPT, described, keep_settings, title_of
from .trial_folder import TrialFolders
from .trial_loop import Progress, TrialLoop
from .trial_queue import add_known, enqueue
from .trial_runner import Config, Constraints, Objective, TrialRunner
from .tune_arguments import listed, require_arguments
from .tune_result import TuneResult

_FOLDER = Path(".metatuner", "trials")
_POLL_S = 0.2

_RECORDERS = "metatuner.recorders"
"""The group of entry points that make recorders, so that this package need not know where records go."""


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
    most_paused: int = MOST,
    recorder: Recorder | None = None,
    tags: Mapping[str, str] | None = None,
    command: str = "",
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
        units: How many values a full training yields or reports. A generator that has yielded them goes on to its end,
            or to its next `yield`, where it is closed. A trial that was stopped early costs its share; without units
            every trial costs a full training.
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
        most_paused: Generators that wait at their `yield`, with all that they hold in memory, so that "policy" may go
            on with them: of more, the worst of those that were trained least ends.
        recorder: Takes the record instead of MLflow; `NullRecorder()` records nothing.
        tags: Tags of the study's run, by which it is found among others.
        command: How to do it again, for whoever reads the record.
        progress: Told after every trial.

    Returns:
        The study's result, with the best of all trials.

    Raises:
        ConfigurationError: An argument is wrong.
        SearchSpaceError: The space is.
        StoreError: The storage cannot be opened.
    """
    arguments = dict(locals())
    require_arguments(arguments)
    tree = None if space is None else ConditionalSpace(space)
    title = name or str(getattr(objective, "__name__", type(objective).__name__))
    proposer = strategy if isinstance(strategy, str) else type(strategy).__name__
    given = listed("configs", configs)
    _require_possible(objective, tree, strategy, given, isolated=isolated)
    about: dict[str, Any] = {"metric": metric, "direction": direction, "tracking_uri": tracking_uri}
    about["own"] = (title, experiment)
    priors = _priors(prior, strategy, tree, units=units or 1, **about)
    past = [*past, *(study for each in priors for study in each.studies)]
    with quiet_optuna(), contextlib.ExitStack() as stack:
        study, made = open_study(title, storage, direction, resume=resume)
        if not made:
            wait_for_key(study)
        roll = None
        if storage is not None:
            roll = RollCall(study, heartbeat, made=made)
            stack.callback(roll.leave)
        key, shared = key_of(study), roll is not None
        require_compatible(study, tree)
        done, common = len(study.get_trials(deepcopy=False)), None if tree is None else tree.common
        setting = Setting(common, budget, seed, done, n_workers, units, past, shared=shared, tracking_uri=tracking_uri)
        study.sampler, own_pruner = _proposing(strategy, setting, tree)
        study.pruner = pruner or own_pruner
        beating = None
        if roll is not None:
            settings = {each: arguments[each] for each in KEPT}
            about_it = {"objective": title_of(objective), "space": described(tree), "strategy": proposer}
            keep_settings(study, {**settings, **about_it})
            beating = Beating(roll)
            stack.callback(beating.close)
        retry_cut_off(study, _is_gone(roll))
        enqueue(study, given, tree)
        told = list(add_known(study, listed("known", known), tree, constraints))
        purse = Purse(study, min(budget, len(given)) if strategy == "manual" else budget, units)
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
                space=described(tree),
                conditions={} if tree is None else tree.conditions,
                command=command,
                budget=f"{purse.budget} full trainings",
                shared=shared,
            )
        )
        for record in told if roll is None else ():  # of a study that is shared, its leader tells
            into.record(record)
        interrupts, folders = Interrupts(), TrialFolders(Path(folder), key)
        paused = None
        if isinstance(study.sampler, PolicySampler) and units and not isolated and space is not None:
            paused = PausedTrials(most_paused, maximize=direction == "maximize")
            stack.callback(paused.close)
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
            folders=folders,
            **_followed(study, paused, shared=shared),
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
            left=functools.partial(_left, purse, study) if strategy in ("grid", "manual") else None,
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


def _require_possible(
    objective: Objective,
    tree: ConditionalSpace | None,
    strategy: str | BaseSampler,
    given: Sequence[Config],
    *,
    isolated: bool,
) -> None:
    """Arguments that do not go together."""
    if isolated and tree is None:
        raise ConfigurationError("an Optuna objective cannot have a process of its own: give it a space, as a dict")
    if isolated:
        packed(objective, {})  # what cannot be sent is not a failed trial
    if strategy == "manual" and not given:
        raise ConfigurationError("strategy 'manual' tries a given list: give it as `configs`")


def _priors(
    prior: str | Sequence[str] | None, strategy: str | BaseSampler, tree: ConditionalSpace | None, **about: Any
) -> list[Prior]:
    """Past tasks: those that are asked for, and those that come with the policy."""
    priors = [prior_of(each, tree, **about) for each in addresses(prior)]
    if isinstance(strategy, str) and (policy := policy_of(strategy)) is not None and tree is not None:
        own = prior_with(policy, tree, **{each: about[each] for each in ("own", "units", "tracking_uri")})
        priors += [] if own is None else [own]
    return priors


def _proposing(
    strategy: str | BaseSampler, setting: Setting, tree: ConditionalSpace | None
) -> tuple[BaseSampler, BasePruner]:
    if not isinstance(strategy, str):
        return strategy, NopPruner()
    sampler, pruner = strategy_named(strategy).make(strategy, setting)
    if strategy == "grid" and tree is not None:
        sampler = GridSampler(grid_configs(tree, setting.budget, setting.seed), tree, setting.fresh_seed)
    return sampler, pruner


def _followed(study: Study, paused: PausedTrials | None, *, shared: bool) -> dict[str, Any]:
    """What a policy tells the runner of its trials; nothing where another strategy proposes."""
    sampler = study.sampler
    if not isinstance(sampler, PolicySampler):
        return {}
    if paused is not None:
        sampler.paused = paused.__contains__
    if shared:
        sampler.shared = True
    claim = {"claim": Claims(study, sampler.may_meet)} if shared else {}
    return {"continued": sampler.continued_by, "why": sampler.why, **claim}


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
