from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metatuner.envs.records import (
    Artifact,
    Decision,
    Description,
    Metrics,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
    TrialState,
)
from metatuner.tracking import journal
from metatuner.tracking.codec import decode, encode
from metatuner.tracking.journal import JournalWriter

RECORDS: list[Record] = [
    StudyStarted(name="sühne\n", params={"budget": "3"}, tags={"a": "b"}, key="k", time_ms=1),
    Description(markdown="# Ü\n\x00\u2028"),
    TrialStarted(trial=0, name="t", params={"lr": "0.1"}),
    Metrics(trial=0, step=3, values={"val/loss": 0.1, "inf": math.inf}),
    Decision(trial=0, number=1, step=3, signals={"a": 0.5}, adjustments={"lr": -1.0}, values={"lr": 1e-9}, reward=0.25),
    Artifact(trial=None, path="a/b.txt", text="text"),
    TrialFinished(trial=0, state=TrialState.PRUNED, message="enough"),
    StudyFinished(),
]


def written(path: Path, records: list[Record]) -> None:
    writer = JournalWriter(path)
    for record in records:
        writer.append(record)
    writer.close()


def records_of(path: Path) -> list[Record]:
    return [entry.record for entry in journal.read(path)]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_comes_back_as_it_was(record: Record) -> None:
    assert decode(encode(record)) == record


def test_values_of_other_kinds_come_back_as_plain_ones() -> None:
    started = decode(encode(TrialStarted(trial=0, name="t", params={"layers": (8, 8), "path": Path("a")})))
    assert started.params == {"layers": "(8, 8)", "path": "a"}  # type: ignore[attr-defined]
    measured = decode(encode(Metrics(trial=0, step=np.int64(2), values={"a": np.float32(0.5), "b": math.nan})))  # type: ignore[dict-item, arg-type]
    assert (measured.step, measured.values["a"]) == (2, 0.5)  # type: ignore[attr-defined]
    assert math.isnan(measured.values["b"])  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "line", ["", "{}", "[]", '{"kind": "Bomb"}', '{"kind": "Metrics"}', '{"kind": "Metrics", "x": 1}']
)
def test_what_is_no_record_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode(line)


@given(st.data())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cut_anywhere_it_holds_all_that_was_whole_and_goes_on(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    written(path, RECORDS)
    ends = [entry.end for entry in journal.read(path)]
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    whole = sum(end <= cut for end in ends)
    assert records_of(path) == RECORDS[:whole]
    written(path, RECORDS[whole:])
    assert records_of(path) == RECORDS
    assert [entry.record for entry in journal.read(path, ends[2])] == RECORDS[3:]


def test_damage_inside_ends_the_reading_there(tmp_path: Path) -> None:
    written(tmp_path / "j", RECORDS)
    ends = [entry.end for entry in journal.read(tmp_path / "j")]
    data = bytearray((tmp_path / "j").read_bytes())
    data[ends[3] + 20] ^= 1
    (tmp_path / "j").write_bytes(data)
    assert records_of(tmp_path / "j") == RECORDS[:4]


def test_a_kind_of_a_later_version_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "j", RECORDS[:1])
    text = b'{"kind":"Hologram"}'
    with (tmp_path / "j").open("ab") as file:
        file.write(b"%08x %b\n" % (journal.zlib.crc32(text), text))
    written(tmp_path / "j", RECORDS[1:2])
    assert records_of(tmp_path / "j") == RECORDS[:2]
    assert "passed over" in caplog.text


SMALL_DISK = """
import resource, signal, sys
from pathlib import Path
from metatuner.envs.records import Metrics
from metatuner.tracking.journal import JournalWriter, read
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
path = Path(sys.argv[1])
writer = JournalWriter(path)
for step in range(50):
    writer.append(Metrics(trial=None, step=step, values={"a": 1.0}))
print(writer.unwritten, len(list(read(path))))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
writer.append(Metrics(trial=None, step=50, values={"a": 1.0}))
writer.close()
print(writer.unwritten, [entry.record.step for entry in read(path)] == list(range(51)))
"""


def test_what_the_disk_has_no_room_for_waits_until_it_has(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", SMALL_DISK, str(tmp_path / "j")], capture_output=True, text=True, timeout=300, check=True
    )
    first, second = answer.stdout.splitlines()
    unwritten, whole = map(int, first.split())
    assert unwritten + whole == 50
    assert 0 < whole < 50
    assert second == "0 True"
    assert answer.stderr.count("cannot be written now") == 1
