"""What a person reads on the page of a registered policy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from .names import shorten

_LONGEST = 4_500  # MLflow's limit is 5,000


def describe_policy(card: Mapping[str, Any], name: str) -> str:
    """A policy's card as Markdown.

    Args:
        card: The card. Whatever it lacks is left out.
        name: The name that the policy is registered under.
    """
    parts = []
    if isinstance(adjusted := card.get("adjust"), list):
        times = f" {card['decisions']} times a training" if "decisions" in card else ""
        parts.append(f"Adjusts {', '.join(map(str, adjusted))}{times}.")
    parts += [f"Learnt by: {card['algorithm']}."] if "algorithm" in card else []
    parts += [f"Learnt from: {card['task_family']}."] if "task_family" in card else []
    blocks = [" ".join(parts)] if parts else []
    use = "PolicySampler(" if card.get("kind") == "search" else "AdaptiveSchedule(optimizer, total_steps=N, "
    blocks.append(f'```python\n{use}policy="models:/{name}@champion")\n```')
    if isinstance(evaluation := card.get("evaluation"), dict):
        rows = [f"| {figure.replace('_', ' ')} | {_figure(value)} |" for figure, value in evaluation.items()]
        blocks.append("\n".join(["| evaluation | |", "|---|---|", *rows]))
    blocks += [f"Made by `{card['command']}`"] if "command" in card else []
    return shorten("\n\n".join(blocks), _LONGEST)


def _figure(value: object) -> str:
    return f"{value:.4g}" if is_figure(value) else str(value)


def is_figure(value: object) -> TypeGuard[float]:
    """Whether a card's entry is a number, not one of hundreds of digits."""
    return isinstance(value, int | float) and (value != value or abs(value) <= sys.float_info.max)
