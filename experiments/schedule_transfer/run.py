"""One adaptive run against learning-rate searches, on networks, data and horizons that the policy never saw.

    python experiments/schedule_transfer/run.py [--data FOLDER] --rivals-only      # once; takes long
    python experiments/schedule_transfer/run.py [--data FOLDER] --policy NAME_OR_FOLDER --out FOLDER

All strategies train the same networks from the same initial weights on the same mini-batches for equally many steps.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import metatuner.agent.guard
import metatuner.envs.adjustments
import metatuner.envs.controller
import metatuner.envs.signals
import numpy as np
import plots
import rivals
import scoring
import torch
from cache import Cache
from metatuner.agent.policy import Policy
from rivals import RIVALS, Outcome
from scoring import TaskResult
from tasks import SEARCHED, STARTS, Problem, Task, problems

HERE = Path(__file__).parent
STEPS = {"short": 480, "long": 2040}
"""Five times the longest of meta-training is the long one; both are multiples of 120, so that intervals are equal."""
SEEDS = {"short": 5, "long": 5}
VERSION = 1
"""To be raised when a strategy changes, so that no outcome of the old one is taken from a cache."""
ADJUSTED = ("lr", "weight_decay", "momentum")
_PACKAGES = ("numpy", "scipy", "scikit-learn", "schedulefree", "prodigyopt")


class Strategies:
    """Runs strategies, unless their outcomes are known.

    Args:
        rivals: Where outcomes of the rivals lie.
        policies: Where those of policies lie.
        policy: The policy; None leaves it out.
        adjust: What the policy adjusts.
        decisions: How often.
        guarded: Whether the guard may overrule it.
        train_rivals: Whether rivals' outcomes that are not known are worked out, or left out.
    """

    def __init__(
        self,
        rivals: Cache,
        policies: Cache,
        policy: Policy | None,
        adjust: tuple[str, ...],
        decisions: int,
        guarded: bool,
        train_rivals: bool,
    ) -> None:
        self._rivals, self._policies, self._policy, self._adjust = rivals, policies, policy, adjust
        self._decisions, self._guarded, self._train_rivals = decisions, guarded, train_rivals

    def outcome(self, task: Task, strategy: str) -> Outcome | None:
        """What a strategy reaches, where it is to be known."""
        if strategy != "policy":
            rival = RIVALS[strategy]
            settings = task.description(rival.of_optimizer) | {"strategy": strategy, "version": VERSION}
            settings["rates"] = (SEARCHED if strategy == "cosine" else STARTS).round(12).tolist()
            title = f"{task.name if rival.of_optimizer else task.problem.name} {task.steps} {task.seed} {strategy}"
            if not self._train_rivals:
                return self._rivals.get(settings)
            return self._rivals.compute(title, settings, functools.partial(rival.run, task))
        assert self._policy is not None
        settings = task.description() | {"strategy": "policy", "version": VERSION, "code": _code()}
        settings |= {"policy": self._policy.card.get("sha256", self._policy.name), "adjust": self._adjust}
        settings |= {"decisions": self._decisions, "guarded": self._guarded, "rates": STARTS.round(12).tolist()}
        run = functools.partial(rivals.policy, task, self._policy, self._adjust, self._decisions, self._guarded)
        return self._policies.compute(f"{task.name} {task.steps} {task.seed} policy", settings, run)


def _code() -> str:
    """Of what lies between a policy and a training."""
    modules = metatuner.agent.guard, metatuner.envs.adjustments, metatuner.envs.controller, metatuner.envs.signals
    sources = b"".join(Path(str(module.__file__)).read_bytes() for module in modules)
    return hashlib.sha256(sources).hexdigest()[:16]


def run_horizon(
    chosen: Sequence[Problem], horizon: str, seeds: int, names: Sequence[str], strategies: Strategies
) -> dict[str, TaskResult]:
    """Trains all tasks of a horizon; a strategy without all seeds of a task is left out there."""
    names = [name for name in names if horizon == "short" or name == "policy" or RIVALS[name].also_long]
    found: dict[str, dict[str, list[Outcome | None]]] = {}
    problem_of: dict[str, str] = {}
    # Seeds last: all tasks are there once before any is there twice.
    for seed in range(seeds):
        for problem in chosen:
            for optimizer in problem.optimizers if horizon == "short" else [problem.long]:
                if optimizer is None:
                    continue
                task = Task(problem, optimizer, STEPS[horizon], seed)
                problem_of[task.name] = problem.name
                for name in names:
                    outcomes = found.setdefault(task.name, {}).setdefault(name, [])
                    outcomes.append(strategies.outcome(task, name))
    results = {}
    for task_name, by_strategy in found.items():
        whole = {name: [each for each in of if each is not None] for name, of in by_strategy.items()}
        whole = {name: outcomes for name, outcomes in whole.items() if len(outcomes) == seeds}
        if "cosine" in whole:
            val, test = (
                {name: np.stack([getattr(each, part) for each in of]) for name, of in whole.items()}
                for part in ("val", "test")
            )
            results[task_name] = TaskResult(problem_of[task_name], val, test)
        else:
            print(f"left out, for want of the cosine runs: {task_name}")
    return results


def report(results: Mapping[str, TaskResult], settings: dict[str, Any], policy: Policy | None, out: Path) -> None:
    """Writes the results and the plots of a horizon, and prints the table."""
    order = [
        "policy", "best_of_5", "best_of_12", "best_of_24", "tuned_elsewhere", "pbt",
        "prodigy", "schedule_free", "plateau", "cosine", "stable_decay", "constant", "hypergradient",
    ]  # fmt: skip
    summary = scoring.summarise(results, order)
    document: dict[str, Any] = {"settings": settings, "summary": summary}
    compared: dict[str, dict[str, Any]] = {}
    if policy is not None:
        compared = scoring.compare(results, order[1:], sensible=True)
        document |= {"policy_against_rivals": scoring.compare(results, order[1:])}
        document |= {"policy_against_rivals_from_sensible_starts": compared}
        document |= {"policy_against_its_reference": scoring.guard(results, policy.reference)}
    for part in ("val", "test"):
        document |= {f"final_{part}_losses": {task: getattr(result, part) for task, result in results.items()}}
    stem, lines = f"{settings['steps']}", [f'"{k}": {json.dumps(_rounded(v))}' for k, v in document.items()]
    (out / f"results_{stem}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    plots.losses(results, out / f"losses_{stem}.png")
    plots.forest(summary, out / f"ratios_{stem}.png")
    table = _table(summary, compared)
    (out / f"table_{stem}.md").write_text(table, encoding="utf-8")
    print(table)
    if policy is not None:
        print("over its reference, worst task:", document["policy_against_its_reference"]["worst_task_median"])


def _table(summary: Mapping[str, Mapping[str, Any]], compared: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| strategy | runs | all starts | 95 % | sensible starts | 95 % | test, sensible | worst sensible start: "
        "median, worst task | policy ahead on (sensible starts) | p (Holm) | tasks |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    runs = {"best_of_5": 5, "best_of_12": 12, "best_of_24": 24, "tuned_elsewhere": "24 each other seed", "pbt": 12}
    for name, figures in summary.items():
        worst, against = list(figures["worst_sensible_start"].values()), compared.get(name)
        cells = [
            name, runs.get(name, 1), f"**{figures['iqm']:.2f}**", "{:.2f} to {:.2f}".format(*figures["iqm_95"]),
            f"**{figures['iqm_sensible']:.2f}**", "{:.2f} to {:.2f}".format(*figures["iqm_sensible_95"]),
            f"{figures['iqm_sensible_test']:.2f}", f"{np.median(worst):.2f}, {np.max(worst):.2f}",
            f"{against['beaten']:.0%}" if against else "", f"{against['p_holm']:.2g}" if against else "",
            figures["tasks"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _rounded(value: Any) -> Any:
    """Plain data with five significant digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        # Whoever only compares with runs of the cache needs no rival's library.
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def main() -> None:
    """Runs all tasks, writes the results and the plots, prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choose: Callable[..., argparse.Action] = parser.add_argument
    choose("--policy", default="schedule-default", help="a policy's name or folder (default: %(default)s)")
    choose("--adjust", nargs="+", default=ADJUSTED, help="what the policy adjusts (default: %(default)s)")
    choose("--decisions", type=int, default=30, help="decisions of the policy (default: %(default)s)")
    choose("--no-guard", action="store_true", help="nothing overrules the policy")
    choose("--validation", action="store_true", help="the tasks, on other data, that choices are made by, instead")
    choose("--data", type=Path, help="a folder with the data sets that scikit-learn does not bring, see README")
    choose("--known", type=Path, default=HERE / "rivals.jsonl", help="finished runs of rivals (default: the published)")
    choose("--out", type=Path, default=HERE, help="a folder for results and plots")
    choose("--horizons", nargs="+", choices=list(STEPS), default=list(STEPS))
    choose("--seeds", type=int, help=f"fewer seeds than {SEEDS}")
    choose("--tasks", nargs="+", help="only problems whose names contain one of these words")
    choose("--rivals", nargs="+", choices=list(RIVALS), default=list(RIVALS))
    choose("--rivals-only", action="store_true", help="work out the rivals' runs, without a policy")
    choose("--cached", action="store_true", help="train no rivals: compare with the finished ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy = None if args.rivals_only else Policy.load(args.policy)
    known = Cache(args.known), Cache(args.out / "policies.jsonl")
    strategies = Strategies(*known, policy, tuple(args.adjust), args.decisions, not args.no_guard, not args.cached)
    words = args.tasks or [""]
    chosen = [
        problem for problem in problems(args.data, args.validation) if any(word in problem.name for word in words)
    ]
    names = [*args.rivals] if policy is None else [*args.rivals, "policy"]
    args.out.mkdir(parents=True, exist_ok=True)
    for horizon in args.horizons:
        seeds = min(args.seeds or SEEDS[horizon], SEEDS[horizon])
        results = run_horizon(chosen, horizon, seeds, names, strategies)
        if not results:
            continue
        settings = {
            "steps": STEPS[horizon],
            "seeds": seeds,
            "policy": policy and policy.name,
            "policy_sha256": policy and policy.card.get("sha256"),
            "adjust": args.adjust,
            "decisions": args.decisions,
            "guarded": not args.no_guard,
            "rival_intervals": rivals.INTERVALS,
            "starts": STARTS,
            "searched": SEARCHED,
            "python": platform.python_version(),
            "torch": torch.__version__,
            **_versions(),
        }
        report(results, settings, policy, args.out)


if __name__ == "__main__":
    main()
