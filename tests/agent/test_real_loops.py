"""AdaptiveSchedule in the loops that people write: accumulation, mixed precision, clipping, compiling, closures."""

from __future__ import annotations

import gc
import io
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from metatuner.agent.actor import Actor, ActorShape
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.loop_watch import SUSPICIOUS
from metatuner.agent.policy import Policy
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS
from metatuner.envs.errors import ConfigurationError, TrainingError
from metatuner.envs.records import Decision, Record
from metatuner.envs.signals import GLOBAL_SIGNALS
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils._python_dispatch import TorchDispatchMode


class Memory:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)

    @property
    def decisions(self) -> list[Decision]:
        return [record for record in self.records if isinstance(record, Decision)]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(steps: int, size: int = 16) -> list[tuple[Tensor, Tensor]]:
    x = torch.randn(steps, size, 4, generator=torch.Generator().manual_seed(1))
    return [(one, one[:, :3].argmax(1)) for one in x]


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def decided(memory: Memory) -> list[tuple[int, dict[str, float], dict[str, float]]]:
    return [(one.step, dict(one.signals), dict(one.values)) for one in memory.decisions]


def test_accumulated_gradients_are_one_step(lively: Policy) -> None:
    """Four mini-batches of 4 rows are one of 16: the same decisions, up to the rounding of sums."""
    seen = []
    for parts in (1, 4):
        model, memory = small_model(), Memory()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = AdaptiveSchedule(optimizer, 30, lively, recorder=memory)
        for x, y in batches(30):
            optimizer.zero_grad()
            total = torch.zeros(())
            for piece in zip(x.chunk(parts), y.chunk(parts), strict=True):
                loss = loss_of(model, piece) / parts
                loss.backward()
                total += loss.detach()
            optimizer.step()
            tuner.step(total)
        seen.append(decided(memory))
    assert len(seen[0]) == len(seen[1]) == lively.decisions
    for whole, split in zip(*seen, strict=True):
        assert split[1] == pytest.approx(whole[1], abs=1e-3)
        assert split[2] == pytest.approx(whole[2], rel=1e-3)


on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    ("device", "precision"),
    [("cpu", torch.bfloat16), pytest.param("cuda", torch.float16, marks=on_a_gpu)],
    ids=["cpu", "cuda"],
)
def test_steps_that_a_scaler_skips_do_no_harm(lively: Policy, device: str, precision: torch.dtype, fused: bool) -> None:
    model, memory = small_model().to(device), Memory()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=fused)
    tuner = AdaptiveSchedule(optimizer, 40, lively, recorder=memory)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10, growth_interval=1000)
    for step, (x, y) in enumerate(batches(40)):
        with torch.autocast(device, precision):
            loss = loss_of(model, (x.to(device), y.to(device)))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if step % 9 == 4:
            next(model.parameters()).grad[0, 0] = torch.inf  # type: ignore[index]
        scaler.step(optimizer)
        scaler.update()
        tuner.step(loss)
    # A fused optimiser skips on the device: nobody can see it without waiting for the device, so it counts.
    assert tuner.steps == (40 if fused else 36)
    trends = [abs(one.signals["gradient_trend"]) for one in memory.decisions]
    assert max(trends) < 3.0
    assert not any(one.note for one in memory.decisions)


def test_gradients_are_measured_unscaled(lively: Policy) -> None:
    seen = []
    for scale in (None, 2.0**12):
        model, memory = small_model(), Memory()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        tuner = AdaptiveSchedule(optimizer, 30, lively, recorder=memory)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
        for batch in batches(30):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            tuner.step(loss)
        seen.append(decided(memory))
    for plain, scaled in zip(*seen, strict=True):
        assert scaled[1] == pytest.approx(plain[1], abs=1e-3)


def test_losses_that_stay_nan_are_rolled_back_although_a_scaler_skips_all_steps() -> None:
    model, memory = small_model(), Memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tuner = AdaptiveSchedule(optimizer, 100, "zero", recorder=memory)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, batch in enumerate(batches(100)):
        if step == 30:
            with torch.no_grad():
                next(model.parameters()).fill_(torch.nan)  # as if the last step had gone too far
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        tuner.step(loss)
    assert [(one.step, one.note) for one in memory.decisions if one.note] == [(30, "diverged: rolled back")]
    assert tuner.steps == 100 - SUSPICIOUS
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert tuner.values["lr"] == pytest.approx(1e-3 / 4)


def test_losses_that_are_nan_from_the_start_are_said_to_be() -> None:
    model = small_model()
    tuner = AdaptiveSchedule(torch.optim.Adam(model.parameters()), 100, "zero")
    with pytest.raises(TrainingError, match="first 8 steps were skipped"):
        for _ in range(SUSPICIOUS):
            tuner.step(torch.tensor(torch.nan))


def test_bfloat16_without_a_scaler(lively: Policy) -> None:
    model, memory = small_model(), Memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tuner = AdaptiveSchedule(optimizer, 30, lively, recorder=memory)
    for batch in batches(30):
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, batch).bfloat16()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()
        tuner.step(loss)
    assert len(memory.decisions) == lively.decisions
    assert all(abs(value) < 5 for one in memory.decisions for name, value in one.signals.items() if "room" not in name)


def test_half_precision_parameters_do_not_overflow_what_is_measured(lively: Policy) -> None:
    model = small_model().bfloat16()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    tuner = AdaptiveSchedule(optimizer, 20, lively)
    for x, y in batches(20):
        loss = loss_of(model, (x.bfloat16(), y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)
    assert tuner.steps == 20


def test_a_compiled_model_is_the_same_as_any(lively: Policy) -> None:
    seen = []
    for compiled in (False, True):
        model, memory = small_model(), Memory()
        called = torch.compile(model, backend="eager") if compiled else model
        optimizer = torch.optim.Adam(called.parameters(), lr=1e-3)
        tuner = AdaptiveSchedule(optimizer, 20, lively, recorder=memory, model=called)
        for batch in batches(20):
            loss = loss_of(called, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.step(loss)
        seen.append(decided(memory))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("by_name", [False, True])
def test_a_closure_is_the_same_as_a_plain_step(lively: Policy, by_name: bool) -> None:
    seen = []
    for closures in (False, True):
        model, memory = small_model(), Memory()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        tuner = AdaptiveSchedule(optimizer, 30, lively, recorder=memory)
        for batch in batches(30):

            def closure(model=model, optimizer=optimizer, batch=batch) -> Tensor:  # type: ignore[no-untyped-def]
                loss = loss_of(model, batch)
                optimizer.zero_grad()
                loss.backward()
                return loss

            if closures:
                loss = optimizer.step(closure=closure) if by_name else optimizer.step(closure)
            else:
                loss = closure()
                optimizer.step()
            tuner.step(loss)
        seen.append(decided(memory))
    assert seen[0] == seen[1]


def test_after_a_rollback_a_closure_loses_no_step() -> None:
    model, memory = small_model(), Memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tuner = AdaptiveSchedule(optimizer, 100, "zero", recorder=memory)
    for step, batch in enumerate(batches(100)):

        def closure(step=step, batch=batch) -> Tensor:  # type: ignore[no-untyped-def]
            loss = loss_of(model, batch) * (torch.nan if step == 50 else 1.0)
            optimizer.zero_grad()
            loss.backward()
            return loss

        tuner.step(optimizer.step(closure))
    assert tuner.steps == 100
    assert [one.note for one in memory.decisions].count("diverged: rolled back") == 1
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 40),  # computes its next value from the present one
    "warmup": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=5),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=41),  # moves the momentum too
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("policy", ["zero", "lively"])
def test_a_scheduler_that_someone_else_steps(name: str, policy: str, lively: Policy) -> None:
    """Adjusted from outside it goes the same way as one that the schedule steps, and finds its own values."""

    def run(mode: str) -> tuple[list[float], list[float]]:
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
        scheduler, tuner = SCHEDULERS[name](optimizer), None
        if mode != "plain":
            reference = scheduler if mode == "inside" else "optimizer"
            tuner = AdaptiveSchedule(optimizer, 40, lively if policy == "lively" else "zero", reference=reference)  # type: ignore[arg-type]
        losses, rates = [], []
        for batch in batches(40):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if tuner is not None:
                tuner.step(loss)
            if mode != "inside":
                scheduler.step()
                rates.append(optimizer.param_groups[0]["lr"])
            losses.append(loss.item())
        return losses, rates

    outside, inside, plain = run("outside"), run("inside"), run("plain")
    assert outside[0] == inside[0]
    assert outside[1] == plain[1]
    assert (outside[0] == plain[0]) == (policy == "zero")


def test_a_reference_that_is_none_is_refused(lively: Policy) -> None:
    with pytest.raises(ConfigurationError, match="LRScheduler, 'optimizer' or None"):
        AdaptiveSchedule(torch.optim.Adam(small_model().parameters()), 10, lively, reference="cosine")  # type: ignore[arg-type]


class DeviceReads(TorchDispatchMode):
    """Notes every operation that makes the host wait for the device: `.item()`, `bool()`, `nonzero`, copies between."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        tensors = [each for each in (*args, out) if isinstance(each, Tensor)]
        moved = len({each.device.type for each in tensors if each.dim() or func.__name__.startswith("_to_copy")}) > 1
        if moved or any(name in func.__name__ for name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")):
            self.found.append(func.__name__)
        return out


@pytest.mark.parametrize("reference", ["own", "scheduler", "optimizer"])
@pytest.mark.parametrize("on_divergence", ["rollback", "cut"])
@pytest.mark.parametrize("width", [8, 512])
def test_nothing_waits_for_the_device_between_decisions(
    lively: Policy, reference: str, on_divergence: str, width: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 50)
    chosen = {"own": None, "scheduler": scheduler, "optimizer": "optimizer"}[reference]
    memory, reads = Memory(), DeviceReads()
    # Hooks are called in their order: these two are around those of the schedule.
    optimizer.register_step_pre_hook(lambda *_: reads.__enter__() and None)
    tuner = AdaptiveSchedule(
        optimizer,
        50,
        lively,
        recorder=memory,
        reference=chosen,  # type: ignore[arg-type]
        on_divergence=on_divergence,  # type: ignore[arg-type]
    )
    optimizer.register_step_pre_hook(lambda *_: reads.__exit__(None, None, None))
    for batch in batches(50):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        before = len(memory.decisions)
        optimizer.step()
        if len(memory.decisions) == before:
            assert reads.found == []
        elif before == 0:
            assert reads.found, "the first decision reads the first update"
        reads.found.clear()
        with reads:
            tuner.step(loss)
        assert reads.found == []
    assert len(memory.decisions) == lively.decisions
    # Measurements are read at decisions: whoever looks sees it.
    with reads:
        float(loss.detach())
    assert reads.found == ["_local_scalar_dense.default"]


@pytest.mark.parametrize("on_divergence", ["rollback", "cut"])
@pytest.mark.parametrize("width", [8, 512])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_device_that_cannot_be_read_is_not_read_before_a_decision(
    lively: Policy, on_divergence: str, width: int, momentum: float
) -> None:
    """Tensors on "meta" have no values: whoever reads one gets an error. Nor is anything copied to there."""
    unaware = ActorShape(len(GLOBAL_SIGNALS) - 1, len(HYPERPARAMETER_SIGNALS))
    seen = tuple(name for name in GLOBAL_SIGNALS if name != "first_update")
    # The first decision reads, too, but for a policy that does not look at the first update.
    policy = Policy("unaware", Actor(unaware).eval(), lively.decisions, global_signals=seen)
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))
        batch = torch.ones(16, 4), torch.ones(16, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=momentum)
    # Longer than what is set aside at a time.
    adjust = ("lr", "momentum") if momentum else ("lr",)
    tuner = AdaptiveSchedule(optimizer, 100 * lively.decisions, policy, adjust, on_divergence=on_divergence)  # type: ignore[arg-type]
    for step in range(101):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        if step == 100:
            with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
                optimizer.step()
        else:
            with DeviceReads() as reads:
                optimizer.step()
                tuner.step(loss)
            assert reads.found == []
    assert tuner.steps == 100


@pytest.mark.parametrize("rule", ["sgd", "sparse adam"])
@pytest.mark.parametrize("on_divergence", ["rollback", "cut"])
def test_an_embedding_with_sparse_gradients_trains_like_any(lively: Policy, rule: str, on_divergence: Any) -> None:
    torch.manual_seed(0)
    table, memory = nn.Embedding(50, 3, sparse=True), Memory()
    model = nn.Sequential(table, nn.Linear(3, 3)) if rule == "sgd" else table
    made = torch.optim.SGD(model.parameters(), lr=0.1) if rule == "sgd" else torch.optim.SparseAdam([table.weight])
    tuner = AdaptiveSchedule(made, 30, lively, ("lr",), memory, on_divergence=on_divergence)
    for step in range(30):
        rows = torch.randint(0, 50, (16,))
        loss = nn.functional.cross_entropy(model(rows), rows % 3) * (torch.nan if step == 20 else 1.0)
        made.zero_grad()
        loss.backward()
        if step == 20 and on_divergence == "cut":
            made.zero_grad()  # as a loop does that looks at its losses
        made.step()
        tuner.step(loss)
    assert len(memory.decisions) == lively.decisions
    assert bool(torch.isfinite(table.weight).all())
    assert len({one.values["lr"] for one in memory.decisions}) > 5


def test_groups_without_weight_decay_go_on_without(lively: Policy) -> None:
    model = small_model()
    groups = [{"params": [p], "weight_decay": 0.0 if p.dim() == 1 else 0.1} for p in reversed([*model.parameters()])]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)
    tuner = AdaptiveSchedule(optimizer, 30, lively)
    assert tuner.values["weight_decay"] == 0.1
    for batch in batches(30):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)
    decays = [group["weight_decay"] for group in optimizer.param_groups]
    assert decays == [0.0, tuner.values["weight_decay"]] * 2
    assert decays[1] != 0.1


def test_a_device_copy_is_noticed() -> None:
    with DeviceReads() as reads:
        torch.ones(3).to("meta")
    assert reads.found


def test_memory_stays_the_same_however_long_it_runs(lively: Policy) -> None:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    tuner = AdaptiveSchedule(optimizer, 10_000_000, lively)
    batch = batches(1)[0]

    def steps(count: int) -> int:
        for _ in range(count):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.step(loss)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        held = [steps(count) for count in (200, 2000, 2000)]
        # What is made once, whenever that is, is no growth.
        assert min(held[1] - held[0], held[2] - held[1]) < 20_000
    finally:
        tracemalloc.stop()


def test_a_state_without_weights_is_a_few_kilobytes(lively: Policy) -> None:
    model = nn.Sequential(nn.Linear(4, 512), nn.Linear(512, 512), nn.Linear(512, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    sizes = {}
    for on_divergence in ("cut", "rollback"):
        tuner = AdaptiveSchedule(optimizer, 100, lively, on_divergence=on_divergence)  # type: ignore[arg-type]
        for batch in batches(15):
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.step(loss)
        file = io.BytesIO()
        torch.save(tuner.state_dict(), file)
        sizes[on_divergence] = file.getbuffer().nbytes
        tuner.close()
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert sizes["cut"] < 16_000
    assert sizes["rollback"] > 3 * weights  # parameters and both of Adam's averages


def test_a_state_does_not_change_after_it_was_taken(lively: Policy) -> None:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    tuner = AdaptiveSchedule(optimizer, 30, lively)
    first: list[Tensor] = []
    for step, batch in enumerate(batches(30)):
        loss = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        tuner.step(loss)
        if step == 10:
            kept = tuner.state_dict()["rollback"]["weights"]
            first = [weight.clone() for weight in kept]
    assert all(map(torch.equal, kept, first))
