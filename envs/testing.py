"""Conformance suite for trainings: run it against your own implementation of `envs.training.Training`.

from metatuner.envs.testing import check_training

def test_my_training():
    check_training(MyTraining, {"lr": 0.01})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields

import numpy as np

from .errors import ConfigurationError
from .signals import Interval
from .training import Training


def check_training(make: Callable[[], Training], config: Mapping[str, float], *, steps: int = 6) -> None:
    """Checks every promise of the protocol.

    Args:
        make: Makes a training.
        config: A sensible starting configuration; `lr` must be in it.
        steps: Optimiser steps an interval in these checks.

    Raises:
        AssertionError: A promise is broken; the message says which.
        ConfigurationError: An argument is wrong.
    """
    if not callable(make):
        raise ConfigurationError(f"expected what makes a training, such as its class, got {make!r}")
    if "lr" not in config:
        raise ConfigurationError(f"expected a starting configuration with lr, got {dict(config)}")
    if steps < 2:
        raise ConfigurationError(f"expected at least 2 steps, got {steps}")
    for check in (
        _measures,
        _follows_from_the_seed,
        _begins_with_its_configuration,
        _returns_to_a_snapshot,
        _takes_one_value_a_step,
        _keeps_what_is_not_named,
        _obeys_the_learning_rate,
        _survives_divergence,
    ):
        training = make()
        try:
            check(training, config, steps)
        finally:
            training.close()
            training.close()


def same_interval(one: Interval, other: Interval) -> bool:
    """Whether two intervals measured exactly the same."""
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name), equal_nan=True) for f in fields(Interval))


def _measures(training: Training, config: Mapping[str, float], steps: int) -> None:
    assert isinstance(training, Training), "it lacks a method or attribute of Training"
    assert training.adaptive in (0.0, 1.0), f"adaptive must be 0.0 or 1.0, is {training.adaptive}"
    started = training.start(config, seed=0)
    assert started.val_loss.shape == (1,), "start must measure one validation loss, shape (1,)"
    assert started.val_loss[0] > 0, "the starting validation loss must be positive"
    interval = training.advance({}, steps)
    assert interval.train_loss.shape == (1,), "advance must measure one training loss, shape (1,)"
    assert np.isfinite(interval.train_loss[0]), "advance must measure the training loss"
    assert np.isfinite(interval.val_loss[0]), "advance must measure the validation loss"
    assert not interval.diverged[0], "a sensible configuration must not diverge"


def _follows_from_the_seed(training: Training, config: Mapping[str, float], steps: int) -> None:
    def run(seed: int) -> Interval:
        training.start(config, seed=seed)
        return training.advance({}, steps)

    assert same_interval(run(1), run(1)), "the same seed must give the same training, bit for bit"


def _begins_with_its_configuration(training: Training, config: Mapping[str, float], steps: int) -> None:
    def run(rate: float) -> Interval:
        training.start({**config, "lr": rate}, seed=0)
        return training.advance({}, steps)

    one, other = run(config["lr"]), run(config["lr"] / 100)
    assert one.val_loss[0] != other.val_loss[0], "start must set the hyperparameters of its configuration"


def _returns_to_a_snapshot(training: Training, config: Mapping[str, float], steps: int) -> None:
    training.start(config, seed=0)
    training.advance({}, steps)
    snapshot = training.snapshot()
    first = training.advance({}, steps)
    for _ in range(2):
        training.advance(_changed(config), steps)
        training.restore(snapshot)
        assert same_interval(training.advance({}, steps), first), "restore must return to the snapshot, bit for bit"


def _takes_one_value_a_step(training: Training, config: Mapping[str, float], steps: int) -> None:
    training.start(config, seed=0)
    snapshot = training.snapshot()
    held = training.advance(config, steps)
    training.restore(snapshot)
    each = training.advance({name: [value] * steps for name, value in config.items()}, steps)
    assert same_interval(held, each), "a sequence of equal values must do what the single value does"
    training.restore(snapshot)
    falling = training.advance({"lr": [config["lr"], *[config["lr"] / 100] * (steps - 1)]}, steps)
    assert falling.val_loss[0] != held.val_loss[0], "each step must take its own value of a sequence"


def _keeps_what_is_not_named(training: Training, config: Mapping[str, float], steps: int) -> None:
    training.start(config, seed=0)
    training.advance(_changed(config), steps)
    snapshot = training.snapshot()
    kept = training.advance({}, steps)
    training.restore(snapshot)
    named = training.advance(_changed(config), steps)
    assert same_interval(kept, named), "a hyperparameter that is not named must stay as it is"


def _changed(config: Mapping[str, float]) -> dict[str, float]:
    """Other values: half of what is real, since a number that must be whole may not be halved."""
    return {name: value / 2 if isinstance(value, float) else value for name, value in config.items()}


def _obeys_the_learning_rate(training: Training, config: Mapping[str, float], steps: int) -> None:
    training.start(config, seed=0)
    for when in ("at the start", "later on"):
        snapshot = training.snapshot()
        first = training.advance({"lr": config["lr"]}, steps)
        training.restore(snapshot)
        second = training.advance({"lr": config["lr"] / 100}, steps)
        assert first.val_loss[0] != second.val_loss[0], f"advance must use the hyperparameters it is given, {when}"


def _survives_divergence(training: Training, config: Mapping[str, float], steps: int) -> None:
    training.start(config, seed=0)
    snapshot = training.snapshot()
    calm = training.advance({"lr": config["lr"]}, steps)
    training.restore(snapshot)
    wild = training.advance({"lr": 1e30}, steps)
    assert wild.diverged[0] or wild.val_loss[0] > calm.val_loss[0], "a wild learning rate must be reported, not raised"
    training.restore(snapshot)
    healed = training.advance({"lr": config["lr"]}, steps)
    assert same_interval(healed, calm), "restore must heal a diverged training"
