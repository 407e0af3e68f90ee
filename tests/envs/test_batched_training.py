"""The batched training against its readable twin, one network at a time in torch.optim."""

from __future__ import annotations

import functools
from dataclasses import fields

import numpy as np
import pytest
import torch
from metatuner.envs import networks
from metatuner.envs.batched_training import BatchedData, BatchedTraining, cross_entropy
from metatuner.envs.builtin_tasks import mlp
from metatuner.envs.signals import Interval
from metatuner.envs.testing import same_interval
from metatuner.envs.update_rules import BatchedOptimizer

SIZE, ROWS, VAL_FROM = 4, 260, 200
TRAIN_ROWS, SEEDS = [200, 150, 64, 33], [3, 4, 5, 6]
MODEL = functools.partial(mlp, 12, 4, width=16)


@pytest.fixture(scope="module")
def data() -> BatchedData:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(SIZE, ROWS, 12, generator=generator)
    return BatchedData(inputs, (inputs[..., :4] * 3).argmax(-1), TRAIN_ROWS, VAL_FROM)


def start(rule: BatchedOptimizer) -> dict[str, np.ndarray]:
    lr = np.array([0.1, 0.01, 0.03, 0.2]) * (0.1 if rule.adaptive else 1.0)
    return {"lr": lr, "weight_decay": np.array([0, 1e-4, 1e-2, 0.1]), "momentum": np.array([0.9, 0.5, 0.99, 0.0])}


@pytest.mark.parametrize("rule", list(BatchedOptimizer))
def test_same_losses_and_signals_as_one_at_a_time(rule: BatchedOptimizer, data: BatchedData) -> None:
    batched = BatchedTraining(MODEL, rule, data)
    started = batched.start(start(rule), SEEDS)
    # Fifty steps with hyperparameters that change on the way, once a step even.
    changes: list[dict[str, np.ndarray]] = [
        {},
        {"lr": start(rule)["lr"] / 2},
        {"momentum": np.full(SIZE, 0.7)},
        {"weight_decay": np.full(SIZE, 1e-3)},
        {"lr": np.linspace(1, 0.1, 10)[:, None] * start(rule)["lr"]},
    ]
    together = [batched.advance(change, 10) for change in changes]
    for i in range(SIZE):
        alone = batched.twin(i)
        first = alone.start({name: float(values[i]) for name, values in start(rule).items()}, SEEDS[i])
        assert first.val_loss[0] == pytest.approx(started.val_loss[i], abs=1e-6)
        for change, all_of_them in zip(changes, together, strict=True):
            mine = {k: v[:, i].tolist() if v.ndim == 2 else float(v[i]) for k, v in change.items()}
            interval = alone.advance(mine, 10)
            for field in fields(Interval):
                one, other = getattr(interval, field.name)[0], getattr(all_of_them, field.name)[i]
                assert one == pytest.approx(other, abs=1e-5, rel=1e-5), (field.name, i)


def test_snapshots_return_some_trainings_and_leave_the_others(data: BatchedData) -> None:
    batched = BatchedTraining(MODEL, BatchedOptimizer.ADAM, data)
    batched.start(start(BatchedOptimizer.ADAM), SEEDS)
    before = batched.snapshot()
    first = batched.advance({}, 5)
    where = np.array([True, False, True, False])
    batched.restore(before, where)
    again = batched.advance({}, 5)
    assert np.array_equal(again.val_loss[where], first.val_loss[where])
    assert not np.any(again.val_loss[~where] == first.val_loss[~where])
    batched.restore(before)
    assert same_interval(batched.advance({}, 5), first)


def test_one_that_diverges_does_not_touch_its_neighbours(data: BatchedData) -> None:
    batched = BatchedTraining(MODEL, BatchedOptimizer.SGD, data)
    calm, wild = start(BatchedOptimizer.SGD), start(BatchedOptimizer.SGD)
    wild["lr"] = np.array([1e30, *calm["lr"][1:]])
    batched.start(calm, SEEDS)
    expected = batched.advance({}, 8)
    batched.start(wild, SEEDS)
    measured = batched.advance({}, 8)
    assert measured.diverged.tolist() == [True, False, False, False]
    assert np.array_equal(measured.val_loss[1:], expected.val_loss[1:])


def test_the_loss_over_columns_is_the_cross_entropy() -> None:
    logits, targets = torch.randn(32, 7), torch.randint(0, 7, (32,))
    torch.testing.assert_close(cross_entropy(logits, targets), torch.nn.functional.cross_entropy(logits, targets))


def test_how_a_batch_is_cut_into_parts_changes_no_number(data: BatchedData, monkeypatch: pytest.MonkeyPatch) -> None:
    def trained() -> Interval:
        batched = BatchedTraining(MODEL, BatchedOptimizer.ADAMW, data)
        batched.start(start(BatchedOptimizer.ADAMW), SEEDS)
        return batched.advance({}, 30)

    whole = trained()
    monkeypatch.setattr(networks, "PART_BYTES", 3 * 5 * 4 * 548)  # Three networks of 548 weights.
    assert same_interval(trained(), whole)
