from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import Policy
from metatuner.agent.setbacks import HOPELESS
from metatuner.envs.builtin_tasks import OPTIMIZERS, load_examples, mlp, split_examples
from metatuner.envs.errors import CheckpointError, ConfigurationError, SearchSpaceError, TrainingError
from metatuner.envs.records import Decision, Metrics, Record, TrialFinished, TrialStarted, TrialState
from metatuner.envs.sampling import EpochSampler
from metatuner.envs.schedule import ScheduleEnv
from metatuner.envs.torch_training import TorchTraining
from optuna.distributions import BaseDistribution, FloatDistribution
from torch import Tensor, nn
from torch.optim import lr_scheduler


class Memory:
    """A recorder that keeps everything."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)

    def of(self, kind: type[Record]) -> list[Record]:
        return [record for record in self.records if isinstance(record, kind)]


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(steps: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(steps, 16, 4, generator=generator)
    return [(one, one[:, :3].argmax(1)) for one in x]


def train(
    tuner: AdaptiveSchedule | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    steps: int,
    after: Callable[[], None] = lambda: None,
    spoil: Callable[[int, Tensor], Tensor] = lambda step, loss: loss,
) -> list[float]:
    losses = []
    for step, (x, y) in enumerate(batches(steps)):
        loss = spoil(step, nn.functional.cross_entropy(model(x), y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if tuner is not None:
            tuner.step(loss)
        after()
        losses.append(loss.item())
    return losses


def test_bounds_hold_and_change_nothing_where_they_are_not_met(lively: Policy) -> None:
    """A policy does not see the bounds of a learning rate from afar: it has not learnt what they are."""

    def rates(space: dict[str, BaseDistribution] | None) -> list[float]:
        model = small_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        tuner, seen = AdaptiveSchedule(optimizer, 40, lively, ("lr",), space=space), []
        train(tuner, model, optimizer, 40, after=lambda: seen.append(tuner.values["lr"]))
        return seen

    free = rates(None)
    low, high = min(1e-3, *free), max(1e-3, *free)
    assert rates({"lr": FloatDistribution(low, high, log=True)}) == pytest.approx(free)
    bound = min(free) * 1.2
    assert min(rates({"lr": FloatDistribution(bound, 1.0, log=True)})) == pytest.approx(bound)


@pytest.mark.parametrize("reference", ["constant", "cosine", "stable_decay"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_loop_and_environment_see_and_decide_the_same(lively: Policy, optimizer: str, reference: str) -> None:
    """The same training, once in the environment and once in a plain loop: same signals, decisions and losses."""
    lively = replace(lively, card={"reference": reference})
    inputs, targets = load_examples("iris")
    train_set, val_set = split_examples(inputs, targets)
    model_of = functools.partial(mlp, 4, 3)
    config, seed, decisions, interval = {"lr": 0.02, "weight_decay": 1e-3, "momentum": 0.8}, 9, lively.decisions, 6
    env = ScheduleEnv(
        TorchTraining(model_of, OPTIMIZERS[optimizer], train_set, val_set),
        decisions=decisions,
        interval=interval,
        reference=reference,
    )
    seen, info = env.reset(options={"config": config, "seed": seed})
    expected, first_val = [], info["val_loss"]
    for _ in range(decisions):
        action, signals = lively.decide(seen[None])[0][0], info["signals"]
        seen, _, _, _, info = env.step(action.astype(np.float64))  # type: ignore[arg-type]
        expected.append((signals, action.tolist(), info["train_loss"], info["val_loss"]))

    torch.manual_seed(seed)
    model = model_of()
    made = OPTIMIZERS[optimizer](model.parameters())
    for name, value in config.items():
        key = {"momentum": "betas", "lr": "lr", "weight_decay": "weight_decay"}[name] if optimizer == "adam" else name
        made.param_groups[0][key] = (value, 0.999) if key == "betas" else value
    memory = Memory()
    steps = decisions * interval
    tuner = AdaptiveSchedule(made, steps, lively, recorder=memory)

    def validate() -> float:
        with torch.no_grad():
            return float(nn.functional.cross_entropy(model(val_set.tensors[0]), val_set.tensors[1]))

    val_losses = []
    tuner.validate(first := validate())
    assert first == first_val
    for rows in EpochSampler(len(train_set), 32, seed).next(steps):
        x, y = train_set[rows]
        loss = nn.functional.cross_entropy(model(x), y)
        made.zero_grad()
        loss.backward()
        made.step()
        tuner.step(loss)
        if tuner.due:
            val_losses.append(validate())
            tuner.validate(val_losses[-1])
    tuner.close()
    decided = memory.of(Decision)
    train_losses = [m.values["train/loss"] for m in memory.of(Metrics) if "train/loss" in m.values]  # type: ignore[attr-defined]
    assert [(d.signals, list(d.adjustments.values())) for d in decided] == [e[:2] for e in expected]  # type: ignore[attr-defined]
    assert train_losses == [e[2] for e in expected]
    assert val_losses == [e[3] for e in expected]


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler] | None] = {
    "none": None,
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 40),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=41),
    "warmup then exponential": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.97)], milestones=[5]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("optimizer_class", [torch.optim.SGD, torch.optim.AdamW])
def test_the_zero_policy_is_its_reference_bit_for_bit(name: str, optimizer_class: type) -> None:
    make = SCHEDULERS[name]

    def run(tuned: bool) -> tuple[list[float], list[tuple[float, float]]]:
        model = small_model()
        groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.003}]  # type: ignore[index]
        momentum = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
        optimizer = optimizer_class(groups, lr=0.05, weight_decay=0.01, **momentum)
        scheduler = make(optimizer) if make else None
        tuner = AdaptiveSchedule(optimizer, 40, "zero", reference=scheduler) if tuned else None
        rates: list[tuple[float, float]] = []

        def after() -> None:
            if scheduler is not None and not tuned:
                scheduler.step()
            rates.append(tuple(group["lr"] for group in optimizer.param_groups))  # type: ignore[arg-type]

        return train(tuner, model, optimizer, 40, after), rates

    assert run(tuned=True) == run(tuned=False)


def test_parameter_groups_keep_their_ratios(lively: Policy) -> None:
    model = small_model()
    groups = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.005}]  # type: ignore[index]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
    tuner = AdaptiveSchedule(optimizer, 30, lively)
    ratios = []
    train(
        tuner,
        model,
        optimizer,
        30,
        lambda: ratios.append(optimizer.param_groups[0]["lr"] / optimizer.param_groups[1]["lr"]),
    )
    assert ratios == pytest.approx([10.0] * 30)
    assert tuner.values["lr"] != 0.05


@pytest.mark.parametrize("steps", [1, 3, 10, 27, 101])
def test_decisions_are_spread_over_any_horizon(lively: Policy, steps: int) -> None:
    model, memory = small_model(), Memory()
    optimizer = torch.optim.Adam(model.parameters())
    tuner = AdaptiveSchedule(optimizer, steps, lively, recorder=memory)
    train(tuner, model, optimizer, steps + 4)
    at = [d.step for d in memory.of(Decision)]  # type: ignore[attr-defined]
    count = min(steps, lively.decisions)
    assert at == [i * steps // count for i in range(count)]
    assert all(d.signals["progress"] == pytest.approx(i / count) for i, d in enumerate(memory.of(Decision)))  # type: ignore[attr-defined]


@pytest.mark.parametrize("policy", ["lively", "remembering"])
def test_a_killed_loop_resumes_with_identical_decisions_and_losses(
    policy: str, tmp_path: Path, request: pytest.FixtureRequest, start: Callable[..., Any]
) -> None:
    folder = request.getfixturevalue(policy).save(tmp_path / policy)

    def started(name: str, pause: float = 0.0) -> Any:
        files = [str(tmp_path / f"{name}.pt"), str(tmp_path / f"{name}.log")]
        return start("loop.py", *files, "60", str(folder), str(pause), output=tmp_path / "printed")

    whole_run = started("whole")
    assert whole_run.wait() == 0, whole_run.printed
    killed = started("killed", pause=0.02)
    log = tmp_path / "killed.log"
    while not log.exists() or log.read_text().count("\n") < 33:
        assert killed.poll() is None, killed.printed
        time.sleep(0.01)
    killed.kill()
    resumed_run = started("killed")
    assert resumed_run.wait() == 0, resumed_run.printed
    whole = [json.loads(line) for line in (tmp_path / "whole.log").read_text().splitlines()]
    lines = [line for line in log.read_text().splitlines() if line.endswith("]")]
    resumed = {entry[0]: entry for entry in map(json.loads, lines)}
    assert list(resumed.values()) == whole
    assert len(lines) > len(whole)  # some steps were done twice, with the same result


def test_nan_is_rolled_back_and_the_rate_is_cut() -> None:
    model, memory = small_model(), Memory()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tuner = AdaptiveSchedule(optimizer, 100, "zero", recorder=memory)
    train(tuner, model, optimizer, 100, spoil=lambda step, loss: loss * float("nan") if step == 50 else loss)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    notes = [d.note for d in memory.of(Decision)]  # type: ignore[attr-defined]
    assert notes.count("diverged: rolled back") == 1
    assert tuner.values["lr"] == pytest.approx(0.01 / 4)


def test_rolling_back_restores_buffers_and_optimiser_state() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    tuner = AdaptiveSchedule(optimizer, 25 * 4, "zero", model=model)
    train(tuner, model, optimizer, 12, spoil=lambda step, loss: loss * float("nan") if step == 9 else loss)
    for x, y in batches(1):
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        tuner.step(loss)
    tensors = [*model.state_dict().values(), *(v for s in optimizer.state.values() for v in s.values())]
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def test_without_rollback_broken_weights_are_said_to_be_broken() -> None:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    tuner = AdaptiveSchedule(optimizer, 50, "zero", on_divergence="cut")
    with pytest.raises(TrainingError, match="not finite any more"):
        train(tuner, model, optimizer, 50, spoil=lambda step, loss: loss * float("nan") if step == 10 else loss)


def test_endless_divergence_is_said_to_be_hopeless() -> None:
    model = small_model()
    optimizer = torch.optim.Adam(model.parameters())
    tuner = AdaptiveSchedule(optimizer, 50, "zero")
    with pytest.raises(TrainingError, match=f"last {HOPELESS} intervals all diverged"):
        train(tuner, model, optimizer, 50, spoil=lambda step, loss: loss * float("nan"))


def test_a_trial_is_recorded_from_start_to_end(lively: Policy) -> None:
    model, memory = small_model(), Memory()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with AdaptiveSchedule(optimizer, 20, lively, recorder=memory, trial=4) as tuner:
        train(tuner, model, optimizer, 20)
        tuner.validate(0.5)
    started, finished = memory.of(TrialStarted), memory.of(TrialFinished)
    assert started[0].params["lr"] == 0.05  # type: ignore[attr-defined]
    assert [f.state for f in finished] == [TrialState.FINISHED]  # type: ignore[attr-defined]
    assert {record.trial for record in memory.records} == {4}  # type: ignore[attr-defined]
    with pytest.raises(KeyError), AdaptiveSchedule(optimizer, 20, lively, recorder=memory) as tuner:
        tuner.validate(1.0)
        raise KeyError("broken")
    assert memory.of(TrialFinished)[-1].state is TrialState.FAILED  # type: ignore[attr-defined]


def test_schedules_without_a_number_get_one_each(lively: Policy) -> None:
    memory, other = Memory(), Memory()
    for recorder in (memory, memory, other):
        model = small_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        with AdaptiveSchedule(optimizer, 3, lively, recorder=recorder) as tuner:
            train(tuner, model, optimizer, 3)
    assert [r.trial for r in memory.of(TrialStarted)] == [0, 1]  # type: ignore[attr-defined]
    assert [r.trial for r in other.of(TrialStarted)] == [0]  # type: ignore[attr-defined]


def test_closed_it_leaves_the_optimiser_alone(lively: Policy) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    tuner = AdaptiveSchedule(optimizer, 20, lively)
    tuner.close()
    tuner.close()
    train(None, model, optimizer, 20)
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_a_schedule_that_is_dropped_stops_adjusting(lively: Policy) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    tuner = AdaptiveSchedule(optimizer, 20, lively)
    tuner = AdaptiveSchedule(optimizer, 20, "zero")  # as when a notebook's cell is run again
    train(tuner, model, optimizer, 20)
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_skipped_steps_do_not_count(lively: Policy) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    tuner = AdaptiveSchedule(optimizer, 20, lively)
    tuner.step(1.0)
    assert tuner.steps == 0


def test_bad_arguments_are_refused(lively: Policy) -> None:
    optimizer = torch.optim.Adam(small_model().parameters())
    for total_steps in (0, -5, 2.5, True, "many"):
        with pytest.raises(ConfigurationError, match="total_steps"):
            AdaptiveSchedule(optimizer, total_steps, lively)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_divergence"):
        AdaptiveSchedule(optimizer, 10, lively, on_divergence="ignore")  # type: ignore[arg-type]
    with pytest.raises(SearchSpaceError, match="dropout"):
        AdaptiveSchedule(optimizer, 10, lively, adjust=("lr", "dropout"))
    frozen = nn.Parameter(torch.ones(1), requires_grad=False)
    with pytest.raises(ConfigurationError, match="no parameters"):
        AdaptiveSchedule(torch.optim.SGD([frozen], lr=0.1), 10, lively)
    other = torch.optim.Adam(small_model().parameters())
    with pytest.raises(ConfigurationError, match="another optimiser"):
        AdaptiveSchedule(optimizer, 10, lively, reference=lr_scheduler.ConstantLR(other))
    tuner = AdaptiveSchedule(optimizer, 10, lively)
    with pytest.raises(ConfigurationError, match="one mini-batch loss"):
        tuner.step(torch.ones(3))
    with pytest.raises(ConfigurationError, match="one validation loss"):
        tuner.validate(torch.ones(2))
    tuner.validate(torch.ones(1, requires_grad=True))
    with pytest.raises(TrainingError, match="before the first step is nan"):
        tuner.validate(float("nan"))


def test_a_state_of_another_schedule_is_refused(lively: Policy) -> None:
    optimizer = torch.optim.Adam(small_model().parameters())
    state = AdaptiveSchedule(optimizer, 10, lively).state_dict()
    with pytest.raises(CheckpointError, match="same arguments"):
        AdaptiveSchedule(optimizer, 10, lively, adjust=("lr",)).load_state_dict(state)
    with pytest.raises(CheckpointError):
        AdaptiveSchedule(optimizer, 10, lively).load_state_dict([])  # type: ignore[arg-type]
