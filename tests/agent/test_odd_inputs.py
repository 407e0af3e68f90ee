"""Whatever `tune` is given: it says what it expected, or each failure is recorded and every finished trial is kept."""

from __future__ import annotations

import builtins
import contextlib
import decimal
import fractions
import math
import os
import signal
import string
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metatuner.agent.strategies import STRATEGIES
from metatuner.agent.tune import tune
from metatuner.agent.tune_result import TuneResult
from metatuner.envs.errors import ConfigurationError, MetatunerError
from metatuner.envs.records import Record, TrialFinished, TrialStarted
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

X = {"x": FloatDistribution(0.0, 1.0)}
SAYS_WHAT_TO_DO = ("expected", "must be", "give", "needs", "check", "choose")


class Kept:
    """Keeps records in memory."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def record(self, record: Record, /) -> None:
        self.records.append(record)


def outcome(objective: Any, space: Any = X, budget: Any = 3, *, there: int = 0, **options: Any) -> TuneResult | str:
    """A sound study, or the message of a `MetatunerError`; whatever else comes is the test's failure.

    The first trials of a study that goes on were `there` before.
    """
    kept = Kept()
    try:
        result = tune(objective, space, budget, **{"strategy": "random", "recorder": kept, **options})
    except MetatunerError as error:
        assert any(words in str(error) for words in SAYS_WHAT_TO_DO), str(error)
        return str(error)
    started = [record.trial for record in kept.records if isinstance(record, TrialStarted)]
    ended = {record.trial: record for record in kept.records if isinstance(record, TrialFinished)}
    assert len(started) == len(set(started)) == len(ended)
    new = result.trials[there:]
    assert set(started) == {trial.number for trial in new}
    for trial in new:
        assert trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        if trial.state is TrialState.FAIL:
            assert len(ended[trial.number].message) > 3
            assert trial.user_attrs["metatuner:message"] == ended[trial.number].message
        elif trial.state is TrialState.COMPLETE and trial.number in ended:
            assert ended[trial.number].value == trial.value
    return result


def failures(result: TuneResult | str) -> list[str]:
    assert isinstance(result, TuneResult), result
    return [trial.user_attrs["metatuner:message"] for trial in result.trials if trial.state is TrialState.FAIL]


# What objectives answer.


class _NoText:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class _NoFloat:
    def __float__(self) -> float:
        raise LookupError("no float")


NUMBERS: list[Any] = [
    0, -0.0, 1, 10**300, math.inf, -math.inf, 5e-324, np.float16(1), np.float32(1), np.float64(1), np.longdouble(1),
    np.int8(1), np.uint64(2**63), np.array(1.0), np.array([1.0]), np.array([[1]]), torch.tensor(1.0),
    torch.tensor([1.0]),
    torch.tensor([[1]]), torch.tensor(1.0, requires_grad=True), torch.tensor(1.0, dtype=torch.bfloat16),
    decimal.Decimal("1.5"), fractions.Fraction(1, 3),
]  # fmt: skip
NO_NUMBERS: list[Any] = [
    None, True, np.bool_(True), torch.tensor(True), "", "abc", "1.5", b"1", bytearray(b"1"), np.str_("1"), "\ud800", 1j,
    1 + 0j, np.complex128(1), torch.tensor(1j), math.nan, np.float32("nan"), torch.tensor(math.nan),
    decimal.Decimal("NaN"),
    10**400, -(10**400), [], [1.0], (1.0,), {}, {"x": 1}, {1.0}, np.zeros(0), np.zeros(2), np.array("a"),
    np.array(None),
    np.datetime64("2020-01-01"), torch.zeros(0), torch.zeros(2), torch.zeros(2, device="meta"), object(), object, len,
    ..., NotImplemented, range(1), iter([1.0]), _NoText(), _NoFloat(), Exception("returned"), "x" * 10**6,
]  # fmt: skip


def returns(answer: Any) -> Callable[[Any], Any]:
    return lambda config: answer


def yields(answer: Any) -> Callable[[Any], Iterator[Any]]:
    def objective(config: Mapping[str, Any]) -> Iterator[Any]:
        yield answer

    return objective


@pytest.mark.parametrize("how", [returns, yields])
def test_numbers_are_values(how: Any) -> None:
    for answer in NUMBERS:
        result = outcome(how(answer), budget=1)
        assert failures(result) == [], repr(answer)
        assert isinstance(result, TuneResult)
        assert result.best_value == float(answer.item() if hasattr(answer, "item") else answer)


@pytest.mark.parametrize("how", [returns, yields])
def test_what_is_no_number_fails_with_a_short_reason(how: Any) -> None:
    for answer in NO_NUMBERS:
        (message,) = failures(outcome(how(answer), budget=1))
        assert message.startswith("the objective gave")
        assert len(message) < 300
        assert message.encode()


# What objectives raise.


def _raisable() -> list[BaseException]:
    made: list[BaseException] = [
        UnicodeDecodeError("utf-8", b"x", 0, 1, "why"), UnicodeEncodeError("utf-8", "x", 0, 1, "why"),
        UnicodeTranslateError("x", 0, 1, "why"), ExceptionGroup("several", [ValueError("one")]),
        BaseExceptionGroup("several", [SystemExit(1)]), SystemExit(0), SystemExit("text"), OSError(28, "disk full"),
        ConfigurationError("expected something else"), optuna.exceptions.StorageInternalError("gone"),
        ValueError("\ud800"), ValueError("x" * 10**6), ValueError(), Untold(), Unknown("a base exception"),
    ]  # fmt: skip
    for kind in vars(builtins).values():
        if isinstance(kind, type) and issubclass(kind, BaseException) and kind is not KeyboardInterrupt:
            try:
                made.append(kind("why"))
            except TypeError:
                continue  # made above
    return made


class Unknown(BaseException):
    """Neither an Exception nor one that Python knows."""


class Untold(Exception):  # noqa: N818
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_whatever_is_raised_is_a_failed_trial() -> None:
    errors = _raisable()
    assert len(errors) > 60
    for error in errors:

        def function(config: Mapping[str, Any], error: BaseException = error) -> float:
            raise error

        def generator(config: Mapping[str, Any], error: BaseException = error) -> Iterator[float]:
            yield 1.0
            raise error

        for objective in (function, generator):
            (message,) = failures(outcome(objective, budget=1))
            named = type(error).__name__ in message or isinstance(
                error, SystemExit | ConfigurationError | StopIteration
            )
            assert named or isinstance(error, StopAsyncIteration), (message, error)


def test_the_study_goes_on_and_keeps_what_finished() -> None:
    errors = iter([RecursionError("deep"), None, MemoryError(), SystemExit(3), None, Unknown()])

    def objective(config: Mapping[str, Any]) -> float:
        if (error := next(errors)) is not None:
            raise error
        return float(config["x"])

    result = outcome(objective, budget=6)
    assert isinstance(result, TuneResult)
    assert [trial.state is TrialState.COMPLETE for trial in result.trials] == [False, True, False, False, True, False]
    assert result.best_value == min(result.trials[1].params["x"], result.trials[4].params["x"])


def test_deep_recursion_and_printing_garbage() -> None:
    def deep(config: Mapping[str, Any]) -> float:
        return deep(config)

    def loud(config: Mapping[str, Any]) -> float:
        os.write(1, bytes(range(256)))
        sys.stdout.write("\x00\x1b[2J" * 100)
        sys.stderr.write("\udcff")
        config.clear()  # type: ignore[attr-defined]
        return 1.0

    assert all("RecursionError" in message for message in failures(outcome(deep)))
    assert failures(outcome(loud)) == []


# How generators behave.


def _nothing(config: Mapping[str, Any]) -> Iterator[float]:
    return
    yield


def _forever(config: Mapping[str, Any]) -> Iterator[float]:
    while True:
        time.sleep(0.001)
        yield config["x"]


def _stubborn(config: Mapping[str, Any]) -> Iterator[float]:
    with contextlib.suppress(GeneratorExit):
        while True:
            yield 1.0
    yield 2.0


def _raises_at_its_end(config: Mapping[str, Any]) -> Iterator[float]:
    try:
        while True:
            yield 1.0
    finally:
        raise Unknown("at its end")


def _turns_odd(config: Mapping[str, Any]) -> Iterator[Any]:
    yield from (1.0, 2.0, "three")


@pytest.mark.parametrize("strategy", ["random", "asha", "hyperband", "median", "policy"])
def test_generators_that_misbehave(strategy: str) -> None:
    assert failures(outcome(_nothing, units=3, strategy=strategy))
    assert failures(outcome(_forever, units=3, strategy=strategy)) == []
    assert all(
        "ignored GeneratorExit" in message for message in failures(outcome(_stubborn, units=3, strategy=strategy))
    )
    assert all("at its end" in message for message in failures(outcome(_raises_at_its_end, units=3, strategy=strategy)))
    assert any("'three'" in message for message in failures(outcome(_turns_odd, units=3, strategy=strategy)))


def test_one_that_yields_forever_is_stopped_in_time() -> None:
    messages = failures(outcome(_forever, budget=2, trial_timeout=0.02))
    assert [message.split(":")[0] for message in messages] == ["the trial took more than 0.02 s"] * 2


# Processes of their own.


def _ends() -> list[tuple[Callable[[], Any], str]]:
    """Ways to end, and what is told of each; made in a function, so that no process need import this module."""

    def forks_and_goes() -> None:
        if os.fork() == 0:
            time.sleep(60)  # holds the pipe
        os._exit(5)

    return [
        (lambda: os._exit(0), "ended with exit code 0"),
        (lambda: os._exit(7), "ended with exit code 7"),
        (lambda: sys.exit("bye"), "ended with exit code 1"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os.kill(os.getpid(), signal.SIGRTMIN + 3), f"was killed by signal {signal.SIGRTMIN + 3}"),
        (lambda: time.sleep(60), "more than 6 s"),
        (lambda: [][0], "IndexError"),
        (lambda: (_ for _ in ()).throw(KeyboardInterrupt()), "KeyboardInterrupt"),
        (lambda: "x" * 10**6, "the objective gave"),
        (lambda: 10**400, "too large"),
        (lambda: 1j, "expected a number"),
        (forks_and_goes, "ended with exit code 5"),
        (lambda: (os.write(1, b"\xff\n[1]\n"), 1.0)[1], ""),
        (lambda: math.inf, ""),
    ]


def test_processes_of_their_own() -> None:
    ends = _ends()
    result = outcome(
        lambda config: ends[config["i"]][0](), {"i": IntDistribution(0, len(ends) - 1)}, len(ends), strategy="manual",
        configs=[{"i": i} for i in range(len(ends))], isolated=True, trial_timeout=6.0, n_workers=3,
    )  # fmt: skip
    assert isinstance(result, TuneResult)
    assert len(result.trials) == len(ends)
    for trial in result.trials:
        expected = ends[trial.params["i"]][1]
        assert (trial.state is TrialState.FAIL) == bool(expected), trial.user_attrs
        assert expected in trial.user_attrs.get("metatuner:message", "")


# Search spaces.


def broken(distribution: Any, **changes: Any) -> BaseDistribution:
    """One that Optuna would not have made."""
    for name, value in changes.items():
        setattr(distribution, name, value)
    assert isinstance(distribution, BaseDistribution)
    return distribution


GOOD_SPACES: dict[str, dict[Any, Any]] = {
    "one value": {"x": FloatDistribution(1.0, 1.0)},
    "one whole number": {"x": IntDistribution(3, 3)},
    "one choice": {"x": CategoricalDistribution(("only",))},
    "nothing but None": {"x": CategoricalDistribution((None,))},
    "choices of all kinds": {"x": CategoricalDistribution((None, True, 2, 2.5, "", "a/b", math.inf, "ü" * 500))},
    "the same choice twice": {"x": CategoricalDistribution(("a", "a", "b"))},
    "50": {f"x{i}": FloatDistribution(0.0, 1.0) for i in range(50)},
    "50 of all kinds": {
        f"x{i}": (FloatDistribution(0, 1), IntDistribution(0, 9),
        CategoricalDistribution("abc"))[i % 3] for i in range(50)
    },
    "huge": {"x": FloatDistribution(-8e307, 8e307)},
    "huge logarithms": {"x": FloatDistribution(1e-300, 1e300, log=True)},
    "tiny": {"x": FloatDistribution(5e-324, 1e-320)},
    "hardly a range": {"x": FloatDistribution(1.0, 1.0 + 2e-16)},
    "huge whole numbers": {"x": IntDistribution(-(2**62), 2**62)},
    "logarithms of huge whole numbers": {"x": IntDistribution(1, 2**62, log=True)},
    "steps that do not fit": {"x": FloatDistribution(0.0, 0.7, step=0.1), "y": IntDistribution(1, 8, step=7)},
    "odd names": {name: FloatDistribution(0.0, 1.0) for name in (" ", "x" * 1000, "λ", "a/b", "../x", "a\nb", "%s",
    "{0}")},
    "names of attributes": {name: IntDistribution(0, 3) for name in ("self", "number", "params", "__class__",
    "constraints:x")},
    "nested": {"m": {"a": {"x": FloatDistribution(0, 1)}, "b": {"k": {True: {"z": IntDistribution(1, 3)}, None: {}}}}},
    "one branch": {"m": {"only": {}}},
    "wide": {"m": {f"c{i}": {f"x{i}": FloatDistribution(0, 1)} for i in range(60)}},
}  # fmt: skip


def _deep(levels: int) -> dict[str, Any]:
    return {"x": FloatDistribution(0, 1)} if not levels else {f"d{levels}": {"on": _deep(levels - 1), "off": {}}}


GOOD_SPACES["deep"] = _deep(40)


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_odd_spaces_are_searched_or_refused_by_every_strategy(strategy: str) -> None:
    for name, space in GOOD_SPACES.items():
        options = {"configs": [{}] * 2} if strategy == "manual" else {}
        result = outcome(lambda config: float(len(str(config))), space, strategy=strategy, units=1, **options)
        if isinstance(result, str):
            assert strategy == "portfolio" or (strategy == "gp" and "whole" in name), (name, result)
        elif strategy != "gp":  # its arithmetic may overflow, and then that is what the trial failed with
            assert failures(result) == [], name


BAD_SPACES: list[Any] = [
    {}, [], (), 3, "x", b"x", object(), True, {"x": None}, {"x": 1.0}, {"x": (0, 1)}, {"x": [0, 1]}, {"x": "ab"},
    {"x": FloatDistribution}, {"": FloatDistribution(0, 1)}, {None: FloatDistribution(0, 1)},
    {3: FloatDistribution(0, 1)}, {("a",): FloatDistribution(0, 1)}, {"\ud800": FloatDistribution(0, 1)},
    {"x": broken(FloatDistribution(0, 1), low=2.0)}, {"x": broken(FloatDistribution(0, 1), low=math.nan)},
    {"x": broken(FloatDistribution(0, 1), high=math.nan)}, {"x": broken(FloatDistribution(0, 1), high=math.inf)},
    {"x": broken(FloatDistribution(0, 1), low=-math.inf)}, {"x": FloatDistribution(-1.7e308, 1.7e308)},
    {"x": broken(FloatDistribution(0, 1), high=10**400)}, {"x": broken(FloatDistribution(0, 1), step=10**400)},
    {"x": broken(FloatDistribution(0, 1), low=10**400, high=10**400)},
    {"x": broken(IntDistribution(0, 1), low=5)}, {"x": IntDistribution(0, 2**64)}, {"x": IntDistribution(-(10**400),
    0)},
    {"x": broken(FloatDistribution(0, 1), log=True)}, {"x": broken(IntDistribution(-1, 1), log=True)},
    {"x": broken(FloatDistribution(0, 1, step=0.5), step=0.0)}, {"x": broken(CategoricalDistribution("ab"),
    choices=())},
    *({"x": broken(CategoricalDistribution("ab"), choices=("a", choice))} for choice in (
        (1, 2), [1, 2], {"a": 1}, {1}, object(), len, int, 1j, b"a", np.int64(1), np.zeros(2), torch.zeros(1), "\ud800",
        Path("a"), ...,
    )),
    {"m": {}}, {"m": {"a": None}}, {"m": {"a": FloatDistribution(0, 1)}}, {"m": {"a": {"x": 1}}}, {"m": {(1, 2): {}}},
    {"m": {"a": {"m": FloatDistribution(0, 1)}}}, {"m": {"a": {}}, "n": {"b": {"m": FloatDistribution(0, 1)}}},
    {"m": {"a": {"x": FloatDistribution(0, 1)}, "b": {"x": FloatDistribution(0, 2)}}},
    {"m": {"a": {"x": FloatDistribution(0, 1)}}, "n": {"b": {"x": FloatDistribution(0, 1)}}},
]  # fmt: skip


def test_bad_spaces_are_refused() -> None:
    for space in BAD_SPACES:
        assert isinstance(outcome(lambda config: 1.0, space), str), space


flat_distributions = st.one_of(
    st.builds(lambda low, high: FloatDistribution(*sorted((low, high))), *[st.floats(allow_nan=False)] * 2),
    st.builds(lambda low, high: IntDistribution(*sorted((low, high))), *[st.integers()] * 2),
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()), min_size=1, max_size=4).map(
        CategoricalDistribution
    ),
)
spaces = st.recursive(
    st.dictionaries(st.text(max_size=3), flat_distributions, max_size=3),
    lambda inner: st.dictionaries(
        st.text(string.ascii_letters, max_size=2), st.dictionaries(st.one_of(st.text(), st.booleans()), inner,
        max_size=3),
        max_size=3,
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(spaces, st.sampled_from(["random", "tpe", "grid", "qmc"]), st.integers(0, 2**32 - 1), st.data())
def test_any_space_is_refused_or_searched(space: Any, strategy: str, seed: int, data: st.DataObject) -> None:
    answer = data.draw(st.sampled_from([*NUMBERS, *NO_NUMBERS]))
    outcome(returns(answer), space, 3, strategy=strategy, seed=seed)


# Other arguments.

ODD_ARGUMENTS: dict[str, list[Any]] = {
    "objective": [None, 3, "train", [], object()],
    "budget": [0, -1, 1.5, math.nan, math.inf, "3", None, True, [3], 10**30],
    "strategy": [None, 3, "", "RANDOM", "magic", "x" * 1000, [], object(), optuna.samplers.RandomSampler, "asha",
    "manual"],
    "pruner": [3, "median", optuna.pruners.MedianPruner, []],
    "direction": [None, "", "up", "MINIMIZE", 1, ["minimize"], {}],
    "seed": [None, -1, 1.5, "0", 2**32, 10**30, math.nan, [0], True],
    "n_workers": [0, -1, 1.5, "2", None, True, [1]],
    "units": [0, -3, 2.5, "2", True, math.nan, [1]],
    "timeout": [0, -1, math.nan, math.inf, "5", [1], True, 10**400, 1j],
    "trial_timeout": [0, -1.0, math.nan, math.inf, "5", [1], True, 10**400],
    "storage": [3, [], object(), "", "/", "/proc/nowhere/all.journal", "\x00", "x" * 5000, "sqlite:////proc/nowhere/a.db",
    "a://b", "://"],
    "name": [3, ["a"], b"a", object()],
    "experiment": ["", " ", None, 3],
    "metric": ["", None, 3],
    "tracking_uri": [3, []],
    "configs": [3, None, "x", {"x": 0.5}, [3], [None], [{"y": 1}], [{"x": 2.0}], [{"x": "a"}], [{"x": None}], [{3: 1}]],
    "known": [3, "x", [3], [()], [({},)], [({"x": 0.5}, "a")], [({"x": 0.5}, math.nan)], [({}, 1.0)], [({"x": 9.0},
    1.0)],
              [({"x": 0.5}, 1.0, 2)], {"x": 0.5}],
    "constraints": [3, "x", []],
    "recorder": [3, "mlflow", object()],
    "past": [3, "x", [3], [None], {}],
    "progress": [3, "x", []],
}  # fmt: skip
FINE: dict[str, list[Any]] = {
    "timeout": [1e-9, 1e300, 5], "trial_timeout": [1e300, 60], "budget": [1, 7], "n_workers": [50], "seed": [2**32 - 1],
    "name": ["", "../../x", "a/b", "λ", "x" * 5000], "metric": ["val/λ ", "../x"], "configs": [(), iter([{"x": 0.5}])],
    "known": [[({"x": 0.5}, math.inf)], [({"x": 0.5}, np.float32(1))], [[{"x": 0}, 1]] * 3],
    "constraints": [lambda config: {}, lambda config: {"a": math.inf}, lambda config: None, lambda config: {"a": "b"},
                    lambda config: {"a": math.nan}, lambda config: 3, lambda config: {3: 1}, len],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(ODD_ARGUMENTS))
def test_odd_arguments_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in ODD_ARGUMENTS[name]:
        if (name, value) == ("budget", 10**30):
            found = outcome(lambda config: 1.0, **{"budget": value, "strategy": "grid"})
        else:
            found = outcome(**{"objective": lambda config: 1.0, name: value})
        assert isinstance(found, str), (name, value)
        assert len(found) < 6000


@pytest.mark.parametrize("name", sorted(FINE))
def test_odd_arguments_that_make_sense_are_taken(name: str) -> None:
    for value in FINE[name]:
        assert isinstance(outcome(**{"objective": lambda config: 1.0, name: value}), TuneResult)


def test_an_asynchronous_objective_is_refused() -> None:
    async def train(config: Mapping[str, Any]) -> float:
        return 1.0

    async def units(config: Mapping[str, Any]) -> Any:
        yield 1.0

    assert "asynchronous" in str(outcome(train))
    assert "asynchronous" in str(outcome(units))


def test_a_storage_of_garbage_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate((b"garbage\n", b"\xff\x00\n", b"{}\n", b"[1]\n", b'{"op_code":99}\n')):
        file = tmp_path / f"{number}.journal"
        file.write_bytes(content)
        assert "cannot be opened" in str(outcome(lambda config: 1.0, storage=str(file)))
    (tmp_path / "study.db").write_bytes(b"garbage" * 1000)
    assert "cannot be opened" in str(outcome(lambda config: 1.0, storage=f"sqlite:///{tmp_path / 'study.db'}"))


def test_a_study_of_several_objectives_is_refused(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=storage, study_name="study", directions=["minimize", "maximize"])
    assert "several values" in str(outcome(lambda config: 1.0, storage=storage, name="study"))


def test_a_study_that_is_resumed_with_another_space(tmp_path: Path) -> None:
    options: dict[str, Any] = {"storage": str(tmp_path / "study.journal"), "name": "study"}
    outcome(lambda config: 1.0, {"k": CategoricalDistribution("ab"), "x": FloatDistribution(0, 1)}, **options)
    for other in ({"k": CategoricalDistribution("abc")}, {"k": FloatDistribution(0, 1)}, {"x": IntDistribution(0, 3)}):
        assert "another name" in str(outcome(lambda config: 1.0, other, 4, **options))
    for there, wider in enumerate(({"x": FloatDistribution(1, 2)}, {"y": IntDistribution(0, 3)}), start=3):
        result = outcome(lambda config: 1.0, wider, there + 1, there=there, **options)
        assert isinstance(result, TuneResult)
        assert failures(result) == []


def test_there_are_enough_of_them() -> None:
    answers = 2 * (len(NUMBERS) + len(NO_NUMBERS) + len(_raisable()))
    arguments = sum(map(len, [*ODD_ARGUMENTS.values(), *FINE.values()]))
    assert answers + len(_ends()) + len(GOOD_SPACES) * len(STRATEGIES) + len(BAD_SPACES) + arguments > 700
