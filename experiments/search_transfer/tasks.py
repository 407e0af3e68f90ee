"""Published tables and surrogates of trainings as objectives: whatever is proposed, what came of it is known."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from metatuner.envs.past_tasks import History, PastTasks
from metatuner.envs.search_state import rung_units
from metatuner.envs.unit_cube import UnitCube
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Array = NDArray[np.float64]

SCENARIOS = ("lcbench", "taskset", "rbv2_xgboost", "hpobench_mlp", "fcnet")
ROWS_OF_PAST = 200
"""Random trials that are known of each past task."""

_XGBOOST_UNITS = 20
_CLOSE_TO_ONE = ("beta1", "beta2")


def load_module(folder: Path) -> ModuleType:
    """The benchmark's own reader."""
    spec = importlib.util.spec_from_file_location("bench_load", folder / "load.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class TableTask:
    """A task whose every training is known.

    Attributes:
        name: scenario/task.
        space: The search space.
        units: Values that a full training yields.
        points: Configurations of the table in the unit cube, shape (n, d).
        values: At every unit, to be minimised, shape (n, units).
        best: The lowest value of a full training in the table.
        usual: That of the median configuration, or of chance.
        surrogate: Takes configurations and returns their values, shape (n, units), where any may be tried. None where
            the nearest of the table is that this search has not tried yet: whoever proposes, nobody tries one twice.
    """

    name: str
    space: dict[str, BaseDistribution]
    units: int
    points: Array
    values: Array
    best: float
    usual: float
    surrogate: Any = None
    cube: UnitCube = field(init=False)
    _rows: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cube = UnitCube(self.space)

    def fresh(self) -> TableTask:
        """The same task for another search."""
        return replace(self, _rows={})

    def curve(self, config: Mapping[str, Any]) -> Array:
        """Values of a training, shape (units,)."""
        if self.surrogate is not None:
            found: Array = self.surrogate([dict(config)])[0]
            return found
        return np.asarray(self.values[self._row(config)])

    def regret(self, config: Mapping[str, Any]) -> float:
        """Of a full training: 0 is the table's best, 1 its median (or chance)."""
        return max((float(self.curve(config)[-1]) - self.best) / (self.usual - self.best), 0.0)

    def train(self, config: Mapping[str, Any]) -> Iterator[float]:
        """The objective; a value that is none stands for a training that diverged."""
        for value in self.curve(config):
            yield float(np.nan_to_num(value, nan=self.usual + 10 * abs(self.usual - self.best)))

    def _row(self, config: Mapping[str, Any]) -> int:
        point = self.cube.encode([config])[0]
        key = point.tobytes()
        if key not in self._rows:
            distance = ((self.points - point) ** 2).sum(1)
            distance[list(self._rows.values())] = np.inf
            self._rows[key] = int(distance.argmin())
        return self._rows[key]

    def history(self, seed: int) -> History:
        """Random trials of this task, for those to which it is past."""
        rows = np.random.default_rng(seed).choice(len(self.points), min(ROWS_OF_PAST, len(self.points)), replace=False)
        rungs = [unit - 1 for unit in rung_units(self.units)]
        values = self.values[np.ix_(rows, rungs)]
        return History(self.points[rows], np.where(np.isfinite(values), values, np.inf))


def past_of(task: TableTask, tasks: list[TableTask], seed: int = 0) -> PastTasks:
    """What all other tasks of the scenario say: nothing of this one."""
    others = [each for each in tasks if each.name != task.name and each.name.split("/")[0] == task.name.split("/")[0]]
    return PastTasks([each.history(seed + i) for i, each in enumerate(others)], seed)


def tasks_of(folder: Path, scenario: str, most: int | None = None) -> list[TableTask]:
    """The tasks of a scenario; `most` takes the first ones.

    Args:
        folder: Where the benchmark lies.
        scenario: One of `SCENARIOS`.
        most: Tasks, at most.
    """
    bench = load_module(folder).Bench("open")
    names = bench.tasks(scenario)[:most]
    make = {"taskset": _taskset, "hpobench_mlp": _grid, "fcnet": _grid}.get(scenario)
    if make is not None:
        return [make(name, bench.table(name)) for name in names]
    surrogate = bench.onnx(scenario)
    return [_surrogate(name, bench.table(name), surrogate) for name in names]


def _taskset(name: str, table: Any) -> TableTask:
    """Real runs, 1,000 configurations: the nearest one is taken."""
    space: dict[str, BaseDistribution] = {}
    columns = []
    for i, each in enumerate(table.num_names):
        column = table.num[:, i].astype(float)
        low, high = table.meta["hp_ranges"][each]
        if each in _CLOSE_TO_ONE:
            column = 1 - np.minimum(column, 1 - 1e-7)
            low, high = float(column.min()), float(column.max())
        space[each] = FloatDistribution(float(low), float(high), log=True)
        columns.append(np.clip(column, low, high))
    configs = [dict(zip(table.num_names, map(float, row), strict=True)) for row in np.stack(columns, 1)]
    score = table.score()
    best, usual = -float(score[:, -1].max()), float(np.log(2))
    return TableTask(name, space, score.shape[1], UnitCube(space).encode(configs), -score, best, usual)


def _grid(name: str, table: Any) -> TableTask:
    """Real runs, a full grid: numbers are told by their place on it. Values are means over seeds."""
    space: dict[str, BaseDistribution] = {
        each: CategoricalDistribution(values) if isinstance(values[0], str) else IntDistribution(0, len(values) - 1)
        for each, values in table.space.items()
    }
    mean = -table.score()
    index = np.stack([axis.reshape(-1) for axis in np.indices(mean.shape)], 1)
    columns = []
    for i, (each, values) in enumerate(table.space.items()):
        if isinstance(space[each], CategoricalDistribution):
            columns.append(np.eye(len(values))[index[:, i]])
        else:
            columns.append(((index[:, i] + 0.5) / len(values))[:, None])
    flat = mean.reshape(-1)
    flat = np.where(np.isfinite(flat), flat, np.nanmax(flat))
    return TableTask(
        name, space, 1, np.concatenate(columns, 1), flat[:, None], float(flat.min()), float(np.median(flat))
    )


def _surrogate(name: str, table: Any, onnx: Any) -> TableTask:
    """A published network that stands for trainings: any configuration may be tried."""
    space: dict[str, BaseDistribution] = {}
    for each in table.meta["hyperparameters"]:
        if each["type"] == "categorical":
            space[each["name"]] = CategoricalDistribution(each["choices"])
        elif each["type"].endswith("int"):
            space[each["name"]] = IntDistribution(each["lower"], each["upper"], log=bool(each.get("log")))
        else:
            space[each["name"]] = FloatDistribution(each["lower"], each["upper"], log=bool(each.get("log")))
    metric = onnx.io["y"].index(table.metric)
    fidelity = np.asarray(table.fid, dtype=float)
    units = len(fidelity) if len(fidelity) > 20 else _XGBOOST_UNITS
    # Which fidelity each unit of budget reaches.
    reached = np.searchsorted(fidelity, np.arange(1, units + 1) / units * fidelity[-1] + 1e-6, side="right") - 1
    conditions = {each["child"]: each for each in table.meta["conditions"]}

    def active(config: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in config.items()
            if key not in conditions
            or config[conditions[key]["parent"]] in conditions[key].get("values", [conditions[key].get("value")])
        }

    def values(configs: list[dict[str, Any]]) -> Array:
        found = []
        for config in configs:
            told = onnx.evaluate_many(
                name.split("/")[1], [active(config)] * len(fidelity), [float(each) for each in fidelity]
            )
            found.append(-table.sign * told[reached, metric].astype(float))
        return np.stack(found)

    middles = {key: _middle(each) for key, each in space.items()}
    configs = [{**middles, **table.config(i)} for i in range(table.n)]
    for config in configs:
        for key, each in space.items():
            if isinstance(each, IntDistribution):
                config[key] = int(np.clip(round(config[key]), each.low, each.high))
            elif isinstance(each, FloatDistribution):
                config[key] = float(np.clip(config[key], each.low, each.high))
    score = table.score()
    best, usual = table.bounds()
    best = float(score[:, -1].max())
    points = UnitCube(space).encode([{key: config[key] for key in space} for config in configs])
    return TableTask(name, space, units, points, -score[:, reached], -best, -usual, values)


def _middle(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    low, high = float(distribution.low), float(distribution.high)
    return float(np.sqrt(low * high)) if distribution.log else (low + high) / 2
