from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

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


class Run:
    """A run of a program, in a process of its own."""

    def __init__(self, forker: Forker, process: int, output: Path) -> None:
        self._forker, self._process, self._output = forker, process, output
        self._exit_code: int | None = None

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self._exit_code is None:
            self._exit_code = self._forker.ask(self._process)
        return self._exit_code

    def wait(self, seconds: float = 120.0) -> int:
        """The exit code, once it has ended."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"still running after {seconds} s: {self.printed}"
            time.sleep(0.02)
        return code

    def kill(self, *others: Run) -> None:
        """Ends it without warning, and others at the same moment: before they notice."""
        for run in (self, *others):
            os.kill(run._process, signal.SIGKILL)
        for run in (self, *others):
            assert run.wait() == -signal.SIGKILL

    @property
    def printed(self) -> str:
        """The end of what it has said."""
        return self._output.read_text()[-3000:] if self._output.exists() else ""


class Forker:
    """Runs of one program, see `forker.py`."""

    def __init__(self, program: Path, flags: Sequence[str]) -> None:
        command = [sys.executable, *flags, str(Path(__file__).with_name("forker.py")), str(program)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, request: object) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Run]]:
    """Starts a program of this folder in a process of its own: `start("loop.py", *arguments, output=file)`."""
    forkers: dict[str, Forker] = {}

    def start(name: str, *arguments: str, output: Path, flags: Sequence[str] = ()) -> Run:
        if name not in forkers:
            forkers[name] = Forker(Path(__file__).with_name(name), flags)
        return Run(forkers[name], forkers[name].ask([arguments, str(output)]), output)

    yield start
    for forker in forkers.values():
        forker.close()
