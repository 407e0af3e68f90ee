"""Reports of studies in a real MLflow store. It is filled once: reading does not change it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from metatuner.agent.reasons import Source
from metatuner.envs.errors import StoreError, UnknownExperimentError
from metatuner.envs.records import (
    Decision,
    Description,
    Metrics,
    Proposal,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from metatuner.tracking.proposals import MEANINGS
from metatuner.tracking.recorded_study import RecordedStudy, read_study
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.report import report_facts, report_page
from optuna.distributions import CategoricalDistribution, FloatDistribution, distribution_to_json

ODD = 'odd <script>alert("1")</script> & $x_1$ 中文'
SPACE: dict[str, Any] = {
    "lr": FloatDistribution(1e-5, 1e-1, log=True),
    "<b>kind</b>": CategoricalDistribution(["a", "<i>b</i>"]),
    "depth": FloatDistribution(1, 9),
}
WHYS = (
    "design: too early",
    "surrogate: expected to be better",
    "continuation: trial 1 promises most",
    "prior: as before",
)


def search() -> Iterator[Record]:
    """Ten trials that finished, one with NaN and one with infinity, a pruned one and two that failed; maximized."""
    yield StudyStarted(
        name=ODD,
        metric="accuracy <%>",
        direction="maximize",
        space={name: distribution_to_json(each) for name, each in SPACE.items()},
        conditions={"depth": "kind is 'a'"},
        budget="15 full trainings",
        tags={"metatuner.strategy": "policy", "metatuner.seed": "7"},
        command='metatuner tune "a <b>.py:train"',
        params={"rows & columns": 64},
    )
    yield Description(markdown="# Odd\n\nWhat is <here> is text.\n")
    values = [0.1, 0.5, 0.3, 0.7, 0.2, 0.9, 0.4, 0.6, 0.8, float("nan"), float("inf"), 0.05]
    for number, value in enumerate([*values, None, None, None]):
        params = {"lr": 10.0 ** -(1 + number % 5), "<b>kind</b>": ["a", "<i>b</i>"][number % 2]}
        if number % 2 == 0:
            params["depth"] = 1 + number / 2
        begins = 1_000 * (number + 1)
        yield TrialStarted(trial=number, name="policy", params=params, time_ms=begins)
        yield Proposal.told(number, WHYS[number % 4], {}, begins)
        for step in (1, 2):
            if value is not None:
                yield Metrics(trial=number, step=step, values={"accuracy <%>": value * step / 2})
        state = TrialState.FINISHED if value is not None else TrialState.FAILED if number < 14 else TrialState.PRUNED
        message = "ValueError: <img src=x>" if state is TrialState.FAILED else ""
        yield TrialFinished(trial=number, state=state, message=message, value=value, time_ms=1_000 * (number + 1) + 500)
    yield StudyFinished()


def schedule() -> Iterator[Record]:
    """Two trainings: one is adjusted, rolled back once and overruled once; the other one follows its reference."""
    yield StudyStarted(name="schedules", key="schedules")
    yield TrialStarted(trial=0, name="learned", params={"lr": 0.1})
    rows: list[tuple[float, float, float, dict[str, float], str]] = [
        (0.5, 0.1, float("nan"), {}, ""),
        (1.0, 0.3, 0.5, {"val_since_last": -0.5, "val_since_best": -0.5, "train_since_last": -0.7}, ""),
        (0.0, 0.075, -1.0, {"diverged": 1.0}, "diverged: rolled back"),
        (-0.5, 0.05, 0.1, {"val_since_last": 0.4, "val_since_best": 0.4}, "guard: trails its best validation loss"),
        (-0.5, 0.025, 0.1, {"val_since_last": 0.4, "val_age": 0.3}, ""),
    ]
    for number, (move, lr, reward, signals, note) in enumerate(rows):
        yield Metrics(trial=0, step=100 * number, values={"val/loss": 2.0 / (number + 1)})
        yield Decision(
            trial=0,
            number=number,
            step=100 * number,
            signals=signals,
            adjustments={"lr": move},
            values={"lr": lr},
            reward=reward,
            note=note,
        )
    yield TrialFinished(trial=0)
    yield TrialStarted(trial=1, name="cosine", params={"lr": 0.2})
    for number in range(3):
        yield Metrics(trial=1, step=100 * number, values={"val/loss": 1.0})
        yield Decision(
            trial=1,
            number=number,
            step=100 * number,
            signals={},
            adjustments={"lr": 0.0},
            values={"lr": 0.2},
            reward=0.0,
        )
    yield TrialFinished(trial=1)


def single(name: str, values: list[float | None]) -> Iterator[Record]:
    """One hyperparameter; None fails."""
    yield StudyStarted(name=name, space={"x": distribution_to_json(FloatDistribution(0, 10))})
    for number, value in enumerate(values):
        yield TrialStarted(trial=number, name="random", params={"x": float(number)})
        state = TrialState.FAILED if value is None else TrialState.FINISHED
        yield TrialFinished(trial=number, state=state, value=value)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """The URI of a store with the studies above."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("report")
    shutil.copy(empty_database, folder / "mlflow.db")
    uri = f"sqlite:///{folder}/mlflow.db"
    studies = {
        "odd": [search()],
        "schedules": [schedule()],
        "small": [
            single("nothing", []),
            single("failed", [None]),
            single("one", [3.0, 1.0, 2.0]),
            single("twice", [1.0]),
            single("twice", [2.0]),
        ],
    }
    for experiment, each in studies.items():
        with MLflowRecorder(uri, experiment, plots=False, sampling=None, journal=folder / "journal") as recorder:
            for records in each:
                for record in records:
                    recorder.record(record)
    yield uri
    for name in [name for name in SqlAlchemyStore._engine_map if str(folder) in name]:
        SqlAlchemyStore._engine_map.pop(name).dispose()


Read = Callable[[str], RecordedStudy]


@pytest.fixture(scope="module")
def read(store: str) -> Read:
    return lambda name: read_study(name, tracking_uri=store)


class _Words(HTMLParser):
    """What a reader sees, and which elements there are."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.open, self.elements = "", [""], set[str]()
        self.feed(page)
        self.close()
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def test_a_search_is_told_whole(read: Read) -> None:
    study = read(ODD)
    page = report_page(study)
    words = _Words(page)
    assert not words.elements & {"script", "b", "i", "img"}
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    for told in (
        ODD,
        "0.9 is the largest accuracy <%>, of trial 5 (policy). Trials: 12 finished, 2 failed, 1 pruned.",
        "The best 10 of 10 trials that finished with a number",
        "budget 15 full trainings",
        "strategy policy seed 7",
        "depth 1 to 9, where kind is 'a'",
        "setting rows & columns 64",
        "What is <here> is text.",
        "Learning curves",
        "15 of 15 trials have a reason",
        "#6, 0.4: continuation: trial 1 promises most; #1 was begun for this reason: surrogate: expected to be better",
        "2 finished with a value that is no number: #9, #10.",
        "2 failed (#12, #13): ValueError: <img src=x>",
        'metatuner tune "a <b>.py:train"',
    ):
        assert told in words.text
    figures = re.findall(r'role="img" aria-label="([^"]*)"', page)
    assert [caption.split(".")[0] for caption in figures] == [
        "The value of each trial, in their order, and the best so far",
        "How much each hyperparameter matters for being among the best trials",
        "Each trial&#x27;s value against each hyperparameter",
        "A line for each trial, dark and thick where its value is good",
        "What each trial reported",
    ]


def test_facts_are_for_machines(read: Read) -> None:
    facts = report_facts(read(ODD))
    assert facts["trials"] == {"finished": 12, "failed": 2, "pruned": 1}
    best = facts["best"]
    assert (best["trial"], best["value"], best["why"]) == (5, 0.9, "surrogate: expected to be better")
    assert best["params"] == {"lr": "0.1", "<b>kind</b>": "<i>b</i>"}
    assert set(facts["importance"]) == {"lr", "<b>kind</b>"}
    reasons = facts["reasons"]
    assert reasons["surrogate"] == {"trials": 4, "best_value": 0.9, "led": 2}
    assert sum(reason["led"] for reason in reasons.values()) == 4  # 0.1, 0.5, 0.7 and 0.9
    assert facts["reasons"]["prior"]["best_value"] == 0.7


def test_decisions_become_sentences(read: Read) -> None:
    study = read("schedules")
    told = report_facts(study)["decisions"]["0"]
    assert told["steps"] == [
        "Step 0: learning rate raised to 0.1 (50% of the largest move). Nothing had been measured yet.",
        "Step 100: learning rate raised, from 0.1 to 0.3 (times 3, 100% of the largest move). It saw the validation "
        "loss down by 39.3%, its best so far, and the training loss down by 50.3% since the decision before.",
        "Step 200: learning rate not adjusted, from 0.3 to 0.075. The training had diverged since the decision before. "
        "Note: diverged: rolled back.",
        "Step 300: learning rate lowered, from 0.075 to 0.05 (times 0.667, 50% of the largest move). It saw the "
        "validation loss up by 49.2%, 49.2% above its best, since the decision before. The guard overruled the policy, "
        "because of: trails its best validation loss.",
        "Step 400: learning rate lowered, from 0.05 to 0.025 (times 0.5, 50% of the largest move). It saw no new "
        "validation loss since the decision before.",
    ]
    assert told["summary"] == (
        "5 decisions. Learning rate was raised twice and lowered twice (0.1 at first, 0.025 at last, between 0.025 and "
        "0.3). Notes: diverged: rolled back: once; the guard overruled the policy (trails its best validation loss): "
        "once."
    )
    text = _Words(report_page(study)).text
    assert (
        "after raised lowered kept the validation loss had fallen 1 0 0 no new validation loss was known 0 1 0" in text
    )
    assert "1 trial followed the reference as it is, with no adjustment: #1." in text
    assert "#0 learned: losses and hyperparameters. Dots are decisions of the policy." in text


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "No trial has finished with a number, so there is no best one yet. Trials: none yet."),
        ("failed", "1 failed (#0): no message"),
        ("one", "1 is the smallest val/loss, of trial 1 (random). Trials: 3 finished."),
        ("one", "3 trials are too few to tell which matters; it takes 8."),
    ],
)
def test_small_studies_are_told_too(read: Read, name: str, told: str) -> None:
    assert told in _Words(report_page(read(name))).text


def test_a_study_that_runs_is_told_so_far(uri: str) -> None:
    with MLflowRecorder(uri, "running", plots=False, sampling=None) as recorder:
        for record in [*single("busy", [2.0]), TrialStarted(trial=1, name="random", params={"x": 3.0})]:
            recorder.record(record)
        assert recorder.flush()
        study = read_study("busy", "running", uri)
        assert study.state is None
        assert report_facts(study)["trials"] == {"finished": 1, "running": 1}
        assert "Result so far" in report_page(study)


def test_a_study_is_found_by_its_run(read: Read) -> None:
    study = read("one")
    assert read(study.run_id).started.name == "one"
    with pytest.raises(StoreError, match=f"is the run of a trial: give that of its study, {study.run_id}"):
        read(study.summary.trials[0].run)


def test_what_cannot_be_read_is_said(store: str, read: Read, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"has no study 'none': it has .*'one'"):
        read("none")
    with pytest.raises(StoreError, match=r"2 studies are called 'twice': give the run id of one: [0-9a-f]{32} \(exper"):
        read("twice")
    with pytest.raises(StoreError, match=r"experiment 'odd' of .* has no study 'one'"):
        read_study("one", "odd", store)
    with pytest.raises(UnknownExperimentError, match="has no experiment 'even': expected one of Default, odd"):
        read_study("one", "even", store)
    missing = tmp_path / "none" / "mlflow.db"
    with pytest.raises(StoreError, match="there is no store"):
        read_study("one", tracking_uri=f"sqlite:///{missing}")
    assert not missing.parent.exists()
    (tmp_path / "junk.db").write_text("junk")
    with pytest.raises(StoreError, match="expected an SQLite database"):
        read_study("one", tracking_uri=f"sqlite:///{tmp_path}/junk.db")


def test_every_kind_of_reason_has_a_meaning() -> None:
    assert set(MEANINGS) == set(Source)
