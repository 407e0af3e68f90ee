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
from metatuner.envs.records import Record, TrialFinished, TrialState
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


quietly = [
    pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*", "ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available", "ignore:.*logging interval", "ignore:.*training_step. returned"),
]


def fitted(policy: Policy, epochs: int, steps: int = -1, *, gaps: bool = False, **options: Any) -> tuple[Any, Any, Any]:
    """A trainer that has fitted ten batches an epoch, the module, and the data."""
    found = lightning()

    class Net(found.pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(4, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return None if gaps and batch_idx % 2 else (self.net(batch) - 1.0).square().mean()

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", (self.net(batch) - 1.0).square().mean())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    loader = torch.utils.data.DataLoader(torch.ones(40, 4), batch_size=4)
    trainer = found.pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        max_steps=steps,
        callbacks=[found.Schedule(policy=policy, **options)],
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Net()
    trainer.fit(module, loader, loader)
    return trainer, module, loader


def schedule_of(trainer: Any) -> Any:
    return trainer.callbacks[0].schedule


class TestLightning:
    pytestmark = quietly

    def test_a_second_fit_is_a_training_of_its_own(self, lively: Policy) -> None:
        trainer, module, loader = fitted(lively, 2)
        trainer.fit_loop.max_epochs = 5
        trainer.fit(module, loader, loader)
        schedule = schedule_of(trainer)
        assert (trainer.global_step, schedule.steps, schedule.total_steps) == (50, 30, 30)
        assert schedule.signals["progress"] > 0.85
        trainer.validate(module, loader, verbose=False)  # nobody tells the schedule, which is closed

    def test_a_checkpoint_of_a_second_fit_is_resumed_to_its_end(self, lively: Policy, tmp_path: Path) -> None:
        trainer, module, loader = fitted(lively, 2)
        trainer.fit_loop.max_epochs = 4
        trainer.fit(module, loader, loader)
        trainer.save_checkpoint(tmp_path / "ckpt")
        trainer.fit_loop.max_epochs = 6
        trainer.fit(module, loader, loader, ckpt_path=tmp_path / "ckpt", weights_only=False)
        schedule = schedule_of(trainer)
        assert (trainer.global_step, schedule.steps, schedule.total_steps) == (60, 40, 40)

    def test_batches_without_a_loss_count_as_steps(self, lively: Policy) -> None:
        trainer, _, _ = fitted(lively, 2, gaps=True)
        assert schedule_of(trainer).steps == trainer.global_step == 20

    def test_a_trainer_without_an_end_is_a_training_without_a_known_one(self, lively: Policy) -> None:
        trainer, _, _ = fitted(lively, -1, steps=30)
        assert schedule_of(trainer).total_steps == 30
        found = lightning()
        stop = type("Stop", (found.pl.Callback,), {"on_train_batch_end": _stops_after_25})()
        trainer, module, loader = fitted(lively, 1)
        trainer.callbacks.append(stop)
        trainer.fit_loop.max_epochs = -1
        trainer.fit(module, loader, loader)
        schedule = schedule_of(trainer)
        assert (schedule.total_steps, schedule.signals["horizon_known"]) == (None, 0.0)

    @pytest.mark.parametrize("steps", [0, -5])
    def test_a_number_of_steps_is_not_guessed(self, steps: int, lively: Policy) -> None:
        with pytest.raises(ConfigurationError, match="at least 1"):
            lightning().Schedule(policy=lively, total_steps=steps)


def _stops_after_25(self: Any, trainer: Any, *args: Any) -> None:
    trainer.should_stop = trainer.global_step >= 25


@pytest.mark.parametrize("options", [{"foo": 1}, {"model": None}, {"reference": None}])
def test_unknown_options_are_refused_where_they_are_given(options: dict[str, Any]) -> None:
    from metatuner.agent.transformers_callback import TransformersAdaptiveSchedule

    for kind in (lightning().Schedule, TransformersAdaptiveSchedule):
        with pytest.raises(ConfigurationError, match=f"got \\['{next(iter(options))}'\\]"):
            kind(**options)
    with pytest.raises(ConfigurationError, match="total_steps"):
        TransformersAdaptiveSchedule(total_steps=3)  # type: ignore[call-arg]
    lightning().Schedule(decide_every=5, guard=False)


class TestTransformers:
    def begun(self, policy: Policy, **options: Any) -> tuple[Any, Any, Any]:
        """A callback in a training, its state, and what the optimiser belongs to."""
        from metatuner.agent.transformers_callback import TransformersAdaptiveSchedule

        callback, model = TransformersAdaptiveSchedule(policy=policy, **options), nn.Linear(4, 3)
        args = SimpleNamespace(output_dir="nowhere", average_tokens_across_devices=False, world_size=1)
        state = SimpleNamespace(global_step=0, max_steps=20)
        optimizer = torch.optim.Adam(model.parameters())
        callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)  # type: ignore[arg-type]
        return callback, state, lambda **metrics: callback.on_evaluate(args, state, None, metrics=metrics)  # type: ignore[arg-type]

    def test_a_metric_that_is_not_there_is_told_of(self, lively: Policy) -> None:
        _, _, evaluate = self.begun(lively, val_metric="eval_los")
        with pytest.raises(ConfigurationError, match="expected 'eval_los' among"):
            evaluate(eval_loss=1.0, eval_runtime=0.1)

    def test_of_several_sets_one_has_the_metric(self, lively: Policy) -> None:
        callback, _, evaluate = self.begun(lively, val_metric="eval_b_loss")
        for loss in (1.0, 0.9, 0.8):
            evaluate(eval_a_loss=0.1, eval_a_runtime=0.1)
            evaluate(eval_b_loss=loss, eval_b_runtime=0.1)
            assert callback.schedule._val_loss == loss
        _, _, evaluate = self.begun(lively)
        evaluate(eval_a_loss=0.1)
        evaluate(eval_b_loss=0.1)
        with pytest.raises(ConfigurationError, match="expected 'eval_loss' among"):
            evaluate(eval_a_loss=0.1)

    def test_a_training_that_was_not_ended_has_failed(self, lively: Policy) -> None:
        ended: list[TrialFinished] = []

        class Memory:
            def record(self, record: Record, /) -> None:
                ended.extend([record] if isinstance(record, TrialFinished) else [])

        callback, state, evaluate = self.begun(lively, recorder=Memory())
        evaluate(eval_loss=1.0)
        args = SimpleNamespace(output_dir="nowhere", average_tokens_across_devices=False, world_size=1)
        model = nn.Linear(4, 3)
        optimizer = torch.optim.Adam(model.parameters())
        callback.on_train_begin(args, state, None, model=model, optimizer=optimizer)
        assert [(each.state, each.message) for each in ended] == [
            (TrialState.FAILED, "the Trainer did not end this training")
        ]


@pytest.mark.filterwarnings("ignore::FutureWarning:lightning.*", "ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:GPU available", "ignore:.*logging interval")
@pytest.mark.parametrize(
    ("case", "message"),
    [
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
        max_epochs=1,
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
