"""How good a search policy is, by its final regrets on tasks, and how much of what it has learnt is worth keeping."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..envs.families import Split
from ..envs.search import FLOOR, SearchEnv
from ..envs.search_families import SearchFamilies
from ..envs.search_task import SearchTask, SearchTasks
from ..envs.worker_process import WorkerProcess
from .search_actor import SearchActor

BUDGETS = (1, 4, 10)
"""Budgets of the evaluation, in full trainings."""

SHARES = (0.0, 0.25, 0.5, 1.0)
"""Shares of what was learnt that are tried on validation tasks."""

STEPS = (0.5, 1.0)
"""Parts of the way from a champion's weights to those learnt from it that are tried."""

_KINDS = ("without past", "with past")


def evaluate_search(actor: SearchActor, split: Split, tasks: int, workers: int = 1) -> dict[str, float]:
    """Searches tasks of a split with the policy, and with the rule that it started from.

    Args:
        actor: The policy's network.
        split: The split.
        tasks: How many of its tasks.
        workers: Processes that search.

    Returns:
        By name: `tasks`, and for each of `BUDGETS` the geometric mean of the final regrets (plus `FLOOR`) of the policy
        and of the rule, with past tasks and without.
    """
    figures = {"tasks": float(tasks)}
    for who, each in (("policy", actor), ("rule", SearchActor(actor.shape))):
        for kind, logs in sorted(_log_regrets(each, SearchFamilies(split), tasks, workers).items()):
            figures[f"regret of {who} {kind}"] = round(math.exp(np.mean(logs)), 4)
    return figures


def trust_what_pays(actor: SearchActor, tasks: int, families: SearchTasks | None = None, *, workers: int = 1) -> None:
    """Sets how much of what was learnt counts, with past tasks and without: what does best on validation tasks.

    So what is kept is no worse there than the rule that learning started from.

    Args:
        actor: The network.
        tasks: Tasks to search with each of `SHARES`.
        families: What they are drawn from; None: the validation split of the generated ones.
        workers: Processes that search.
    """
    families = SearchFamilies(Split.VALIDATION) if families is None else families
    means: dict[float, dict[str, float]] = {}
    for share in SHARES:
        actor.trust.fill_(share)
        found = _log_regrets(actor, families, tasks, workers)
        means[share] = {
            kind: float(np.mean([logs for name, logs in found.items() if name.startswith(kind)] or [[0.0]]))
            for kind in _KINDS
        }
    for i, kind in enumerate(_KINDS):
        actor.trust[i] = min(SHARES, key=lambda share: means[share][kind])


def as_far_as_it_pays(
    champion: SearchActor, learnt: SearchActor, tasks: int, families: SearchTasks
) -> tuple[SearchActor, str]:
    """What is best of the champion, of what was learnt from it, of what lies between, and of the rule.

    Between lie the weights that are interpolated (Wortsman et al. 2022, Robust fine-tuning of zero-shot models): what
    a few tasks teach is often right in direction and too large. Searches are paired; whatever is not better than the
    champion by more than a standard error of its mean over tasks is luck, and the champion stays.

    Args:
        champion: The network that learning began from.
        learnt: The network that came of it.
        tasks: Tasks to search with each.
        families: What they are drawn from.

    Returns:
        The network, and what it is in words.
    """
    rule = SearchActor(champion.shape)
    tried = {"the rule": rule, **{f"{step:g} of what was learnt": _between(champion, learnt, step) for step in STEPS}}
    before = _by_task(champion, families, tasks)
    kept, best, words = champion, 0.0, "nothing of what was learnt"
    for name, actor in tried.items():
        gains = before - _by_task(actor, families, tasks)
        sure = gains.mean() - gains.std(ddof=1) / math.sqrt(tasks) if tasks > 1 else gains.mean()
        if sure > 0 and gains.mean() > best:
            kept, best, words = actor, float(gains.mean()), name
    return copy.deepcopy(kept), words


def _between(begin: SearchActor, end: SearchActor, step: float) -> SearchActor:
    """The network whose weights lie so far on the way from one's to the other's."""
    found, after = copy.deepcopy(begin), end.state_dict()
    found.load_state_dict({name: torch.lerp(each, after[name], step) for name, each in begin.state_dict().items()})
    return found


def _by_task(actor: SearchActor, families: SearchTasks, tasks: int) -> NDArray[np.float64]:
    """Mean log regret of each task over `BUDGETS`, shape (tasks,)."""
    return np.array([np.mean(logs) for _, logs in _Searches(actor, families).of(range(tasks))])


class _Searches:
    """Searches of tasks by one network; lives in any process."""

    def __init__(self, actor: SearchActor, families: SearchTasks) -> None:
        self._actor, self._families = actor, families

    def of(self, seeds: Sequence[int]) -> list[tuple[str, list[float]]]:
        """For each task, whether there are past ones, and the log of the final regret for each of `BUDGETS`."""
        found = []
        for seed in seeds:
            task = self._families.task(seed)
            logs = [log_regret(self._actor, task, budget, seed) for budget in BUDGETS]
            found.append((_KINDS[task.past is not None], logs))
        return found


def _log_regrets(actor: SearchActor, families: SearchTasks, tasks: int, workers: int) -> dict[str, list[float]]:
    """Log of the final regrets (plus `FLOOR`), by whether there are past tasks and by budget."""
    found: dict[str, list[float]] = {}
    for kind, logs in _searched_by(_Searches(actor, families), tasks, workers):
        for budget, log in zip(BUDGETS, logs, strict=True):
            found.setdefault(f"{kind}, budget {budget}", []).append(log)
    return found


def _searched_by(searches: _Searches, tasks: int, workers: int) -> list[tuple[str, list[float]]]:
    """What `_Searches.of` tells of so many tasks, by so many processes."""
    workers = min(workers, tasks)
    if workers <= 1:
        return searches.of(range(tasks))
    with ExitStack() as stack:
        processes = []
        for i in range(workers):
            processes.append(WorkerProcess([searches]))
            stack.callback(processes[i].close)
            processes[i].send("of", {0: (range(i, tasks, workers),)})
        found = [process.receive()[0] for process in processes]
    return [found[seed % workers][seed // workers] for seed in range(tasks)]


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
