"""Tables of past trials: what is read, what is said of a damaged one, and what is written to share."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from metatuner.envs.errors import ConfigurationError, StoreError
from metatuner.envs.records import TrialState
from metatuner.tracking.table_export import looks_private, write_table
from metatuner.tracking.told_trials import ToldTrial
from metatuner.tracking.trial_table import read_table

TRIALS = [
    ToldTrial("a", {"lr": "0.1", "kind": "x, y"}, 1 / 3, {1: 2.0, 3: 0.5}),
    ToldTrial("b", {"lr": "1e-05", "step": "4", "params.q": "1", "direction": "up"}, -1e-17, direction="minimize"),
    ToldTrial("a", {"lr": "0.2"}, None, {1: 9.0}, TrialState.PRUNED),
    ToldTrial("a", {"lr": "0.2", "kind": "z"}, None, {1: 8.0}, TrialState.FAILED),
    ToldTrial("a", {"lr": "0.0012345678901234567"}, math.inf),
]


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "past.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    silent = [ToldTrial("a", {"lr": "1"}, None), ToldTrial("a", {"lr": "1"}, 1.0, {}, TrialState.KILLED)]
    written = write_table(tmp_path / "past.csv", [*TRIALS, *silent])
    assert (written.tasks, written.trials) == (2, 5)
    assert written.names == ("lr", "kind", "step", "params.q", "direction")
    back = list(read_table(tmp_path / "past.csv", "loss"))
    assert [(b.task, b.params, b.curve, b.state, b.direction) for b in back] == [
        (t.task, t.params, t.curve, t.state, t.direction) for t in TRIALS
    ]
    assert [b.value for b in back if not b.failed and b.state is TrialState.FINISHED] == [1 / 3, -1e-17]
    assert [b.failed for b in back] == [False, False, False, True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["past.csv"]


def test_a_table_of_somebody_else(tmp_path: Path) -> None:
    path = table(tmp_path, "\ufefflr,loss,task,accuracy,\n0.1,3,t,0.5,x\n\n,2.5,t,,\n0.3,,t,0.1,\n0.4,nan,u,,\n")
    first, second, third, fourth = read_table(path, "loss")
    assert (first.task, first.params, first.value) == ("t", {"lr": "0.1", "accuracy": "0.5"}, 3.0)
    assert (second.params, second.value) == ({}, 2.5)
    assert not third.says_something
    assert fourth.failed
    steps = table(tmp_path, "task,trial,step,value,lr\nt,0,1,5,0.1\nt,0,2,4,\nt,1,1,7,0.2\nt,1,,6,0.2\n")
    one, two = read_table(steps)
    assert (one.value, one.curve, one.params) == (4.0, {1: 5.0, 2: 4.0}, {"lr": "0.1"})
    assert (two.value, two.curve) == (6.0, {1: 7.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column 'task' with the past tasks; its columns are none at all"),
        ("lr,value\n1,2\n", "expected a column 'task'"),
        ("task,lr\nt,1\n", "expected a column 'loss' or 'value' with the values; its columns are task, lr"),
        ("task,value,step\nt,1,1\n", "expected a column 'trial'"),
        ("task,value,lr,lr\nt,1,1,1\n", r"expected a column once, got one twice \(lr\)"),
        ("task,value,lr,params.lr\nt,1,1,1\n", "expected a column once"),
        ("task,value\nt,1\nt,good\n", "past.csv, line 3: expected a number in column 'value', got 'good'"),
        ("task,value,lr\nt,1\n", "line 2: expected 3 cells, got 2"),
        ("task,value\n,1\n", "line 2: expected the name of a task"),
        ("task,value,state\nt,1,done\n", "line 2: expected one of finished, pruned, failed, killed in column 'state'"),
        ("task,value,trial,step\nt,1,0,1.5\n", "line 2: expected a whole number in column 'step', got '1.5'"),
        ('task,value\nt,"1\n', "line 2: expected a CSV file in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        list(read_table(table(tmp_path, text), "loss"))


def test_what_is_no_table_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no table"):
        list(read_table(tmp_path / "none.csv"))
    with pytest.raises(StoreError, match="cannot be read"):
        list(read_table(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StoreError, match="expected a CSV file in UTF-8"):
        list(read_table(tmp_path / "binary"))


def test_a_shared_table_tells_nothing_of_who_and_where(tmp_path: Path) -> None:
    trials = [
        ToldTrial("/Users/ann@home/task", {"lr": "1", "data": "/home/ann/x", "model": "org/net", "secret": "7"}, 1.0),
        ToldTrial("digits", {"lr": "2", "run": "0123456789abcdef0123"}, 2.0, direction="maximize"),
    ]
    path = tmp_path / "past.csv"
    written = write_table(path, trials, exclude=["secret"], include=["model"])
    assert written.names == ("lr", "model")
    assert written.withheld == ("data", "run")
    assert path.read_text().splitlines() == [
        "task,trial,step,state,value,direction,lr,model",
        "task 1,0,,finished,1.0,,1,org/net",
        "digits,0,,finished,2.0,maximize,2,",
    ]
    write_table(path, trials, anonymous=True)
    assert "digits" not in path.read_text()
    assert [trial.task for trial in read_table(path)] == ["task 1", "task 2"]


def test_what_cannot_be_written_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "past.csv"
    with pytest.raises(ConfigurationError, match="no past trial has a hyperparameter 'secrte': expected some of lr"):
        write_table(path, TRIALS, exclude=["secrte"])
    with pytest.raises(StoreError, match="no past trials"):
        write_table(path, [])
    with pytest.raises(StoreError, match="cannot be written"):
        write_table(tmp_path / "none" / "past.csv", TRIALS)
    assert not list(tmp_path.iterdir())


def test_hyperparameters_called_like_a_metric_are_read_again(tmp_path: Path) -> None:
    told = [ToldTrial("a", {"objective": "binary:logistic", "loss": "hinge", "lr": "0.1"}, 0.5)]
    write_table(tmp_path / "past.csv", told, metric="loss")
    for metric in ("objective", "loss", "other"):
        (back,) = read_table(tmp_path / "past.csv", metric)
        assert (back.params, back.value) == (told[0].params, 0.5)


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("0b8e4e0c-8f0b-4d5e-9a64-0f3f5f2f7a11", True),
        ("10.0.0.7", True),
        ("db.corp.example.com:5432", True),
        ("gpu3.cluster.internal", True),
        ("2001:db8::1", True),
        ("2026-11-27 10:22:31", True),
        ("binary:logistic", False),
        ("resnet50.a1", False),
        ("1.2.3", False),
        ("relu,tanh", False),
        ("1e-05", False),
    ],
)
def test_what_tells_of_somebody_is_known(text: str, private: bool, tmp_path: Path) -> None:
    assert looks_private(text) == private
    written = write_table(tmp_path / "p.csv", [ToldTrial("a", {"a": text, "data/home/me/x": "1", "opt/lr": "2"}, 0.5)])
    assert written.withheld == (("a", "data/home/me/x") if private else ("data/home/me/x",))
