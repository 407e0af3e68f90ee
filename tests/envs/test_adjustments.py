from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metatuner.envs.adjustments import Kind, adjustable, adjustables
from metatuner.envs.errors import SearchSpaceError
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

NAMES = ("lr", "weight_decay", "momentum", "dropout", "batch_size", "label_smoothing", "gradient_clip", "augmentation")
names = st.sampled_from(NAMES)
fractions = st.floats(0.0, 1.0)


def value_at(name: str, fraction: float) -> float:
    each = adjustable(name)
    return float(each.from_natural(each.low + fraction * (each.high - each.low)))


@given(names, fractions)
def test_natural_scale_and_back(name: str, fraction: float) -> None:
    each = adjustable(name)
    value = value_at(name, fraction)
    assert each.distribution._contains(value)
    assert float(each.from_natural(each.to_natural(value))) == pytest.approx(value, rel=1e-9, abs=1e-12)


@given(names, st.floats(allow_nan=False, allow_infinity=False))
def test_no_adjustment_keeps_the_reference_bit_for_bit(name: str, reference: float) -> None:
    assert float(adjustable(name).moved(reference, 0.0)) == reference


@given(names, fractions, st.floats(-50, 50).filter(bool))
def test_moves_stay_inside_and_go_the_right_way(name: str, fraction: float, offset: float) -> None:
    each, value = adjustable(name), value_at(name, fraction)
    moved = float(each.moved(value, offset))
    assert each.distribution.low <= moved <= each.distribution.high
    slack = 1e-9 * max(abs(value), 1e-9)
    assert moved >= value - slack if offset > 0 else moved <= value + slack


@given(fractions)
def test_a_full_move_triples_a_learning_rate_and_doubles_a_horizon(fraction: float) -> None:
    lr, momentum = adjustable("lr"), adjustable("momentum")
    value = 10 ** (-6 + 4 * fraction)
    assert float(lr.moved(value, lr.largest_move)) == pytest.approx(3 * value)
    beta = 0.9 * fraction
    assert 1 - float(momentum.moved(beta, momentum.largest_move)) == pytest.approx((1 - beta) / 2)


def test_a_weight_decay_of_zero_can_be_raised_but_stays_zero_without_adjustment() -> None:
    decay = adjustable("weight_decay")
    assert float(decay.moved(0.0, 0.0)) == 0.0
    assert float(decay.moved(0.0, math.log(3))) == pytest.approx(3e-7)


def test_whole_numbers_stay_whole() -> None:
    size = adjustable("batch_size", IntDistribution(8, 512, log=True))
    assert float(size.moved(32.0, 0.3)) == np.round(32 * math.exp(0.3))


def test_kinds_come_from_names_or_from_the_caller() -> None:
    assert adjustable("lr").kind is Kind.LEARNING_RATE
    assert adjustable("beta1").kind is Kind.MOMENTUM
    assert adjustable("eta", FloatDistribution(1e-4, 1, log=True), Kind.LEARNING_RATE).kind is Kind.LEARNING_RATE
    other = adjustable("temperature", FloatDistribution(0.0, 2.0))
    assert (other.kind, other.scale.name) == (Kind.OTHER, "linear")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: adjustable("optimizer", CategoricalDistribution(["a", "b"])), "only a FloatDistribution"),
        (lambda: adjustable("whatever"), "no usual range"),
        (lambda: adjustable("momentum", FloatDistribution(0.5, 1.5)), "horizon scale"),
        (lambda: adjustable("lr", FloatDistribution(-1.0, 1.0)), "log scale"),
        (lambda: adjustables(()), "at least one"),
        (lambda: adjustables("lr"), "sequence"),
        (lambda: adjustables(("lr", "lr")), "named once"),
    ],
)
def test_what_cannot_be_adjusted_is_refused_with_a_reason(call: object, words: str) -> None:
    with pytest.raises(SearchSpaceError, match=words):
        call()  # type: ignore[operator]


def test_a_policy_is_told_of_the_usual_range_or_of_a_wider_one() -> None:
    usual = adjustable("lr")
    narrow = adjustable("lr", FloatDistribution(1e-4, 1e-2, log=True))
    assert narrow.seen == (usual.low, usual.high)
    wide = adjustable("lr", FloatDistribution(1e-10, 1.0, log=True))
    assert wide.seen == (wide.low, usual.high)
    other = adjustable("temperature", FloatDistribution(0.5, 2.0))
    assert other.seen == (other.low, other.high)
