"""How good a search policy is, by its final regrets on tasks, and how much of what it has learnt is worth keeping."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.search import FLOOR, SearchEnv
from ..envs.search_task import SearchTask, SearchTasks
from ..envs.worker_process import Crew
from .search_actor import TRUSTED_AT, SearchActor

BUDGETS = TRUSTED_AT
"""Budgets of the evaluation, in full trainings."""

_LUCK = 0.01
"""By how much a log regret must be lower on validation tasks for what was learnt to be trusted."""

STEPS = (0.5, 1.0)
"""Parts of the way from a champion's weights to those learnt from it that are tried."""

_KINDS = ("without past", "with past")

_Logs = tuple[NDArray[np.bool_], NDArray[np.float64]]  # whether there are past tasks (n,); logs (n, len(BUDGETS))


class Judge:
    """The first tasks of a kind, searched with any network; with the same one only once.

    Args:
        families: What they are drawn from.
        tasks: How many.
        workers: Processes that search.
    """

    def __init__(self, families: SearchTasks, tasks: int, workers: int = 1) -> None:
        self.tasks = tasks
        self._families, self._workers = families, workers
        self._found: dict[bytes, _Logs] = {}

    def by_kind(self, actor: SearchActor) -> dict[str, NDArray[np.float64]]:
        """Logs of final regrets (plus `FLOOR`), without past tasks and with them, shape (n, len(BUDGETS))."""
        has_past, logs = self._searched(actor)
        return {kind: logs[has_past == with_past] for with_past, kind in enumerate(_KINDS)}

    def by_task(self, actor: SearchActor) -> NDArray[np.float64]:
        """Mean log regret of each task over `BUDGETS`, shape (tasks,)."""
        means: NDArray[np.float64] = self._searched(actor)[1].mean(1)
        return means

    def _searched(self, actor: SearchActor) -> _Logs:
        name = b"".join(each.numpy().tobytes() for each in actor.state_dict().values())
        if name not in self._found:
            with Crew(_Searches(actor, self._families), min(self._workers, self.tasks)) as crew:
                has_past, logs = zip(*crew.call("of", range(self.tasks)), strict=True)
            self._found[name] = np.array(has_past), np.array(logs)
        return self._found[name]


def evaluate_search(actor: SearchActor, judge: Judge) -> dict[str, float]:
    """Searches tasks with the policy, and with the rule that it started from.

    Returns:
        By name: `tasks`, and for each of `BUDGETS` the geometric mean of the final regrets (plus `FLOOR`) of the policy
        and of the rule, with past tasks and without.
    """
    figures = {"tasks": float(judge.tasks)}
    for who, each in (("policy", actor), ("rule", SearchActor(actor.shape))):
        for kind, logs in judge.by_kind(each).items():
            if len(logs):
                for budget, mean in zip(BUDGETS, logs.mean(0), strict=True):
                    figures[f"regret of {who} {kind}, budget {budget}"] = round(math.exp(mean), 4)
    return figures


def trust_what_pays(actor: SearchActor, judge: Judge) -> None:
    """Sets where what was learnt counts: with past tasks and without, at budgets where it does better than the rule.

    So it is no worse than the rule that learning started from, on the judge's tasks.
    """
    actor.trust.fill_(1.0)
    learnt, rule = judge.by_kind(actor), judge.by_kind(SearchActor(actor.shape))
    for place, kind in enumerate(_KINDS):
        if len(learnt[kind]):
            gains = (rule[kind] - learnt[kind]).mean(0)
            actor.trust[place] = torch.from_numpy((gains > _LUCK).astype(np.float32))


def as_far_as_it_pays(champion: SearchActor, learnt: SearchActor, judge: Judge) -> tuple[SearchActor, str]:
    """What is best of the champion, of what was learnt from it, of what lies between, and of the rule.

    Between lie the weights that are interpolated (Wortsman et al. 2022, Robust fine-tuning of zero-shot models): what
    a few tasks teach is often right in direction and too large. Searches are paired; whatever is not better than the
    champion by more than a standard error of its mean over tasks is luck, and the champion stays.

    Args:
        champion: The network that learning began from.
        learnt: The network that came of it.
        judge: Whose tasks tell.

    Returns:
        The network, and what it is in words.
    """
    rule = SearchActor(champion.shape)
    tried = {"the rule": rule, **{f"{step:g} of what was learnt": _between(champion, learnt, step) for step in STEPS}}
    before = judge.by_task(champion)
    kept, best, words = champion, 0.0, "nothing of what was learnt"
    for name, actor in tried.items():
        gains = before - judge.by_task(actor)
        sure = gains.mean() - gains.std(ddof=1) / math.sqrt(len(gains)) if len(gains) > 1 else gains.mean()
        if sure > 0 and gains.mean() > best:
            kept, best, words = actor, float(gains.mean()), name
    return copy.deepcopy(kept), words


def _between(begin: SearchActor, end: SearchActor, step: float) -> SearchActor:
    """The network whose weights lie so far on the way from one's to the other's."""
    found, after = copy.deepcopy(begin), end.state_dict()
    found.load_state_dict({name: torch.lerp(each, after[name], step) for name, each in begin.state_dict().items()})
    return found


class _Searches:
    """Searches of tasks by one network; lives in any process."""

    def __init__(self, actor: SearchActor, families: SearchTasks) -> None:
        self._actor, self._families = actor, families

    def of(self, seed: int) -> tuple[bool, list[float]]:
        """Whether a task has past ones, and the log of the final regret for each of `BUDGETS`."""
        task = self._families.task(seed)
        logs = [log_regret(self._actor, task, budget, seed) for budget in BUDGETS]
        return task.past is not None, logs


def log_regret(actor: SearchActor, task: SearchTask, budget: float, seed: int) -> float:
    """Of one search of a task: log of the final regret plus `FLOOR`."""
    return math.log(float(searched(actor, task, budget, seed)[-1]["regret"]) + FLOOR)


@torch.no_grad()
def searched(actor: SearchActor, task: SearchTask, budget: float, seed: int) -> list[dict[str, Any]]:
    """One search of a task: what `SearchEnv` tells after each of its moves."""
    env = SearchEnv(task, budget=budget)
    observation, _ = env.reset(seed=seed)
    told, done = [], False
    while not done:
        scores = actor(torch.from_numpy(observation)[None])[0].numpy()
        move = np.where(env.action_masks(), scores, -np.inf).argmax()
        observation, _, done, _, info = env.step(move)
        told.append(info)
    return told
