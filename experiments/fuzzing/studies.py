"""Readers of journals, and of studies in MLflow."""

from __future__ import annotations

import itertools
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fuzzed import Fuzzed, reader
from hypothesis import strategies as st
from metatuner.tracking import journal
from metatuner.tracking.codec import encode
from metatuner.tracking.completion import Completion, left_open
from metatuner.tracking.recorded_study import read_study
from metatuner.tracking.report import report_facts, report_page
from metatuner.tracking.shipper import Shipper
from metatuner.tracking.store import resolve
from metatuner.tracking.study_folder import StudyFolder
from metatuner.tracking.sync import sync
from metatuner.tracking.transport import Transport
from mutations import altered, as_json, damaged, json_files, odd_values, tables
from stores import database_changes, empty_store, record, study_records, tamper


def _lines(lines: list[bytes]) -> bytes:
    return b"".join(b"%08x %b\n" % (zlib.crc32(line), line) for line in lines)


@st.composite
def _journals(draw: st.DrawFn) -> bytes:
    """Whole lines with other records in them, in another order; or damage that the checksums tell."""
    lines: list[Any] = [json.loads(encode(record)) for record in study_records()]
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


@reader("journal: read and taken up again")
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


@reader("journal: sent to MLflow")
def _(folder: Path) -> Iterator[Fuzzed]:
    with empty_store(folder) as uri:
        numbers = itertools.count()

        def read(data: bytes) -> None:
            study = _study_folder(folder / "root", data)
            target = {"study": f"{next(numbers):032x}", "tracking_uri": uri, "experiment": "x", "plots": False}
            (study.path / "target.json").write_text(json.dumps(target))
            (done,) = sync(folder / "root")
            assert done.remaining == 0, done.problem

        yield Fuzzed(_journals(), read)


@reader("journal: folder")
def _(folder: Path) -> Iterator[Fuzzed]:
    """Where a study goes and how far it is sent, and what lies in place of its files."""
    whole = json.dumps(
        {"study": "0" * 32, "tracking_uri": "http://127.0.0.1:9", "experiment": "x", "plots": True}
    ).encode()
    lines = _lines([encode(record).encode() for record in study_records()])

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


@reader("study in MLflow: report")
def _(folder: Path) -> Iterator[Fuzzed]:
    with empty_store(folder) as uri:
        run = record(uri)
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
            tamper(folder / "mlflow.db", changes)
            study = read_study(run, tracking_uri=uri)
            assert json.dumps(report_facts(study))
            assert report_page(study).encode("utf-8", "surrogatepass")

        contents = [
            (i, tables(text.decode()) if path.suffix == ".csv" else json_files(text))
            for i, (path, text) in enumerate(files.items())
        ]
        altered_files = st.one_of(*(st.tuples(st.just(i), data, st.just([])) for i, data in contents))
        yield Fuzzed(altered_files | st.tuples(st.just(0), st.none(), database_changes()), read)
