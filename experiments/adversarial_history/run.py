"""Does a past that misleads do harm?

    OMP_NUM_THREADS=1 python experiments/adversarial_history/run.py [--tasks 60] [--policy search-default]

Held-out generated tasks are searched without a past, with the past of their own family, and with the same past spoilt
in every way that histories are spoilt in practice. Task, budget, noise and seeds are the same for all. Writes
results.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from metatuner.agent.search_policy import SearchPolicy
from metatuner.envs.families import Split
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.search import SearchEnv
from metatuner.envs.search_families import GeneratedTask, SearchFamilies

HERE = Path(__file__).parent
BUDGETS = (1, 4, 10, 25)
WORST = 2.0  # where regrets end, as in the other experiments

Spoil = Callable[[History, int, np.random.Generator], History]
"""Takes a past task, its place among them and random numbers."""


def inverted(history: History, place: int, random: np.random.Generator) -> History:
    """Good is bad: an accuracy that was taken for a loss."""
    del place, random
    return History(history.points, np.where(np.isfinite(history.values), -history.values, history.values))


def shuffled(history: History, place: int, random: np.random.Generator) -> History:
    """Values of other configurations: noise."""
    del place
    return History(history.points, random.permutation(history.values))


def mirrored(history: History, place: int, random: np.random.Generator) -> History:
    """Another task altogether, as smooth: what was at one end of a number's range is at the other."""
    del place, random
    choices = np.isin(history.points, (0.0, 1.0)).all(0)
    return History(np.where(choices, history.points, 1 - history.points), history.values)


def duplicated(history: History, place: int, random: np.random.Generator) -> History:
    """Every run five times."""
    del place, random
    return History(np.tile(history.points, (5, 1)), np.tile(history.values, (5, 1)))


def half_failed(history: History, place: int, random: np.random.Generator) -> History:
    """Every other run failed, wherever it was."""
    del place
    failed = random.random(len(history.values)) < 0.5
    return History(history.points, np.where(failed[:, None], np.inf, history.values))


def mixed_units(history: History, place: int, random: np.random.Generator) -> History:
    """Fractions, percent and per mille."""
    del random
    return History(history.points, history.values * (1.0, 100.0, 0.001)[place % 3])


def in_percent(history: History, place: int, random: np.random.Generator) -> History:
    """Percent in the past, a fraction now."""
    del place, random
    return History(history.points, history.values * 100)


def own(history: History, place: int, random: np.random.Generator) -> History:
    """Nothing is spoilt."""
    del place, random
    return history


KINDS: dict[str, Spoil] = {
    each.__name__: each
    for each in (own, duplicated, half_failed, mixed_units, in_percent, shuffled, mirrored, inverted)
}
UNRELATED = "unrelated"
"""The past of another family: it shares the search space, and no more."""
NONE = "no past"


def regret(policy: SearchPolicy, env: SearchEnv, seed: int) -> float:
    """Of one search."""
    observation, info = env.reset(seed=seed)
    done = False
    while not done:
        with torch.no_grad():
            scores = policy.actor(torch.from_numpy(observation)[None])[0].numpy()
        observation, _, done, _, info = env.step(np.where(env.action_masks(), scores, -np.inf).argmax())
    return min(float(info["regret"]), WORST)


def main() -> None:
    """Measures, prints the table and writes results.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=60)
    parser.add_argument("--policy", default="search-default")
    parser.add_argument("--budgets", type=int, nargs="+", default=list(BUDGETS))
    parser.add_argument("--kinds", nargs="+", default=[*KINDS, UNRELATED], choices=[*KINDS, UNRELATED])
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = SearchPolicy.load(args.policy)
    families = SearchFamilies(Split.HELD_OUT, without_past=0.0)
    found: dict[str, dict[int, list[float]]] = {
        kind: {budget: [] for budget in args.budgets} for kind in (NONE, *args.kinds)
    }
    began = time.monotonic()
    for seed in range(args.tasks):
        task, histories = families.with_histories(seed)
        for kind, by_budget in found.items():
            told = [each for each in past(kind, histories, families, task, seed) if each.says_enough]
            task.past = PastTasks(told, seed) if told else None
            for budget, regrets in by_budget.items():
                regrets.append(regret(policy, SearchEnv(task, budget=budget), seed))
        print(f"{seed + 1} of {args.tasks} tasks, {time.monotonic() - began:.0f} s", flush=True)
    results = {kind: {str(b): summary(r, found[NONE][b]) for b, r in each.items()} for kind, each in found.items()}
    for kind, by_budget in results.items():
        print(f"{kind:<14}" + "".join(f"  B={b} {s['mean']:.3f} ({s['ratio']:.2f})" for b, s in by_budget.items()))
    args.out.mkdir(parents=True, exist_ok=True)
    document = {"policy": policy.name, "tasks": args.tasks, "results": results}
    (args.out / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def past(
    kind: str, histories: list[History], families: SearchFamilies, task: GeneratedTask, seed: int
) -> list[History]:
    """What a search is told, where it is of this kind."""
    if kind == UNRELATED:
        return families.unrelated(seed, task, len(histories))
    random = np.random.default_rng(seed)
    return [KINDS[kind](each, place, random) for place, each in enumerate(histories)] if kind in KINDS else []


def summary(regrets: list[float], without: list[float]) -> dict[str, float]:
    """Mean regret, and its ratio to that without a past, with a bootstrap interval over tasks."""
    mine, other = np.array(regrets), np.array(without)
    drawn = np.random.default_rng(0).integers(len(mine), size=(2000, len(mine)))
    ratios = mine[drawn].mean(1) / other[drawn].mean(1)
    low, high = np.quantile(ratios, (0.025, 0.975))
    figures = {"mean": mine.mean(), "median": np.median(mine), "ratio": mine.mean() / other.mean()}
    return {name: round(float(value), 4) for name, value in {**figures, "low": low, "high": high}.items()}


if __name__ == "__main__":
    main()
