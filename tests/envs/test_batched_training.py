"""The batched training against its readable twin, one network at a time in torch.optim."""

from __future__ import annotations

import functools
from dataclasses import fields

import numpy as np
import pytest
import torch
from metatuner.envs import architectures, networks
from metatuner.envs.architectures import Style
from metatuner.envs.batched_model import BatchedModel
from metatuner.envs.batched_training import BatchedData, BatchedTraining
from metatuner.envs.builtin_tasks import mlp
from metatuner.envs.losses import SmoothedCrossEntropy, cross_entropy
from metatuner.envs.signals import Interval
from metatuner.envs.testing import same_interval
from metatuner.envs.update_rules import BatchedOptimizer
from torch import nn

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
        assert first.first_update[0] == pytest.approx(started.first_update[i], rel=1e-4)
        for change, all_of_them in zip(changes, together, strict=True):
            mine = {k: v[:, i].tolist() if v.ndim == 2 else float(v[i]) for k, v in change.items()}
            interval = alone.advance(mine, 10)
            for field in fields(Interval):
                one, other = getattr(interval, field.name)[0], getattr(all_of_them, field.name)[i]
                assert one == pytest.approx(other, abs=1e-5, rel=1e-5, nan_ok=True), (field.name, i)


TEXT, SEQUENCES, IMAGES = torch.randint(0, 9, (2, 90, 7)), torch.randn(2, 90, 5, 3), torch.randn(2, 90, 1, 6, 6)
ARCHITECTURES = {
    "layer norm": (functools.partial(architectures.perceptron, 15, 4, 8, 2, Style(norm="layer")), SEQUENCES.flatten(2)),
    "batch norm": (functools.partial(architectures.convnet, 1, 6, 4, 4, 3, Style(norm="batch")), IMAGES),
    "group norm": (functools.partial(architectures.convnet, 1, 6, 4, 4, 2, Style(norm="layer")), IMAGES),
    "gains": (
        functools.partial(architectures.perceptron, 15, 4, 8, 2, Style(reparametrised=True)),
        SEQUENCES.flatten(2),
    ),
    "residual": (functools.partial(architectures.ResidualPerceptron, 15, 4, 8, 2, Style()), SEQUENCES.flatten(2)),
    "transformer": (functools.partial(architectures.Transformer, 9, 6, 8, 2, 2, Style()), TEXT),
    "norm last": (functools.partial(architectures.Transformer, 9, 6, 8, 1, 2, Style(), norm_first=False), TEXT),
    "recurrent": (functools.partial(architectures.Recurrent, 3, 4, 8, Style(norm="layer")), SEQUENCES),
    "one gate": (
        functools.partial(architectures.Recurrent, 3, 4, 8, Style(), cell=architectures.MinimalGatedCell),
        SEQUENCES,
    ),
    "recurrent text": (
        functools.partial(architectures.Recurrent, 9, 9, 8, Style(), reads_text=True, at_every_place=True),
        TEXT,
    ),
}


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_every_architecture_trains_as_it_does_alone(name: str) -> None:
    model, inputs = ARCHITECTURES[name]
    reads_text = inputs is TEXT
    targets = inputs[..., 1:] if reads_text else torch.arange(180).view(2, 90) % 4
    data = BatchedData(inputs[..., :-1] if reads_text else inputs, targets, [64, 50], 64)
    batched = BatchedTraining(model, BatchedOptimizer.SGD, data, batch_size=16)
    config = {"lr": 0.05, "weight_decay": 1e-3, "momentum": 0.9}
    batched.start(config, [1, 2])
    together = [batched.advance({}, 5) for _ in range(2)]
    alone = batched.twin(1)
    alone.start(config, 2)
    for all_of_them in together:
        interval = alone.advance({}, 5)
        for field in fields(Interval):
            one, other = getattr(interval, field.name)[0], getattr(all_of_them, field.name)[1]
            assert one == pytest.approx(other, abs=1e-4, rel=1e-4, nan_ok=True), field.name


def test_a_gated_cell_is_that_of_torch() -> None:
    ours, torchs = architectures.GatedCell(3, 5), torch.nn.GRUCell(3, 5)
    with torch.no_grad():
        ours.inward.weight.copy_(torchs.weight_ih)
        ours.inward.bias.copy_(torchs.bias_ih)
        ours.onward.weight.copy_(torchs.weight_hh)
        ours.onward.bias.copy_(torchs.bias_hh)
    x, state = torch.randn(4, 3), torch.randn(4, 5)
    torch.testing.assert_close(ours(x, state), torchs(x, state))


def regularised(data: BatchedData) -> BatchedTraining:
    model = functools.partial(architectures.perceptron, 12, 4, 16, 2, Style(regularised=True))
    return BatchedTraining(model, BatchedOptimizer.SGD, data, loss=SmoothedCrossEntropy())


PLAIN = {"lr": 0.1, "weight_decay": 0.0, "momentum": 0.9, "dropout": 0.0, "augmentation": 0.0, "label_smoothing": 0.0}


def test_hyperparameters_of_layers_and_clipping_are_those_of_the_twin(data: BatchedData) -> None:
    batched = regularised(data)
    assert batched.hyperparameters == list(PLAIN)
    config = {**PLAIN, "label_smoothing": 0.2, "clip_norm": 0.3}
    batched.start(config, SEEDS)
    together = [batched.advance(change, 8) for change in ({}, {"clip_norm": 0.05, "label_smoothing": 0.4})]
    alone = batched.twin(1)
    alone.start(config, SEEDS[1])
    apart = [alone.advance(change, 8) for change in ({}, {"clip_norm": 0.05, "label_smoothing": 0.4})]
    for one, other in zip(apart, together, strict=True):
        assert one.val_loss[0] == pytest.approx(other.val_loss[1], abs=1e-5)
        assert one.train_loss[0] == pytest.approx(other.train_loss[1], abs=1e-5)
        assert one.log_grad_norm[0] == pytest.approx(other.log_grad_norm[1], abs=1e-4)
    assert np.all(together[1].log_grad_norm <= np.log(0.05) + 1e-4)


@pytest.mark.parametrize("name", ["dropout", "augmentation"])
def test_each_network_draws_at_its_own_rate_and_the_same_numbers_again(name: str, data: BatchedData) -> None:
    batched = regularised(data)
    batched.start({**PLAIN, name: np.array([0.0, 0.0, 0.5, 0.5])}, SEEDS)
    before = batched.snapshot()
    drawn = batched.advance({}, 6)
    batched.restore(before)
    assert same_interval(batched.advance({}, 6), drawn)
    batched.restore(before)
    # Without the hyperparameter the first two train as they did, the others do not.
    without = batched.advance({name: 0.0}, 6)
    same = without.train_loss == drawn.train_loss
    assert same.tolist() == [True, True, False, False]
    # Validation draws nothing.
    assert torch.equal(batched.validate(), batched.validate())


def test_smoothing_is_that_of_torch_and_not_for_validation() -> None:
    logits, targets = torch.randn(2, 16, 7), torch.randint(0, 7, (2, 16))
    loss = SmoothedCrossEntropy(0.3)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=0.3)
    torch.testing.assert_close(loss(logits, targets), expected)
    torch.testing.assert_close(loss.eval()(logits, targets), cross_entropy(logits, targets))


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
    batched.advance({"lr": 1e-6}, 5)
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


def test_a_model_that_draws_numbers_takes_none_of_the_caller() -> None:
    """Else what a policy explores would depend on which process has made the model."""

    def make() -> nn.Module:
        torch.rand(3, device="cpu")
        return nn.Linear(2, 1)

    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    BatchedModel(make, cross_entropy)
    assert torch.rand(1) == expected
