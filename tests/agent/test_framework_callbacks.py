"""AdaptiveSchedule as a callback of Lightning and of transformers, in real trainings in processes of their own."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from metatuner.agent.policy import Policy
from metatuner.envs.errors import CheckpointError, ConfigurationError, MissingPackageError
from torch import nn

STRICT = [
    *("-W", "error"),
    # Lightning checks for something that torch is about to drop.
    *("-W", "ignore::FutureWarning:lightning.pytorch.utilities._pytree"),
    # It has advice on machines with a GPU and with many cores.
    *("-W", "ignore:GPU available but not used"),
    *("-W", "ignore:The 'train_dataloader' does not have many workers"),
    *("-W", "ignore:The 'val_dataloader' does not have many workers"),
    # A resumed training writes where the killed one did.
    *("-W", "ignore:Checkpoint directory:UserWarning"),
]


Train = Callable[..., list[list[Any]]]
KillAfter = Callable[..., int]


@pytest.fixture
def started(start: Callable[..., Any]) -> Callable[..., Any]:
    """Starts a training in a process of its own."""

    def started(framework: str, home: Path, policy: str | Path, settings: dict[str, Any]) -> Any:
        home.mkdir(exist_ok=True)
        given = {"folder": str(home), "policy": str(policy), **settings}
        return start(f"{framework}_loop.py", json.dumps(given), output=home / "said", flags=STRICT)

    return started


@pytest.fixture
def train(started: Callable[..., Any]) -> Train:
    """Entries [batch or step, steps of the schedule, loss, values, signals, rate in the optimiser or scheduler]."""

    def train(framework: str, home: Path, policy: str | Path, **settings: Any) -> list[list[Any]]:
        run = started(framework, home, policy, settings)
        assert run.wait() == 0, run.printed
        return entries(home)

    return train


def entries(home: Path) -> list[list[Any]]:
    """The last entry of each step."""
    lines = (home / "log").read_text().splitlines()
    return list({one[0]: one for one in map(json.loads, filter(lambda line: line.endswith("]"), lines))}.values())


@pytest.fixture
def kill_after(started: Callable[..., Any]) -> KillAfter:
    """Kills a training without warning once it has logged so many lines; returns how many it has."""

    def kill_after(framework: str, home: Path, policy: Path, lines: int, **settings: Any) -> int:
        run = started(framework, home, policy, settings | {"pause": 0.03})
        while not (home / "log").exists() or (home / "log").read_text().count("\n") < lines:
            assert run.poll() is None, run.printed
            time.sleep(0.01)
        run.kill()
        return (home / "log").read_text().count("\n")

    return kill_after


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

SETTINGS = [
    ("lightning", {"scheduler": False}, 80, 58),
    ("lightning", {"scheduler": True, "accumulate": 2, "clip": 1.0}, 40, 58),
    ("transformers", {"scheduler": "cosine", "accumulate": 2}, 24, 17),
    pytest.param("lightning", {"accelerator": "gpu", "precision": "bf16-mixed"}, 80, 58, marks=on_a_gpu),
    pytest.param("transformers", {"use_cpu": False, "bf16": True, "accumulate": 2}, 24, 17, marks=on_a_gpu),
]


@pytest.mark.parametrize(("framework", "settings", "steps", "lines"), SETTINGS)
def test_a_killed_training_resumes_with_identical_losses_and_decisions(
    framework: str,
    settings: dict[str, Any],
    steps: int,
    lines: int,
    folder: Path,
    tmp_path: Path,
    train: Train,
    kill_after: KillAfter,
) -> None:
    whole = train(framework, tmp_path / "whole", folder, **settings)
    assert whole[-1][1] == steps  # optimiser steps, not mini-batches
    assert len({json.dumps(entry[3]) for entry in whole}) >= 10
    assert any(entry[4]["val_since_start"] != 0.0 for entry in whole)
    if settings.get("scheduler") is True:
        require_untouched_cosine([entry[5] for entry in whole])
    killed = kill_after(framework, tmp_path / "killed", folder, lines, **settings)
    assert killed < len(whole)
    resumed = train(framework, tmp_path / "killed", folder, **settings)
    assert (tmp_path / "killed" / "log").read_text().count("\n") > len(whole)  # some steps were done twice
    assert resumed == whole


def require_untouched_cosine(rates: list[float]) -> None:
    """Outside of the optimiser's steps its rate is the scheduler's own: every other mini-batch takes one."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1e-3)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    expected = [1e-3]
    for _ in range(len(rates) // 2):
        optimizer.step()
        cosine.step()
        expected += [optimizer.param_groups[0]["lr"]] * 2
    assert rates == expected[: len(rates)]


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("LightningAdaptiveSchedule", "lightning", "lightning"),
        ("TransformersAdaptiveSchedule", "transformers", "transformers"),
        ("PolicyScheduler", "ray", "ray"),
        ("TuneRecorder", "ray", "ray"),
    ],
)
def test_a_missing_framework_is_said_to_be_missing(name: str, package: str, extra: str) -> None:
    code = f"import sys; sys.modules[{package!r}] = None\nimport metatuner\nmetatuner.{name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"install metatuner[{extra}]" in done.stderr
    assert "MissingPackageError" in done.stderr.splitlines()[-1]
    assert issubclass(MissingPackageError, ImportError)


def lightning() -> Any:
    """Lightning and its callback; importing them here keeps the other tests quick."""
    import lightning.pytorch as pl
    from metatuner.agent.lightning_callback import LightningAdaptiveSchedule

    return SimpleNamespace(pl=pl, Schedule=LightningAdaptiveSchedule)


@pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*", "ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:GPU available", "ignore:.*logging interval")
@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("endless", "runs without end"),
        ("manual", "manual optimisation"),
        ("unlogged", r"log 'val_loss' in its validation step, it logged \['other'\]"),
    ],
)
def test_what_lightning_cannot_tell_is_asked_for(case: str, message: str, lively: Policy) -> None:
    found = lightning()

    class Net(found.pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 3)
            self.automatic_optimization = case != "manual"

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("other", self.net(batch).square().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    loader = torch.utils.data.DataLoader(torch.ones(8, 4), batch_size=4)
    trainer = found.pl.Trainer(
        accelerator="cpu",
        max_epochs=-1 if case == "endless" else 1,
        callbacks=[found.Schedule(policy=lively)],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with pytest.raises(ConfigurationError, match=message):
        trainer.fit(Net(), loader, loader)


def test_a_checkpoint_without_a_schedule_is_refused(lively: Policy, tmp_path: Path) -> None:
    from metatuner.agent.transformers_callback import TransformersAdaptiveSchedule

    model = nn.Linear(4, 3)
    args = SimpleNamespace(output_dir=tmp_path, resume_from_checkpoint=None, process_index=0)
    state = SimpleNamespace(global_step=10, max_steps=20)
    callback = TransformersAdaptiveSchedule(policy=lively)
    optimizer = torch.optim.Adam(model.parameters())
    with pytest.raises(CheckpointError, match=r"resumes at step 10.*holds no metatuner_0\.safetensors"):
        callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)  # type: ignore[arg-type]


def heard(lively: Policy, *, items: int | None, world: int = 1, averaged: bool = True) -> list[float]:
    """What the schedule is told of two mini-batches with losses 2 and 4, of one step."""
    from metatuner.agent.transformers_callback import _Losses

    class Model(nn.Module):
        def forward(self, loss: torch.Tensor, num_items_in_batch: int | None = None) -> dict[str, torch.Tensor]:
            return {"loss": loss}

    model, losses = Model(), _Losses()
    losses.listen(model, SimpleNamespace(average_tokens_across_devices=averaged, world_size=world))  # type: ignore[arg-type]
    told = {} if items is None else {"num_items_in_batch": items}
    for value in (2.0, 4.0):
        model(torch.tensor(value), **told)
    model.eval()
    model(torch.tensor(math.nan), **told)  # an evaluation
    return [losses.take().item()]


def test_accumulated_losses_are_heard_as_the_trainer_scales_them(lively: Policy) -> None:
    assert heard(lively, items=None) == [3.0]  # means of mini-batches
    assert heard(lively, items=10) == [6.0]  # sums, divided by the items of the step
    assert heard(lively, items=10, world=2) == [12.0]  # and by those of all processes
    assert heard(lively, items=10, world=2, averaged=False) == [6.0]


def test_outputs_without_a_loss_are_refused() -> None:
    from metatuner.agent.transformers_callback import _loss_of, _Losses

    with pytest.raises(ConfigurationError, match="dict without one"):
        _loss_of({"logits": torch.ones(2)})
    with pytest.raises(ConfigurationError, match="without calling its model"):
        _Losses().take()
    assert _loss_of((torch.tensor(2.0), None)) == 2.0
