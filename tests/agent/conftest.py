from __future__ import annotations

from pathlib import Path

import pytest
import torch
from metatuner.agent.actor import Actor, ActorShape, RecurrentActor
from metatuner.agent.policy import Policy
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.signals import GLOBAL_SIGNALS


def policy_that_moves(memory: int) -> Policy:
    """Never trained, but it moves a lot, and differently for every observation."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        actor = Actor(ActorShape(len(GLOBAL_SIGNALS), len(HYPERPARAMETER_SIGNALS), memory=memory))
        with torch.no_grad():
            actor.head.weight.mul_(6.0)
        network = RecurrentActor(actor) if memory else actor
    return Policy("lively", network.eval(), 10, {"note": "for tests"})


@pytest.fixture
def lively() -> Policy:
    """A policy that moves a lot."""
    return policy_that_moves(memory=0)


@pytest.fixture
def remembering() -> Policy:
    """A policy that moves a lot, and remembers what it saw."""
    return policy_that_moves(memory=6)


@pytest.fixture
def folder(lively: Policy, tmp_path: Path) -> Path:
    return lively.save(tmp_path / "lively")
