from __future__ import annotations

import math
import string
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from metatuner.agent.grid import grid_configs, grid_values
from metatuner.agent.tune import tune
from metatuner.envs.conditional_space import ConditionalSpace
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.records import NullRecorder
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "depth": IntDistribution(1, 4),
    "kind": CategoricalDistribution(("a", "b")),
}
MODELS: dict[str, Any] = {
    "lr": FloatDistribution(0.1, 0.3),
    "model": {"svm": {"C": FloatDistribution(1.0, 3.0), "kernel": {"rbf": {"g": IntDistribution(1, 2)}, "linear": {}}},
              "tree": {"depth": IntDistribution(1, 3)}, "mean": {}},
}  # fmt: skip

distributions = st.one_of(
    st.builds(lambda low, wide: FloatDistribution(low, low + wide), st.floats(-1e3, 1e3), st.floats(0, 1e3)),
    st.builds(lambda low, wide: FloatDistribution(low, low * wide, log=True), st.floats(1e-9, 1e3), st.floats(1, 1e6)),
    st.builds(
        lambda low, steps: FloatDistribution(low / 4, (low + steps) / 4, step=0.25),
        st.integers(-9, 9),
        st.integers(0, 50),
    ),
    st.builds(lambda low, wide: IntDistribution(low, low + wide), st.integers(-99, 99), st.integers(0, 999)),
    st.builds(lambda low, wide: IntDistribution(low, low + wide, log=True), st.integers(1, 99), st.integers(0, 999)),
    st.builds(lambda n: CategoricalDistribution(tuple(range(n))), st.integers(1, 5)),
)


@given(
    st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=3), distributions, min_size=1, max_size=4),
    st.integers(1, 200),
)
def test_a_grid_fits_the_budget_where_two_values_each_do(space: dict[str, BaseDistribution], budget: int) -> None:
    grid = grid_values(ConditionalSpace(space), budget)
    assert list(grid) == list(space)
    for name, values in grid.items():
        assert len(values) == len(set(values)) >= 1
        for value in values:
            assert space[name]._contains(space[name].to_internal_repr(value))
    coarsest = math.prod(
        len(each.choices) if isinstance(each, CategoricalDistribution) else 2 for each in space.values()
    )
    assert math.prod(map(len, grid.values())) <= max(budget, coarsest)


def test_a_grid_is_evenly_spaced_on_the_scale_of_each_hyperparameter() -> None:
    grid = grid_values(ConditionalSpace(SPACE), 30)
    assert grid["kind"] == ["a", "b"]
    assert grid["depth"] == [1, 3, 4]
    assert grid["lr"] == pytest.approx([1e-5, 1e-3, 1e-1])
    assert math.prod(map(len, grid_values(ConditionalSpace(SPACE), 1000).values())) == 4 * 2 * 125


def test_only_what_is_active_together_is_combined() -> None:
    space = ConditionalSpace(MODELS)
    # With n values each there are n (n (2 + 1) + n + 1) points: 18 with 2, 39 with 3.
    assert len(grid_configs(space, 38, 0)) == 18
    configs = grid_configs(space, 39, 0)
    assert len(configs) == len({tuple(sorted(config.items())) for config in configs}) == 39
    for config in configs:
        space.check(config, complete=True)


def test_the_order_is_random_and_goes_on_with_a_larger_budget() -> None:
    many = ConditionalSpace({f"x{i}": FloatDistribution(0.0, 1.0) for i in range(8)})
    assert grid_configs(many, 20, 1) == grid_configs(many, 40, 1)[:20]
    assert grid_configs(many, 20, 1) != grid_configs(many, 20, 2)


def test_a_grid_that_nobody_can_finish_is_tried_in_part() -> None:
    before = time.monotonic()
    configs = grid_configs(ConditionalSpace({f"x{i}": FloatDistribution(0.0, 1.0) for i in range(300)}), 30, 0)
    assert time.monotonic() - before < 5.0
    assert len({tuple(config.values()) for config in configs}) == 30
    assert 0.4 < sum(map(sum, (config.values() for config in configs))) / 9000 < 0.6
    with pytest.raises(ConfigurationError, match="at most 20000"):
        grid_configs(ConditionalSpace(SPACE), 20_001, 0)


def test_a_grid_with_configurations_to_try_first_and_workers_tries_every_point_once() -> None:
    given: list[dict[str, Any]] = [{"lr": 0.15, "model": "mean"}, {"model": "svm"}, {"lr": 0.1, "model": "mean"}]
    result = tune(
        lambda config: config["lr"], MODELS, 18, strategy="grid", configs=given, n_workers=3, recorder=NullRecorder()
    )
    tried = [tuple(sorted(trial.params.items())) for trial in result.trials]
    assert len(tried) == len(set(tried)) == 18  # 2 given ones and 16 of 18 points
    assert (("lr", 0.15), ("model", "mean")) in tried
    rest = tune(lambda config: config["lr"], MODELS, 30, strategy="grid", configs=given, recorder=NullRecorder())
    assert len(rest.trials) == 18 + 2  # one of the given ones is a point of the grid


def test_a_grid_goes_on_where_it_was_and_others_go_on_without_it(tmp_path: Path) -> None:
    storage = str(tmp_path / "study.journal")

    def searched(budget: int, strategy: str) -> list[tuple[tuple[str, Any], ...]]:
        result = tune(
            lambda config: config["lr"], MODELS, budget, strategy=strategy, storage=storage, recorder=NullRecorder(),
            name="study",
        )  # fmt: skip
        return [tuple(sorted(trial.params.items())) for trial in result.trials]

    points = {tuple(sorted(config.items())) for config in grid_configs(ConditionalSpace(MODELS), 18, 0)}
    searched(18, "grid")
    assert set(searched(18, "grid")) == points
    assert len(searched(40, "grid")) == len(set(searched(40, "grid"))) == 39  # three values each
    assert set(searched(45, "random")[39:]).isdisjoint(points)


def test_two_processes_share_a_grid(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom metatuner.agent.tune import tune\nfrom metatuner.envs.records import NullRecorder\n"
        "from optuna.distributions import IntDistribution\n"
        "tune(lambda config: time.sleep(0.05) or config['x'], {'x': IntDistribution(1, 30)}, 30, strategy='grid',"
        " storage=sys.argv[1], name='study', recorder=NullRecorder())"
    )
    storage = str(tmp_path / "study.journal")
    optuna.create_study(storage=JournalStorage(JournalFileBackend(storage)), study_name="study")
    processes = [subprocess.Popen([sys.executable, "-c", program, storage]) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    study = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(storage)))
    tried = [trial.params["x"] for trial in study.trials]
    assert len(set(tried)) >= 28  # the last ones may be begun by both at the same moment
    assert len(tried) <= 31
    owners = [str(trial.user_attrs["metatuner:owner"]) for trial in study.trials]
    assert min(owners.count(owner) for owner in set(owners)) < 30
