"""What only a GPU can show. On machines without one these tests are skipped."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.meta_training import MetaTrainingSettings, train_schedule_policy
from metatuner.agent.policy import Policy
from metatuner.agent.tune import tune
from metatuner.envs.families import Split, SyntheticTasks
from metatuner.envs.records import Decision, Record
from metatuner.envs.schedule import ScheduleEnv
from metatuner.envs.torch_training import TorchTraining
from mlflow import MlflowClient
from optuna.distributions import IntDistribution
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import TensorDataset

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


class Memory:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)

    @property
    def decided(self) -> list[tuple[int, dict[str, float], dict[str, float], str]]:
        decisions = [record for record in self.records if isinstance(record, Decision)]
        return [(one.step, dict(one.signals), dict(one.values), one.note) for one in decisions]


def a_model(width: int = 8, device: str = "cuda") -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3)
    return nn.Sequential(*layers).to(device)


def batches(steps: int, device: str = "cuda") -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(steps, 16, 4, generator=torch.Generator().manual_seed(1)).to(device)
    return [(one, one[:, :3].argmax(1)) for one in x]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tuner: AdaptiveSchedule,
    device: str = "cuda",
    until: int = 30,
    spoilt: int = -1,
) -> None:
    """Trains to step `until`; the loss of step `spoilt` is not finite."""
    for step, batch in list(enumerate(batches(until, device)))[tuner.steps :]:
        loss = loss_of(model, batch) * (torch.nan if step == spoilt else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)
        if tuner.due:
            with torch.no_grad():
                tuner.validate(loss_of(model, batches(1, device)[0]))


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def train_without_waiting(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    tuner: AdaptiveSchedule,
    steps: int,
    scheduler: lr_scheduler.LRScheduler | None = None,
) -> None:
    """Only a decision may wait."""
    for batch in batches(steps):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        if tuner.due:
            optimizer.step()
        else:
            with waiting_is_an_error():
                optimizer.step()
        with waiting_is_an_error():
            tuner.step(loss)
            if scheduler is not None:
                scheduler.step()


def test_waiting_for_the_device_is_noticed() -> None:
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchroniz"):
        torch.ones(1, device="cuda").item()


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4),
    "sgd without momentum": partial(torch.optim.SGD, lr=0.01),
    "adam": partial(torch.optim.Adam, lr=1e-3),
    "fused": partial(torch.optim.AdamW, lr=1e-3, fused=True),
    "capturable": partial(torch.optim.AdamW, lr=1e-3, capturable=True),
    "adamw": partial(torch.optim.AdamW, lr=1e-3),
    "rate on the device": lambda p: torch.optim.AdamW(p, lr=torch.tensor(1e-3, device="cuda"), capturable=True),
}

ON_A_CPU = dict.fromkeys(("fused", "capturable", "rate on the device"), "adamw")
"""What is the same there."""


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("policy", ["lively", "schedule-default", "schedule-bold"])
@pytest.mark.parametrize("on_divergence", ["rollback", "cut"])
@pytest.mark.parametrize("width", [8, 512])
def test_nothing_waits_for_the_gpu_between_decisions(
    optimizer: str, policy: str, on_divergence: Any, width: int, lively: Policy
) -> None:
    model, memory = a_model(width), Memory()
    rule = OPTIMIZERS[optimizer](model.parameters())
    chosen = lively if policy == "lively" else policy
    adjust = ("lr", "weight_decay") if optimizer == "sgd without momentum" else ("lr", "weight_decay", "momentum")
    # Longer intervals than what is set aside at a time.
    tuner = AdaptiveSchedule(rule, 300, chosen, adjust, recorder=memory, on_divergence=on_divergence, decide_every=100)
    train_without_waiting(model, rule, tuner, 300)
    assert len(memory.decided) == 3


@pytest.mark.parametrize("outside", [False, True])
def test_nothing_waits_for_the_gpu_where_a_scheduler_is_adjusted(outside: bool, lively: Policy) -> None:
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 60)
    tuner = AdaptiveSchedule(optimizer, 60, lively, reference="optimizer" if outside else scheduler)
    train_without_waiting(model, optimizer, tuner, 60, scheduler if outside else None)
    assert tuner.steps == 60


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_decisions_are_those_of_a_cpu(optimizer: str, lively: Policy) -> None:
    seen = []
    for device in ("cpu", "cuda"):
        model, memory = a_model(device=device), Memory()
        made = OPTIMIZERS[optimizer if device == "cuda" else ON_A_CPU.get(optimizer, optimizer)]
        rule = made(model.parameters())
        train(model, rule, AdaptiveSchedule(rule, 30, lively, recorder=memory), device)
        seen.append(memory.decided)
    for cpu, cuda in zip(*seen, strict=True):
        assert cuda[1] == pytest.approx(cpu[1], abs=0.02)
        assert cuda[2] == pytest.approx(cpu[2], rel=0.02)


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision_with_unscaled_and_clipped_gradients(fused: bool, lively: Policy) -> None:
    model, memory = a_model(), Memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    tuner = AdaptiveSchedule(optimizer, 40, lively, recorder=memory)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10, growth_interval=1000)
    for batch in batches(40):
        with torch.autocast("cuda", torch.float16):
            loss = loss_of(model, batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        tuner.step(loss)
    assert tuner.steps == 40
    assert not any(note for *_, note in memory.decided)


@pytest.mark.filterwarnings("ignore:::torch")  # its compiler warns of itself, and of what the GPU could do
def test_a_compiled_model_with_its_rate_on_the_device_is_the_same_as_any(lively: Policy) -> None:
    seen = []
    for compiled in (False, True):
        model, memory = a_model(), Memory()
        called = torch.compile(model) if compiled else model
        optimizer = torch.optim.AdamW(called.parameters(), lr=torch.tensor(1e-3, device="cuda"), capturable=True)
        tuner = AdaptiveSchedule(optimizer, 30, lively, recorder=memory, model=called)
        train(called, optimizer, tuner)
        seen.append(memory.decided)
    for plain, other in zip(*seen, strict=True):
        assert other[1] == pytest.approx(plain[1], abs=0.02)
        assert other[2] == pytest.approx(plain[2], rel=0.02)


def test_a_divergence_is_rolled_back_on_the_device() -> None:
    model, memory = a_model(), Memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    tuner = AdaptiveSchedule(optimizer, 60, "zero", recorder=memory)
    for step, batch in enumerate(batches(60)):
        loss = loss_of(model, batch) * (torch.nan if step == 31 else 1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)
    assert [note for *_, note in memory.decided if note] == ["diverged: rolled back"]
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


@pytest.mark.parametrize("through", ["cpu", "cuda"])
@pytest.mark.parametrize("at", [17, 18])  # in the middle of an interval, and where a decision is due
def test_a_training_resumes_from_a_file_that_was_read_to_any_device(through: str, at: int, lively: Policy) -> None:
    def begin() -> tuple[nn.Module, torch.optim.Optimizer, AdaptiveSchedule, Memory]:
        model, memory = a_model(512), Memory()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return model, optimizer, AdaptiveSchedule(optimizer, 30, lively, recorder=memory), memory

    model, optimizer, tuner, whole = begin()
    train(model, optimizer, tuner, until=at)
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (model, optimizer, tuner)], file)
    train(model, optimizer, tuner, spoilt=at)  # what is rolled back to comes from the file
    file.seek(0)
    of_model, of_optimizer, of_tuner = torch.load(file, weights_only=True, map_location=through)
    model, optimizer, tuner, resumed = begin()
    model.load_state_dict(of_model)
    optimizer.load_state_dict(of_optimizer)
    tuner.load_state_dict(of_tuner)
    train(model, optimizer, tuner, spoilt=at)
    assert [note for *_, note in resumed.decided].count("diverged: rolled back") == 1
    assert resumed.decided == whole.decided[-len(resumed.decided) :]


def test_what_is_beside_the_weights_is_rolled_back_on_the_device() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).cuda()
    average = torch.optim.swa_utils.AveragedModel(model)
    optimizer, memory = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True), Memory()
    tuner = AdaptiveSchedule(optimizer, 60, "zero", recorder=memory, model=nn.ModuleList([model, average]))
    for step, (x, y) in enumerate(batches(60)):
        loss = loss_of(model, (x * (torch.nan if step == 31 else 1.0), y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        with waiting_is_an_error():
            tuner.step(loss)
    assert [note for *_, note in memory.decided if note] == ["diverged: rolled back"]
    for tensor in (*model.parameters(), *model.buffers(), *average.parameters(), *average.buffers()):
        assert bool(torch.isfinite(tensor).all())


def test_what_a_layer_draws_on_the_device_is_the_training_s_own() -> None:
    x = torch.randn(120, 4, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(x, (x[:, 0] > 0).long())
    training = TorchTraining(
        lambda: nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 2)),
        partial(torch.optim.SGD, lr=0.1),
        data,
        data,
        device="cuda",
    )
    before = torch.cuda.get_rng_state()
    training.start({"lr": 0.1}, seed=3)
    training.advance({}, 3)
    assert torch.equal(torch.cuda.get_rng_state(), before)
    kept = training.snapshot()
    then = training.advance({}, 5).val_loss
    torch.rand(7, device="cuda")  # what others draw changes nothing
    training.restore(kept)
    assert training.advance({}, 5).val_loss == pytest.approx(then, rel=1e-6)


def test_the_environment_of_one_training() -> None:
    def losses(device: str) -> list[float]:
        x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
        y = (x[:, 0] > 0).long()
        task = TorchTraining(
            partial(nn.Linear, 4, 2),
            partial(torch.optim.SGD, lr=0.1, momentum=0.9),
            TensorDataset(x[:150], y[:150]),
            TensorDataset(x[150:], y[150:]),
            device=device,
        )
        env = ScheduleEnv(task, adjust=("lr",), decisions=5, interval=5)
        env.reset(seed=3)
        action = np.full(env.action_space.shape or (), 0.3, dtype=np.float32)
        return [env.step(action)[4]["val_loss"] for _ in range(5)]

    assert losses("cuda") == pytest.approx(losses("cpu"), rel=1e-3)


def test_batched_trainings_are_those_of_a_cpu() -> None:
    for index in range(6):
        ends = []
        for device in ("cpu", "cuda"):
            group = SyntheticTasks(Split.TRAIN, (30, 60), device=device).sample(4, 0, index)
            start = {name: values for name, values in group.start.items() if name not in ("dropout", "augmentation")}
            first = group.training.start(start | {"lr": 1e-4}, group.seeds)
            ends.append((first.val_loss, group.training.advance({}, 10).val_loss, group.training.snapshot()))
        (first, last, _), (first_cuda, last_cuda, snapshot) = ends
        assert first_cuda == pytest.approx(first, rel=1e-3)
        assert last_cuda == pytest.approx(last, rel=0.02)
        then = group.training.advance({}, 5).val_loss
        group.training.restore(snapshot)
        assert group.training.advance({}, 5).val_loss == pytest.approx(then, rel=1e-5)


def test_a_policy_is_trained_on_the_device(tmp_path: Path) -> None:
    settings = MetaTrainingSettings(steps=60, decisions=(3, 3), horizon=(6, 12), groups=1, group_size=5, copies=5)
    told: list[tuple[int, float]] = []
    train_schedule_policy(
        settings,
        tmp_path / "policy",
        device="cuda",
        evaluation_groups=0,
        progress=lambda done, total, mean: told.append((done, mean)),
    )
    assert told[-1][0] == 60
    assert all(np.isfinite(mean) for _, mean in told)
    assert Policy.load(tmp_path / "policy").actor is not None


def uses_the_gpu(config: dict[str, Any]) -> float:
    """Holds so many megabytes and keeps the device busy for longer than it takes until somebody looks."""
    import time

    import torch

    held = torch.zeros(config["mb"] * 2**18, device="cuda")
    busy, end = torch.randn(4096, 4096, device="cuda"), time.monotonic() + 4.0
    while time.monotonic() < end:
        busy = (busy @ busy).clamp(-1, 1)
        torch.cuda.synchronize()
    return float(held.sum() + busy.sum() * 0)


@pytest.mark.parametrize("isolated", [False, True])
def test_trials_tell_what_they_used_and_one_without_memory_fails_alone(isolated: bool, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = tune(
        uses_the_gpu,
        {"mb": IntDistribution(1, 10_000_000)},
        budget=2,
        strategy="random",
        configs=[{"mb": 300}, {"mb": 9_000_000}],
        isolated=isolated,
        tracking_uri=uri,
        folder=tmp_path / "trials",
    )
    assert result.best_value == 0.0
    client = MlflowClient(uri)
    (experiment,) = [each for each in client.search_experiments() if each.name == "metatuner"]
    done, failed = client.search_runs(
        [experiment.experiment_id], "tags.`metatuner.kind` = 'trial'", order_by=["tags.`metatuner.trial`"]
    )
    assert done.data.metrics["resource/peak_gpu_used_mb" if isolated else "resource/gpu_mem_mb"] >= 300
    assert done.data.metrics["resource/gpu_util"] > 0
    assert failed.info.status == "FAILED"
    assert "out of memory" in str(failed.data.tags)
