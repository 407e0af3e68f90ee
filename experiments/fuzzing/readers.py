"""Every reader of what comes from outside: what it is given here, and what is done with what it takes.

A reader is made for a folder of its own. It gives a `Fuzzed`: inputs, and a function that reads one and uses what came
of it, so that what was accepted in error is noticed too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import itertools
import json
import os
import shutil
import socket
import sqlite3
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from hypothesis import strategies as st
from metatuner.__main__ import main
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.meta_training import MetaTrainingSettings, train_schedule_policy
from metatuner.agent.policy import Policy
from metatuner.agent.policy_files import read_card
from metatuner.agent.policy_prior import attach_prior, export_policy, prior_with
from metatuner.agent.policy_sampler import PolicySampler
from metatuner.agent.priors import prior_of
from metatuner.agent.quiet import quiet_optuna
from metatuner.agent.schedule_state import read_state, write_state
from metatuner.agent.search_policy import SearchPolicy
from metatuner.agent.search_training import SearchTrainingSettings, learn_to_search
from metatuner.agent.tune import tune
from metatuner.envs import records as r
from metatuner.envs.conditional_space import ConditionalSpace
from metatuner.envs.controller import observation_size
from metatuner.envs.errors import MetatunerError
from metatuner.envs.prior import Prior
from metatuner.envs.search_moves import CONTEXT, FEATURES, MOVES, Moves
from metatuner.tracking import journal, optuna_study
from metatuner.tracking.codec import encode
from metatuner.tracking.completion import Completion, left_open
from metatuner.tracking.history import read_history
from metatuner.tracking.past_studies import past_studies, past_table
from metatuner.tracking.policy_page import describe_policy
from metatuner.tracking.prior_contents import PriorContents
from metatuner.tracking.projection import Projection
from metatuner.tracking.recorded_study import read_study
from metatuner.tracking.recorder import MLflowRecorder
from metatuner.tracking.redaction import has_credentials, one_line, without_credentials, without_userinfo
from metatuner.tracking.registry import push
from metatuner.tracking.report import report_facts, report_page
from metatuner.tracking.shipper import Shipper
from metatuner.tracking.sqlite_file import ensure_database
from metatuner.tracking.store import Kind, resolve
from metatuner.tracking.study_folder import StudyFolder
from metatuner.tracking.sync import sync
from metatuner.tracking.table_export import write_table
from metatuner.tracking.told_space import told_space
from metatuner.tracking.told_trials import ToldTrial
from metatuner.tracking.transport import Transport
from metatuner.tracking.trial_table import read_table
from mutations import NUMBERS, TEXTS, altered, as_json, damaged, json_files, odd_values, plain, tables, tensor_files
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

CARD, WEIGHTS = "card.json", "policy.safetensors"

TABLE = "task,trial,step,state,value,lr,depth,kind\n" + "".join(
    f"{task},{i},{step},{'finished' * (step == '1')},{0.1 * i + len(step)},{10.0 ** -(i + 1)},{i + 1},{'ab'[i % 2]}\n"
    for task in ("digits", "wine")
    for i in range(5)
    for step in ("1", "2", "")
)

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-6, 1.0, log=True),
    "depth": IntDistribution(1, 9),
    "kind": CategoricalDistribution(("a", "b")),
}


@dataclass(frozen=True)
class Fuzzed:
    """A reader that is ready.

    Attributes:
        inputs: What it is given.
        read: Reads one input, and uses what came of it.
    """

    inputs: st.SearchStrategy[Any]
    read: Callable[[Any], object]


Reader = Callable[[Path], contextlib.AbstractContextManager[Fuzzed]]

READERS: dict[str, Reader] = {}
"""The readers by name."""


def _reader(name: str) -> Callable[[Callable[[Path], Iterator[Fuzzed]]], None]:
    def note(made: Callable[[Path], Iterator[Fuzzed]]) -> None:
        READERS[name] = contextlib.contextmanager(made)

    return note


# Policies.


def _use_schedule_policy(policy: Policy) -> None:
    seen = np.zeros((1, observation_size(2)), np.float32)
    decided, _ = policy.decide(seen)
    assert np.isfinite(decided).all()
    assert policy.card_json()
    describe_policy(policy.card, "x")
    weight = torch.nn.Parameter(torch.ones(2))
    schedule = AdaptiveSchedule(torch.optim.SGD([weight], lr=0.1, momentum=0.9), 3, policy, ("lr", "momentum"))
    for _ in range(3):
        loss = weight.square().sum() + 1.0
        weight.grad = 2 * weight.detach()
        schedule._optimizer.step()
        schedule.step(loss)
    schedule.close()
    assert all(np.isfinite(value) for value in schedule.values.values())


def _use_search_policy(policy: SearchPolicy) -> None:
    features, context = np.ones((MOVES, len(FEATURES)), np.float32), np.ones(len(CONTEXT), np.float32)
    moves = Moves(features, context, np.zeros((MOVES, 1)), np.full(MOVES, -1), None, np.zeros((MOVES, 2)))
    assert np.isfinite(policy.scores(moves)).all()
    describe_policy(policy.card, "x")


def _signed(folder: Path, weights: bytes) -> None:
    """Puts weights into a policy's folder as whoever forges them would: the card tells their hash."""
    (folder / WEIGHTS).write_bytes(weights)
    card = json.loads((folder / CARD).read_bytes())
    (folder / CARD).write_text(json.dumps({**card, "sha256": hashlib.sha256(weights).hexdigest()}))


def _policy(folder: Path, source: str, load: Callable[[Path], Any], use: Callable[[Any], None], file: str) -> Fuzzed:
    export_policy(source, folder / "policy")
    whole = (folder / "policy" / file).read_bytes()

    def read(data: bytes) -> None:
        if file == WEIGHTS:
            _signed(folder / "policy", data)
        else:
            (folder / "policy" / file).write_bytes(data)
        with contextlib.suppress(MetatunerError):
            read_card(folder / "policy")
        use(load(folder / "policy"))

    return Fuzzed((tensor_files if file == WEIGHTS else json_files)(whole), read)


@_reader("schedule policy: card")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "schedule-default", Policy.load, _use_schedule_policy, CARD)


@_reader("schedule policy: weights")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "schedule-default", Policy.load, _use_schedule_policy, WEIGHTS)


@_reader("search policy: card")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "search-default", SearchPolicy.load, _use_search_policy, CARD)


@_reader("search policy: weights")
def _(folder: Path) -> Iterator[Fuzzed]:
    yield _policy(folder, "search-default", SearchPolicy.load, _use_search_policy, WEIGHTS)


_LINKS = (
    "/dev/zero",
    "/dev/full",
    "/proc/self/mem",
    "/nowhere",
    "card.json",
    "policy.safetensors",
    "prior.csv",
    "..",
    "/",
)


@_reader("policy: folder and address")
def _(folder: Path) -> Iterator[Fuzzed]:
    """Files exchanged for folders, pipes and links; names of policies that are none."""
    os.chdir(folder)

    def read(given: tuple[str, list[tuple[str, str]]]) -> None:
        address, changes = given
        shutil.rmtree("policy", ignore_errors=True)
        export_policy("search-default", "policy")
        Path("policy/prior.csv").write_text(TABLE)
        for file, instead in changes:
            path = Path("policy") / file
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            path.unlink(missing_ok=True)
            if instead == "folder":
                path.mkdir()
            elif instead == "pipe":
                os.mkfifo(path)
            elif instead != "nothing":
                path.symlink_to(instead)
        for load in (Policy.load, SearchPolicy.load, read_card, functools.partial(export_policy, folder="exported")):
            with contextlib.suppress(MetatunerError):
                load(address)
        with contextlib.suppress(MetatunerError):
            attach_prior("policy", "minimize", lambda path: write_table(path, [ToldTrial("t", {"lr": "1"}, 1.0)]))
        prior_with(address, ConditionalSpace(SPACE), without=None, units=2)

    addresses = st.sampled_from(
        ["policy", "policy/card.json", "./policy/", "policy/../policy", "models:/", "models:/x@y", "zero", ":"]
    )
    texts = st.sampled_from([text for text in TEXTS if text not in ("..", ".", "a\nb")]) | st.text(max_size=8)
    files = st.tuples(
        st.sampled_from([CARD, WEIGHTS, "prior.csv"]), st.sampled_from(["folder", "pipe", "nothing", *_LINKS])
    )
    yield Fuzzed(st.tuples(addresses | addresses | texts, st.lists(files, max_size=2)), read)


@_reader("policy: past trials with it")
def _(folder: Path) -> Iterator[Fuzzed]:
    export_policy("search-default", folder / "policy")

    def read(given: tuple[bytes, Any]) -> None:
        table, entry = given
        (folder / "policy" / "prior.csv").write_bytes(table)
        card = json.loads((folder / "policy" / CARD).read_bytes())
        told = {"sha256": hashlib.sha256(table).hexdigest(), "direction": "minimize"} if entry is None else entry
        (folder / "policy" / CARD).write_bytes(as_json({**card, "prior": told}))
        prior = prior_with(folder / "policy", ConditionalSpace(SPACE), without="wine", units=2)
        if prior is not None:
            _use_prior(prior)

    entries = st.none() | st.none() | st.none() | altered({"sha256": "0" * 64, "direction": "minimize"}, raw=False)
    yield Fuzzed(st.tuples(tables(TABLE), entries), read)


@_reader("policy: Model Registry")
def _(folder: Path) -> Iterator[Fuzzed]:
    with _store(folder) as uri:
        push(export_policy("search-default", folder / "policy"), "x", tracking_uri=uri, alias="champion")
        (card,) = (folder / "mlartifacts").rglob(CARD)
        before = os.environ.get("MLFLOW_TRACKING_URI")
        os.environ["MLFLOW_TRACKING_URI"] = uri

        def read(data: bytes) -> None:
            card.write_bytes(data)
            _use_search_policy(SearchPolicy.load("models:/x@champion"))

        try:
            yield Fuzzed(json_files(card.read_bytes()), read)
        finally:
            os.environ.pop("MLFLOW_TRACKING_URI")
            if before is not None:
                os.environ["MLFLOW_TRACKING_URI"] = before


# Past tasks.


def _use_prior(prior: Prior) -> None:
    assert prior.match.lines()
    with quiet_optuna():
        study = optuna.create_study(sampler=PolicySampler(past=prior.studies, seed=0, units=2))
        for _ in range(3):
            trial = study.ask(SPACE)
            ConditionalSpace(SPACE).check(trial.params, complete=True)
            study.tell(trial, 1.0)


def _use_trials(trials: Callable[[], Iterator[ToldTrial]], folder: Path) -> None:
    contents = PriorContents.of(trials())
    assert contents.read >= 0
    assert all(isinstance(each.values, str) for each in contents.params.values())
    with contextlib.suppress(MetatunerError):
        ConditionalSpace(told_space(trials(), "x"))
    with contextlib.suppress(MetatunerError):
        write_table(folder / "written.csv", trials(), anonymous=True)
        assert list(read_table(folder / "written.csv")) is not None


@_reader("table of past trials")
def _(folder: Path) -> Iterator[Fuzzed]:
    def read(data: bytes) -> None:
        (folder / "past.csv").write_bytes(data)
        _use_trials(lambda: read_table(folder / "past.csv", "value"), folder)
        _use_prior(past_table(str(folder / "past.csv"), SPACE, units=2))

    yield Fuzzed(tables(TABLE), read)


@_reader("past runs in MLflow")
def _(folder: Path) -> Iterator[Fuzzed]:
    """What others logged: params, metrics, tags, states, at the level of the database, as any client may write them."""
    with _store(folder) as uri:
        _record(uri)
        whole = (folder / "mlflow.db").read_bytes()

        def read(changes: list[tuple[str, str, Any]]) -> None:
            (folder / "mlflow.db").write_bytes(whole)
            _tamper(folder / "mlflow.db", changes)
            for past in read_history("x", with_curves=["val/loss"], tracking_uri=uri):
                assert past.run_id
            _use_prior(past_studies("x", SPACE, metric="val/loss", tracking_uri=uri, units=2))

        yield Fuzzed(_database_changes(), read)


@_reader("address of past tasks")
def _(folder: Path) -> Iterator[Fuzzed]:
    os.chdir(folder)
    Path("past.csv").write_text(TABLE)

    def read(address: Any) -> None:
        _use_prior(
            prior_of(
                address,
                ConditionalSpace(SPACE),
                metric="value",
                direction="minimize",
                tracking_uri=None,
                without=None,
                units=2,
            )
        )

    kinds = st.sampled_from(["table:", "table:past.csv", "tables:", "", ":", "table"])
    yield Fuzzed(
        st.just("table:past.csv")
        | st.builds(str.__add__, kinds, st.sampled_from(TEXTS) | st.text(max_size=5))
        | odd_values,
        read,
    )


# Journals and studies.


def _records() -> list[r.Record]:
    space = {name: optuna.distributions.distribution_to_json(each) for name, each in SPACE.items()}
    told: list[r.Record] = [
        r.StudyStarted(
            name="study",
            params={"budget": "3"},
            tags={"a": "b"},
            space=space,
            conditions={"depth": "kind is a"},
            budget="3 trials",
            command="again",
            time_ms=1_700_000_000_000,
        ),
        r.Description(markdown="# What it is"),
        r.DataSetUsed(trial=None, name="digits", digest="0" * 32, profile={"rows": 3}),
    ]
    for trial in range(5):
        params = {"lr": str(10.0 ** -(trial + 1)), "depth": str(trial + 1), "kind": "ab"[trial % 2]}
        told += [
            r.TrialStarted(trial=trial, name="t", params=params, time_ms=1_700_000_000_000 + 2000 * trial),
            r.ParamsChosen(trial=trial, params={"more": "1"}, tags={"c": "d"}),
            r.Proposal(trial=trial, source="prior", words="since", foretold={"gain": 0.5}),
            *(r.Metrics(trial=trial, step=step, values={"val/loss": 1.0 / (step + trial + 1)}) for step in range(2)),
            r.Decision(
                trial=trial,
                number=0,
                step=0,
                signals={"progress": 0.5},
                adjustments={"lr": 0.1},
                values={"lr": 0.1},
                reward=float("nan"),
                note="diverged",
            ),
            r.Artifact(trial=trial, path="note/a.txt", text="text"),
            r.FileArtifact(trial=trial, path="b.bin", source="files/0123456789abcdef0123456789abcdef"),
            r.TrialFinished(
                trial=trial,
                state=r.TrialState.FINISHED if trial else r.TrialState.FAILED,
                message="why",
                costs={"s": 1.0},
                time_ms=1_700_000_001_000 + 2000 * trial,
            ),
        ]
    return [*told, r.StudyFinished(time_ms=1_700_000_100_000)]


def _lines(lines: list[bytes]) -> bytes:
    return b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines)


@st.composite
def _journals(draw: st.DrawFn) -> bytes:
    """Whole lines with other records in them, in another order; or damage that the checksums tell."""
    lines: list[Any] = [json.loads(encode(record)) for record in _records()]
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged(_lines([as_json(line) for line in lines])))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["alter", "alter", "alter", "alter", "remove", "twice", "move", "odd"])):
            case "alter":
                lines[at] = draw(altered(lines[at]))
            case "remove" if len(lines) > 1:
                del lines[at]
            case "twice":
                lines.insert(draw(st.integers(0, len(lines))), lines[at])
            case "move":
                lines.insert(draw(st.integers(0, len(lines) - 1)), lines.pop(at))
            case _:
                lines[at] = draw(odd_values)
    return _lines([as_json(line) for line in lines])


def _study_folder(root: Path, data: bytes) -> StudyFolder:
    shutil.rmtree(root, ignore_errors=True)
    folder = StudyFolder.open(root, "sqlite:////nowhere/mlflow.db", "x", "key", plots=False)
    folder.records.write_bytes(data)
    (folder.path / "files").mkdir()
    (folder.path / "files" / "0123456789abcdef0123456789abcdef").write_bytes(b"kept")
    return folder


@_reader("journal: read and taken up again")
def _(folder: Path) -> Iterator[Fuzzed]:
    def read(data: bytes) -> None:
        study = _study_folder(folder / "root", data)
        ends = left_open(entry.record for entry in journal.read(study.records))
        completion = Completion((entry.record for entry in journal.read(study.records)), None)
        assert completion.finished <= completion.ended
        writer = journal.JournalWriter(study.records)
        for end in ends:
            writer.append(end)
        writer.close()
        assert left_open(entry.record for entry in journal.read(study.records)) == []
        # Whoever finds everything sent projects it without a store.
        study.acknowledge(writer.end)
        Shipper(study, Transport(resolve("sqlite:////nowhere/mlflow.db"), "x"))

    yield Fuzzed(_journals(), read)


@_reader("journal: sent to MLflow")
def _(folder: Path) -> Iterator[Fuzzed]:
    with _store(folder) as uri:
        numbers = itertools.count()

        def read(data: bytes) -> None:
            study = _study_folder(folder / "root", data)
            target = {"study": f"{next(numbers):032x}", "tracking_uri": uri, "experiment": "x", "plots": False}
            (study.path / "target.json").write_text(json.dumps(target))
            (done,) = sync(folder / "root")
            assert done.remaining == 0, done.problem

        yield Fuzzed(_journals(), read)


@_reader("journal: folder")
def _(folder: Path) -> Iterator[Fuzzed]:
    """Where a study goes and how far it is sent, and what lies in place of its files."""
    whole = json.dumps(
        {"study": "0" * 32, "tracking_uri": "http://127.0.0.1:9", "experiment": "x", "plots": True}
    ).encode()
    lines = _lines([encode(record).encode() for record in _records()])

    def read(given: tuple[bytes, bytes | str, str]) -> None:
        target, acknowledged, odd = given
        study = _study_folder(folder / "root", lines)
        (study.path / "target.json").write_bytes(target)
        (study.path / "acknowledged").write_bytes(acknowledged)
        path = study.path / odd
        if odd:
            path.unlink(missing_ok=True)
            path.mkdir() if len(target) % 2 else path.symlink_to("/nowhere")
        for each in StudyFolder.all(folder / "root"):
            (
                each.target,
                each.acknowledged,
                each.remaining,
                each.refused,
                left_open(e.record for e in journal.read(each.records)),
            )
            resolve(each.target.tracking_uri)
            each.kept_file("files/x")
        (done,) = sync(folder / "root", "sqlite:////proc/nowhere/mlflow.db") or [None]
        assert done is None or done.problem

    numbers = [
        b"0",
        b"-1",
        b"7",
        b"9" * 30,
        b"9" * 5000,
        b"1.5",
        b"\xff",
        b"",
        b" 12 ",
        b"1_0",
        b"nan",
        str(len(lines)).encode(),
    ]
    odd = st.sampled_from(
        [""] * 6 + ["target.json", "acknowledged", "records.journal", "refused.jsonl", "writer", "shipper"]
    )
    yield Fuzzed(
        st.tuples(st.just(whole) | json_files(whole), st.sampled_from(numbers) | st.binary(max_size=4), odd), read
    )


def _record(uri: str) -> str:
    """A study with schedules in the store; returns its run's id."""
    with MLflowRecorder(uri, "x", plots=False) as recorder:
        for record in _records():
            if not isinstance(record, r.FileArtifact):
                recorder.record(record)
        assert recorder.flush()
        return str(recorder.run_id)


def _tamper(database: Path, changes: list[tuple[str, str, Any]]) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        for table, key, value in changes:
            connection.execute("PRAGMA foreign_keys=OFF")
            run = "run_uuid IN (SELECT run_uuid FROM runs ORDER BY start_time LIMIT 2)"
            with contextlib.suppress(sqlite3.Error, UnicodeEncodeError, OverflowError):
                if table == "runs":
                    connection.execute(f"UPDATE runs SET {key} = ? WHERE {run}", (value,))
                elif value is None:
                    connection.execute(f"DELETE FROM {table} WHERE key = ? AND {run}", (key,))
                elif table == "renamed":
                    connection.execute(f"UPDATE tags SET key = ? WHERE key = ? AND {run}", (value, key))
                else:
                    connection.execute(f"UPDATE {table} SET value = ? WHERE key = ? AND {run}", (value, key))
        connection.commit()


def _database_changes() -> st.SearchStrategy[list[tuple[str, str, Any]]]:
    tags = (
        "metatuner.trial",
        "metatuner.attempt",
        "metatuner.key",
        "metatuner.kind",
        "metatuner.study",
        "metatuner.state",
        "metatuner.title",
        "metatuner.why",
        "metatuner.metric",
        "metatuner.direction",
        "metatuner.budget",
        "metatuner.command",
        "metatuner.message",
        "metatuner.name/lr",
        "mlflow.parentRunId",
        "mlflow.note.content",
    )
    texts = st.none() | st.sampled_from(TEXTS) | st.text(max_size=5)
    numbers = st.sampled_from([0.0, -1.0, 1e308, 1.7976931348623157e308, -1.7976931348623157e308, 1e-320])
    change = st.one_of(
        st.tuples(st.just("tags"), st.sampled_from(tags), texts),
        st.tuples(st.just("tags"), st.sampled_from(tags), texts),
        st.tuples(st.just("params"), st.sampled_from(["lr", "depth", "kind", "more"]), texts),
        st.tuples(
            st.sampled_from(["metrics", "latest_metrics"]),
            st.sampled_from(["val/loss", "value", "hp/lr", "reward", "gain"]),
            numbers,
        ),
        st.tuples(
            st.just("runs"), st.sampled_from(["start_time", "end_time"]), st.sampled_from([None, 0, -1, 2**62, 10**18])
        ),
        st.tuples(st.just("runs"), st.just("status"), st.sampled_from(["RUNNING", "SCHEDULED", "KILLED", "FAILED"])),
        st.tuples(st.just("runs"), st.just("name"), texts),
    )
    return st.lists(change, min_size=1, max_size=3)


@_reader("study in MLflow: report")
def _(folder: Path) -> Iterator[Fuzzed]:
    with _store(folder) as uri:
        run = _record(uri)
        whole = (folder / "mlflow.db").read_bytes()
        files = {
            path: path.read_bytes()
            for name in ("space.json", "conditions.json", "decisions.csv")
            for path in (folder / "mlartifacts").rglob(name)
        }

        def read(given: tuple[int, Any, list[tuple[str, str, Any]]]) -> None:
            number, data, changes = given
            (folder / "mlflow.db").write_bytes(whole)
            for path, content in files.items():
                path.write_bytes(content)
            if data is not None:
                list(files)[number].write_bytes(data)
            _tamper(folder / "mlflow.db", changes)
            study = read_study(run, tracking_uri=uri)
            assert json.dumps(report_facts(study))
            assert report_page(study).encode("utf-8", "surrogatepass")

        contents = [
            (i, tables(text.decode()) if path.suffix == ".csv" else json_files(text))
            for i, (path, text) in enumerate(files.items())
        ]
        altered_files = st.one_of(*(st.tuples(st.just(i), data, st.just([])) for i, data in contents))
        yield Fuzzed(altered_files | st.tuples(st.just(0), st.none(), _database_changes()), read)


# Optuna's storages.


def _optuna_journal(path: Path) -> bytes:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with quiet_optuna():
        tune(
            lambda config: config["lr"] * config["depth"],
            SPACE,
            4,
            strategy="random",
            storage=str(path),
            name="study",
            recorder=r.NullRecorder(),
        )
        study = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(str(path))))
        trial = study.ask(SPACE)  # and one that a process leaves behind
        trial.set_user_attr("metatuner:owner", f"{socket.gethostname()}/1/2")
    return path.read_bytes()


@_reader("Optuna journal")
def _(folder: Path) -> Iterator[Fuzzed]:
    whole = _optuna_journal(folder / "whole.journal")
    lines: list[Any] = [json.loads(line) for line in whole.splitlines()]

    @st.composite
    def journals(draw: st.DrawFn) -> bytes:
        if draw(st.integers(0, 3)) == 0:
            return draw(damaged(whole))
        changed = list(lines)
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(changed) - 1))
            changed[at] = draw(altered(changed[at]))
        return b"".join(as_json(line) + b"\n" for line in changed)

    def read(data: bytes) -> None:
        path = str(folder / "study.journal")
        Path(path).write_bytes(data)
        with contextlib.suppress(MetatunerError):
            study = optuna_study.load(path, "study")
            completion, projection = Completion((), None), Projection("0" * 32, draw=False)
            for record in optuna_study.records(study):
                for each in completion.complete(record):
                    projection.take(each)
        with contextlib.suppress(MetatunerError), quiet_optuna():
            past = optuna_study.load(path, "study")
            tune(lambda config: config["lr"], SPACE, 2, past=[past], units=1, recorder=r.NullRecorder())
        with quiet_optuna():
            tune(
                lambda config: config["lr"],
                SPACE,
                6,
                strategy="random",
                timeout=0.3,  # a trial that seems to run elsewhere may be waited for
                storage=path,
                name="study",
                recorder=r.NullRecorder(),
            )

    yield Fuzzed(journals(), read)


# Search spaces and configurations.

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


@_reader("search space")
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
        lambda space, names, value: _put(space, names, value),
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


def _put(space: Mapping[Any, Any], names: tuple[str, ...], value: Any) -> Any:
    return value if not names else {**space, names[0]: _put(space.get(names[0], {}), names[1:], value)}


@_reader("configurations: given and known")
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


# States and checkpoints.


def _schedule() -> tuple[AdaptiveSchedule, torch.nn.Linear]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    return AdaptiveSchedule(optimizer, 12, _default_policy(), ("lr", "momentum"), model=model, decide_every=4), model


@functools.cache
def _default_policy() -> Policy:
    return Policy.load("schedule-default")


def _train(schedule: AdaptiveSchedule, model: torch.nn.Linear, steps: int) -> None:
    for _ in range(steps):
        loss = (model(torch.ones(3, 2)) - 3.0).square().mean() + 0.1
        schedule._optimizer.zero_grad()
        loss.backward()
        schedule._optimizer.step()
        schedule.step(loss)
    schedule.validate(1.0)


def _saved() -> dict[str, Any]:
    schedule, model = _schedule()
    _train(schedule, model, 5)
    state = schedule.state_dict()
    schedule.close()
    return state


@_reader("schedule: saved state")
def _(folder: Path) -> Iterator[Fuzzed]:
    whole = _saved()
    tensors = [
        torch.zeros(0),
        torch.zeros(3),
        torch.full((1,), float("nan")),
        torch.ones(1, 2),
        torch.ones(1, dtype=torch.int64),
        np.ones(2),
    ]

    def read(state: Any) -> None:
        schedule, model = _schedule()
        try:
            schedule.load_state_dict(state)
            _train(schedule, model, 7)
            assert all(np.isfinite(value) for value in schedule.values.values())
        finally:
            schedule._hooks.remove()

    places = [
        ("steps",),
        ("controller", "_offset"),
        ("controller", "_val_best"),
        ("remembered",),
        ("guard", "best"),
        ("meter", "sums", "mean"),
        ("meter", "sums", "x"),
        ("meter", "counts", "losses"),
        ("rollback", "weights"),
        ("horizon", "decisions"),
        ("observed",),
    ]
    exchanged = st.builds(
        lambda names, value: _put(whole, names, value), st.sampled_from(places), st.sampled_from(tensors) | odd_values
    )
    yield Fuzzed(altered(whole, raw=False) | exchanged, read)


@_reader("schedule: checkpoint file of a callback")
def _(folder: Path) -> Iterator[Fuzzed]:
    write_state(_saved(), folder / "state.safetensors")
    whole = (folder / "state.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]

    def with_state(state: bytes) -> bytes:
        text = as_json({**header, "__metadata__": {"state": state.decode("utf-8", "replace")}})
        return struct.pack("<Q", len(text)) + text + body

    def read(data: bytes) -> None:
        (folder / "state.safetensors").write_bytes(data)
        schedule, model = _schedule()
        try:
            schedule.load_state_dict(read_state(folder / "state.safetensors"))
            _train(schedule, model, 7)
        finally:
            schedule._hooks.remove()

    yield Fuzzed(json_files(header["__metadata__"]["state"].encode()).map(with_state) | tensor_files(whole), read)


class _StoppedError(Exception):
    """Ends a run early."""


class _StopAtCard:
    """Ends a run once its policy is saved: its checkpoint lies there still."""

    def record(self, record: r.Record, /) -> None:
        if isinstance(record, r.Artifact):
            raise _StoppedError


@_reader("meta-training: checkpoint of a schedule's")
def _(folder: Path) -> Iterator[Fuzzed]:
    settings = MetaTrainingSettings(
        steps=15, decisions=(3, 3), horizon=(6, 12), groups=1, group_size=5, copies=5, seed=2
    )

    def train() -> None:
        with contextlib.suppress(_StoppedError):
            train_schedule_policy(settings, folder, evaluation_groups=0, recorder=_StopAtCard())

    train()
    whole = (folder / "checkpoint.safetensors").read_bytes()

    def read(data: bytes) -> None:
        (folder / "checkpoint.safetensors").write_bytes(data)
        train()

    yield Fuzzed(tensor_files(whole), read)


@_reader("meta-training: checkpoint of a search's")
def _(folder: Path) -> Iterator[Fuzzed]:
    settings = SearchTrainingSettings(steps=100, searches=1, epochs=1, width=4, seed=2)
    learn_to_search(settings, folder, recorder=r.NullRecorder())
    whole = (folder / "checkpoint.safetensors").read_bytes()

    def read(data: bytes) -> None:
        (folder / "checkpoint.safetensors").write_bytes(data)
        actor = learn_to_search(settings, folder, recorder=r.NullRecorder())
        _use_search_policy(SearchPolicy("x", actor))

    yield Fuzzed(tensor_files(whole), read)


# The command line, and addresses.


@_reader("command line")
def _(folder: Path) -> Iterator[Fuzzed]:
    os.chdir(folder)
    export_policy("search-default", "policy")
    Path("space.py").write_text(f"from optuna.distributions import *\nspace = {SPACE!r}\n")

    def read(given: tuple[list[str], bytes, bytes]) -> None:
        arguments, table, card = given
        Path("past.csv").write_bytes(table)
        Path("policy/card.json").write_bytes(card)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main(arguments)
            except SystemExit as ended:  # argparse
                code = ended.code
        assert code in (0, 1, 2)
        if code == 2:
            raise MetatunerError(said.getvalue())

    text = st.sampled_from([each for each in TEXTS if "\x00" not in each]) | st.text(
        st.characters(exclude_characters="\x00"), max_size=6
    )
    verbs = st.sampled_from(
        [
            ["prior", "show", "table:past.csv"],
            ["prior", "show", "table:past.csv", "space.py:space"],
            ["prior", "show", "table:past.csv", "--json"],
            ["policies", "show", "policy"],
            ["policies", "export", "policy", "out"],
            ["report"],
            ["report", "--output"],
            ["prior", "show"],
            ["policies", "show"],
            ["policies", "export"],
            ["doctor", "--study"],
            ["doctor", "--storage", "past.csv", "--study"],
            ["sync"],
            ["tune"],
            ["compare"],
            ["transfer", "--prior"],
            ["prior", "export"],
            ["learn"],
            ["--version"],
        ]
    )
    arguments = st.builds(lambda verb, more: [*verb, *more], verbs, st.lists(text, max_size=2))
    yield Fuzzed(st.tuples(arguments, tables(TABLE), json_files(Path("policy/card.json").read_bytes())), read)


@_reader("address of a store")
def _(folder: Path) -> Iterator[Fuzzed]:
    def read(uri: str) -> None:
        assert not has_credentials(without_credentials(uri))
        one_line(ValueError(uri), hide=uri)
        with contextlib.suppress(MetatunerError):
            store = resolve(uri)
            assert "p4ssw0rd" not in store.shown
            if store.kind is Kind.SERVER:
                without_userinfo(store.uri)
        try:
            optuna_study.load(uri, "x")
        except MetatunerError as error:
            assert "p4ssw0rd" not in str(error)
            raise

    schemes = st.sampled_from(["http://", "https://", "postgresql://", "mysql+x://", "HTTP://", "://"])
    people = st.sampled_from(["", "u:p4ssw0rd@", "p4ssw0rd@", "u:p4ssw0rd@@", ":p4ssw0rd@", "a@b:p4ssw0rd@"])
    hosts = st.sampled_from(["", "[", "[::1]", "host", "host:x", "host:99999", "ü"])
    rest = st.sampled_from([*TEXTS, "?password=p4ssw0rd", "?a=1&token=p4ssw0rd#x", "/a?x=p:/b@c"]) | st.text(max_size=6)
    whole = st.builds(lambda *parts: "".join(parts), schemes, people, hosts, rest)
    yield Fuzzed(
        whole
        | st.builds(str.__add__, st.sampled_from(["sqlite:", "sqlite:///", "file:", "databricks", "", "//"]), rest),
        read,
    )


@functools.cache
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(folder) / "mlflow.db"
        ensure_database(database, Path(folder) / "mlartifacts")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")  # so that the file alone is the database
        return database.read_bytes()


@contextlib.contextmanager
def _store(folder: Path) -> Iterator[str]:
    """An empty store's URI."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    (folder / "mlflow.db").write_bytes(_empty_database())
    before = {name: os.environ.get(name) for name in ("METATUNER_JOURNAL",)}
    os.environ["METATUNER_JOURNAL"] = str(folder / "journal")
    try:
        yield f"sqlite:///{folder}/mlflow.db"
    finally:
        for name in [name for name in SqlAlchemyStore._engine_map if str(folder) in name]:
            SqlAlchemyStore._engine_map.pop(name).dispose()
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
