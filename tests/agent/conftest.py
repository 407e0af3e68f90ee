from __future__ import annotations

from pathlib import Path

import pytest
import torch
from metatuner.agent.actor import Actor, ActorShape
from metatuner.agent.policy import Policy
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.signals import GLOBAL_SIGNALS


@pytest.fixture
def lively() -> Policy:
    """A policy that was never trained but moves a lot, and differently for every observation."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        actor = Actor(ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS)))
        with torch.no_grad():
            actor.head.weight.mul_(6.0)
    return Policy("lively", actor.eval(), 10, {"note": "for tests"})


@pytest.fixture
def folder(lively: Policy, tmp_path: Path) -> Path:
    return lively.save(tmp_path / "lively")
