"""Tables of regrets: means over tasks with intervals of a bootstrap over tasks, medians, and tasks won."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

DRAWS = 2000


def table(folder: Path, budgets: tuple[int, ...]) -> str:
    """A table for each scenario that has outcomes, as Markdown."""
    parts = []
    for path in sorted(folder.glob("outcomes_*.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        parts.append(f"### {path.stem.removeprefix('outcomes_')}\n\n{_of_scenario(rows, budgets)}")
    return "\n\n".join(parts) + "\n"


def is_told(strategy: str) -> bool:
    """Whether a strategy is told of past tasks."""
    return strategy.startswith(("policy", "rule", "portfolio")) and "no past" not in strategy


def _of_scenario(rows: list[tuple[str, str, int, list[float]]], budgets: tuple[int, ...]) -> str:
    parts = []
    for title, told in (("With past tasks", True), ("Without", False)):
        some = [row for row in rows if is_told(row[1]) is told]
        parts += [f"**{title}:** {_compared(some, budgets)}"] if some else []
    return "\n\n".join(parts)


def _compared(rows: list[tuple[str, str, int, list[float]]], budgets: tuple[int, ...]) -> str:
    strategies = list(dict.fromkeys(strategy for _, strategy, _, _ in rows))
    there = {(task, strategy) for task, strategy, _, _ in rows}
    # Only tasks that every strategy has met can be compared.
    tasks = [
        task
        for task in dict.fromkeys(task for task, _, _, _ in rows)
        if all((task, strategy) in there for strategy in strategies)
    ]
    means = np.array(
        [
            [np.mean([regrets for t, s, _, regrets in rows if (t, s) == (task, strategy)], axis=0) for task in tasks]
            for strategy in strategies
        ]
    )  # strategies, tasks, budgets
    repeats = [len({seed for _, s, seed, _ in rows if s == strategy}) for strategy in strategies]
    best = means.argmin(0)
    lines = [
        f"{len(tasks)} tasks, {min(repeats)} to {max(repeats)} repeats. Mean regret over tasks (95 % of a "
        "bootstrap over tasks), median, and "
        "tasks won.",
        "",
        "| strategy | " + " | ".join(f"B = {budget}" for budget in budgets) + " |",
        "|---" * (len(budgets) + 1) + "|",
    ]
    random = np.random.default_rng(0)
    drawn = random.integers(len(tasks), size=(DRAWS, len(tasks)))
    for i, strategy in enumerate(strategies):
        cells = []
        for j in range(len(budgets)):
            of_tasks = means[i, :, j]
            low, high = np.percentile(of_tasks[drawn].mean(1), [2.5, 97.5])
            won = int((best[:, j] == i).sum())
            cells.append(f"**{of_tasks.mean():.3f}** ({low:.3f} to {high:.3f}), {np.median(of_tasks):.3f}, {won}")
        lines.append(f"| {strategy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
