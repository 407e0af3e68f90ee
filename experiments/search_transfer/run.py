"""How much regret is left when a budget of full trainings is spent: the learned search beside its rivals.

Every strategy runs through `metatuner.tune` on the same objectives; those of a task that are told of past tasks are
told of all others of its scenario, never of the task itself. The policy has learnt on generated functions alone.

    python experiments/search_transfer/run.py --bench FOLDER --repeats 30
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import metatuner as mt
import numpy as np
import torch
from metatuner.agent.policy_sampler import PolicySampler
from metatuner.agent.portfolio_sampler import greedy_portfolio
from metatuner.agent.search_policy import SearchPolicy
from metatuner.envs.past_tasks import PastTasks
from metatuner.envs.records import NullRecorder
from optuna.study import Study
from rivals import AskedSampler, HeboSampler, SmacSampler
from scoring import table
from tasks import SCENARIOS, TableTask, past_of, tasks_of

BUDGETS = (1, 4, 10, 25)
LONGEST = 60  # configurations in a portfolio
WORST = 2.0  # where regrets end

Run = Callable[[TableTask, PastTasks | None, int, int], Study]


def main() -> None:
    """Runs what is not there yet, then scores everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=Path, required=True, help="the folder with the benchmark's load.py")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where outcomes and tables go")
    parser.add_argument("--scenarios", nargs="+", default=list(SCENARIOS), choices=SCENARIOS)
    usual = [each for each in STRATEGIES if each not in EXTRA]
    parser.add_argument("--strategies", nargs="+", default=usual, choices=list(STRATEGIES))
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--most-tasks", type=int, default=None, help="tasks of a scenario (default: all)")
    parser.add_argument("--policy", default="search-default")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    for scenario in args.scenarios:
        outcomes = args.out / f"outcomes_{scenario}.jsonl"
        known = _known(outcomes)
        tasks = tasks_of(args.bench, scenario, args.most_tasks)
        with outcomes.open("a", encoding="utf-8") as file:
            for task in tasks:
                past = past_of(task, tasks)
                for strategy in args.strategies:
                    began = time.monotonic()
                    for seed in range(args.repeats):
                        if (task.name, strategy, seed) not in known:
                            regrets = _regrets(task, past, strategy, seed, args.policy)
                            file.write(json.dumps([task.name, strategy, seed, regrets]) + "\n")
                    file.flush()
                    print(f"{task.name} {strategy} {time.monotonic() - began:.1f} s", flush=True)
    text = table(args.out, BUDGETS)
    (args.out / "table.md").write_text(text, encoding="utf-8")
    print(text)


def _known(path: Path) -> set[tuple[str, str, int]]:
    if not path.exists():
        return set()
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(task, strategy, seed) for task, strategy, seed, _ in rows}


def _regrets(task: TableTask, past: PastTasks, strategy: str, seed: int, policy: str) -> list[float]:
    """Regret of the incumbent's full training at each of `BUDGETS`."""
    run, each_budget = STRATEGIES[strategy]
    found: list[float] = []
    for budgets in [(budget,) for budget in BUDGETS] if each_budget else [BUDGETS]:
        searched = task.fresh()
        found += _at(searched, run(searched, past, max(budgets), seed, policy), budgets)
    return found


def _at(task: TableTask, study: Study, budgets: tuple[int, ...]) -> list[float]:
    """What the study would have recommended when it had spent each budget: the best value that it had seen."""
    spent, best, incumbent = 0.0, np.inf, {}
    found: dict[int, dict[str, Any]] = {}
    for trial in study.trials:
        if not trial.intermediate_values:
            spent += 1  # it failed
            continue
        known = len(trial.intermediate_values) - trial.user_attrs["metatuner:units"]
        for _, value in sorted(trial.intermediate_values.items())[known:]:
            spent += 1 / task.units
            if value < best:
                best, incumbent = value, trial.params
            found |= {budget: incumbent for budget in budgets if spent <= budget + 1e-6}
    return [round(min(task.regret(found[budget]), WORST), 5) for budget in budgets]


def _tune(task: TableTask, budget: int, seed: int, **options: Any) -> Study:
    found = mt.tune(
        task.train, task.space, budget, recorder=NullRecorder(), units=task.units, seed=seed, name="s", **options
    )
    return found.study


def _named(strategy: str) -> Any:
    return lambda task, past, budget, seed, policy: _tune(task, budget, seed, strategy=strategy), False


def _rival(sampler: type[AskedSampler]) -> Any:
    def run(task: TableTask, past: PastTasks, budget: int, seed: int, policy: str) -> Study:
        del past, policy
        return _tune(task, budget, seed, strategy=sampler(task.space, budget, seed))

    return run, False


def _policy(with_past: bool, finishing: bool = False, rule: bool = False) -> Any:
    def run(task: TableTask, past: PastTasks, budget: int, seed: int, policy: str) -> Study:
        chosen = SearchPolicy.load(policy)
        if rule:
            chosen.actor.trust.zero_()
        sampler = PolicySampler(
            chosen,
            past=past if with_past else (),
            units=task.units,
            budget=budget,
            space=task.space,
            seed=seed,
            finishing=finishing,
        )
        return _tune(task, budget, seed, strategy=sampler, pruner=sampler.pruner())

    return run, True


def _portfolio(task: TableTask, past: PastTasks, seed: int) -> list[dict[str, Any]]:
    # The order follows from past tasks; what is told of them is the same for the policy.
    pool = np.concatenate([past.best, task.cube.sample(np.random.default_rng(seed), 2000)])
    return [task.cube.decode(pool[i]) for i in greedy_portfolio(past.expected(pool)[..., -1], LONGEST)]


def _static(task: TableTask, past: PastTasks, budget: int, seed: int, policy: str) -> Study:
    del policy
    return _tune(task, budget, seed, strategy="manual", configs=_portfolio(task, past, seed)[:budget])


def _halving(task: TableTask, past: PastTasks, budget: int, seed: int, policy: str) -> Study:
    del policy
    return _tune(task, budget, seed, strategy="asha", configs=_portfolio(task, past, seed))


STRATEGIES: dict[str, Any] = {
    "policy": _policy(True),
    "policy, finishing": _policy(True, True),
    "policy, no past, finishing": _policy(False, True),
    "portfolio": (_static, False),
    "portfolio, halving": (_halving, False),
    "policy, no past": _policy(False),
    "rule, no past": _policy(False, rule=True),
    "random": _named("random"),
    "asha": _named("asha"),
    "hyperband": _named("hyperband"),
    "tpe": _named("tpe"),
    "gp": _named("gp"),
    "cmaes": _named("cmaes"),
    "smac": _rival(SmacSampler),
    "hebo": _rival(HeboSampler),
}
"""Those that are told of past tasks, then those that are not. With each: whether it depends on the budget, so that it
runs once for each of them."""

EXTRA = ("smac", "hebo")
"""Those that run where they are asked for alone: they need packages of their own, see `rivals`."""


if __name__ == "__main__":
    main()
