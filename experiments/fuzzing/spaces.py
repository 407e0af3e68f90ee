"""Readers of search spaces and configurations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from fuzzed import SPACE, Fuzzed, reader
from hypothesis import strategies as st
from metatuner.agent.quiet import quiet_optuna
from metatuner.agent.tune import tune
from metatuner.envs import records as r
from metatuner.envs.conditional_space import ConditionalSpace
from mutations import NUMBERS, altered, odd_values, plain
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

_BRANCHED: dict[str, Any] = {
    **SPACE,
    "model": {
        "svm": {"C": FloatDistribution(0.1, 10.0), "kernel": {"rbf": {"gamma": FloatDistribution(0, 1)}, "linear": {}}},
        3: {},
    },
}


@dataclass(frozen=True)
class Deep:
    """Stands for a space of so many levels, which cannot be shown; without a number it holds itself."""

    levels: int | None

    def grown(self) -> dict[str, Any]:
        """The space."""
        first: dict[str, Any] = {"x": FloatDistribution(0, 1)}
        space = first
        for level in range(self.levels or 0):
            space = {f"d{level}": {"on": space}}
        if self.levels is None:
            first["x"] = {"on": first}
        return space


def _grown(value: Any) -> Any:
    if isinstance(value, Deep):
        return value.grown()
    return {name: _grown(each) for name, each in value.items()} if isinstance(value, dict) else value


@reader("search space")
def _(folder: Path) -> Iterator[Fuzzed]:
    def read(given: tuple[Any, int]) -> None:
        space, seed = given
        tree = ConditionalSpace(_grown(space))
        random = optuna.samplers.RandomSampler(seed=seed)
        with quiet_optuna():
            trial = optuna.create_study(sampler=random).ask()
            config = tree.configuration(trial._suggest)
        tree.check(config, complete=True)

    distributions = st.one_of(
        st.builds(
            lambda low, high, log: _forced(FloatDistribution(0.5, 1.0), low=low, high=high, log=log),
            *[st.sampled_from(NUMBERS) | st.floats()] * 2,
            st.booleans(),
        ),
        st.builds(
            lambda low, high, step: _forced(IntDistribution(0, 1), low=low, high=high, step=step),
            *[st.sampled_from(NUMBERS) | st.integers()] * 2,
            st.sampled_from([1, 2, 0, -1, None]),
        ),
        st.lists(plain | odd_values, max_size=4).map(
            lambda choices: _forced(CategoricalDistribution("ab"), choices=tuple(choices))
        ),
    )
    odd = odd_values | distributions | st.sampled_from([Deep(30), Deep(200), Deep(5000), Deep(None), [[]] * 3])
    exchanged = st.builds(
        lambda space, names, value: put(space, names, value),
        st.just(_BRANCHED),
        st.sampled_from(
            [
                ("lr",),
                ("model",),
                ("model", "svm"),
                ("model", "svm", "C"),
                ("model", "svm", "kernel", "rbf"),
                ("new",),
                (),
            ]
        ),
        odd,
    )
    named = st.dictionaries(plain.filter(lambda each: each == each), odd, max_size=3)
    yield Fuzzed(
        st.tuples(st.one_of(odd, exchanged, exchanged, named, altered(_BRANCHED, raw=False)), st.integers(0, 99)), read
    )


def _forced(distribution: BaseDistribution, **attributes: object) -> BaseDistribution:
    """A distribution as none can be made, but as a storage or a file may hold."""
    for name, value in attributes.items():
        object.__setattr__(distribution, name, value)
    return distribution


def put(space: Mapping[Any, Any], names: tuple[str, ...], value: Any) -> Any:
    """A nested mapping with another value at some place."""
    return value if not names else {**space, names[0]: put(space.get(names[0], {}), names[1:], value)}


@reader("configurations: given and known")
def _(folder: Path) -> Iterator[Fuzzed]:
    good = {"lr": 0.1, "depth": 3, "kind": "a", "model": "svm", "C": 1.0, "kernel": "linear"}

    def read(given: tuple[Any, Any]) -> None:
        configs, known = given
        with quiet_optuna():
            tune(
                lambda config: config["lr"],
                _BRANCHED,
                1,
                strategy="random",
                configs=configs,
                known=known,
                recorder=r.NullRecorder(),
            )

    configs = altered([good, {"lr": 0.5}], raw=False)
    known = altered([[good, 1.0], [good, 2]], raw=False)
    yield Fuzzed(
        st.tuples(configs, st.just(())) | st.tuples(st.just(()), known) | st.tuples(odd_values, odd_values), read
    )
