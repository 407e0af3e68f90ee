from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metatuner.envs.errors import SearchSpaceError
from metatuner.envs.unit_cube import ColumnCube, UnitCube
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution


@st.composite
def distributions(draw: st.DrawFn) -> BaseDistribution:
    kind = draw(st.sampled_from(["float", "log", "step", "int", "int log", "choice"]))
    low = draw(st.integers(1, 50))
    high = low + draw(st.integers(1, 200))
    match kind:
        case "float":
            return FloatDistribution(-low, high)
        case "log":
            return FloatDistribution(low / 1000, high, log=True)
        case "step":
            return FloatDistribution(0, 0.5 * high, step=0.5)
        case "int":
            return IntDistribution(low, high)
        case "int log":
            return IntDistribution(low, high, log=True)
        case _:
            return CategoricalDistribution(draw(st.permutations(["a", 3, None, True, 0.5]))[: draw(st.integers(2, 5))])


@given(st.dictionaries(st.text("abcdef", min_size=1), distributions(), min_size=1, max_size=6), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_every_point_is_a_configuration_and_back(space: dict[str, BaseDistribution], seed: int) -> None:
    cube = UnitCube(space)
    random = np.random.default_rng(seed)
    points = cube.near(random, cube.sample(random, 12))
    assert points.shape == (12, cube.dimensions)
    assert points.min() >= 0 and points.max() <= 1
    configs = [cube.decode(point) for point in points]
    for config in configs:
        assert set(config) == set(space)
        for name, value in config.items():
            assert space[name]._contains(space[name].to_internal_repr(value))
    # What is drawn lies on the distributions' grid, so that two points are two configurations.
    np.testing.assert_allclose(cube.encode(configs), points, atol=1e-9)
    middle = cube.middle(random)
    np.testing.assert_allclose(cube.encode([cube.decode(middle[0])]), middle, atol=1e-9)


def test_adjustments_are_near_and_change_something() -> None:
    cube = ColumnCube([1, 1, 1, 3])
    random = np.random.default_rng(0)
    start = cube.sample(random, 400)
    moved = cube.near(random, start)
    assert (np.abs(moved - start).max(1) > 0).mean() > 0.9
    assert np.median(np.abs(moved - start)[:, :3].max(1)) < 0.2
    assert (moved[:, 3:].sum(1) == 1).all()


def test_adjustments_beyond_the_end_of_a_range_are_its_end_only_where_that_is_asked_for() -> None:
    cube = ColumnCube([1, 1])
    start = np.full((200, 2), 0.01)
    for to_ends in (False, True):
        moved = cube.near(np.random.default_rng(0), start, to_ends=to_ends)
        assert moved.min() >= 0
        assert bool((moved == 0.0).any()) is to_ends


def test_a_space_of_single_values_is_no_search() -> None:
    with pytest.raises(SearchSpaceError, match="something to choose"):
        UnitCube({"a": FloatDistribution(1, 1), "b": CategoricalDistribution(["x"])})
