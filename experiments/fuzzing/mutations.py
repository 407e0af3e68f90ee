"""Damage, as hypothesis strategies: whole inputs of every kind, altered where a reader may trip."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

DEEP = 20_000

TOKENS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800", b"../", b"\\", b"NaN", b"-Infinity", b"1e999",
    b"9" * 5000, b'"', b"'", b",", b":", b"{", b"}", b"[", b"]", b"[" * DEEP, b'{"a":' * DEEP, b"\n", b"\r", b"\r\n",
    b"null", b"true", b"-", b"\x80\x04", b"PK\x03\x04", b"%", b"=1+1",
)  # fmt: skip
"""What is put into files as it is."""

TEXTS = (
    "", " ", "x", "nan", "inf", "-1", "1.5", "1e999", "9" * 400, "9" * 5000, "\x00", "\ud800", "ü\u2028\u202e",
    "a" * 10_000, "../../secret", "/etc/passwd", "C:\\secret", "..", ".", "a/b", "a\nb", "a'b", 'a"b', "`", "%s{0}",
    "<script>", "=cmd", "\u0661",
)  # fmt: skip
"""Words in places where no such word is expected."""

NUMBERS = (0, -1, 1, 2, 4096, 4097, 2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 0.5, 1e308, 5e-324, math.nan,
           math.inf, -math.inf)  # fmt: skip


class Raw(str):
    """JSON as it stands, valid or not."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object, whose keys may stand twice."""


RAW = (
    Raw("[" * DEEP + "]" * DEEP),
    Raw("[" * DEEP),
    Raw('{"a":' * DEEP),
    Raw("1e999"),
    Raw("9" * 5000),
    Raw("01"),
    Raw(""),
)

plain = st.one_of(
    st.sampled_from([None, True, False, *NUMBERS, *TEXTS]), st.text(max_size=5), st.integers(), st.floats()
)
"""A value that is neither a list nor a dict."""

odd_values = st.one_of(
    plain,
    st.sampled_from([[], {}, [[]], [None], {"": None}, {"a": 1}, [0.0, 1.0], ["lr"], [-1], [2**62, 2**62]]),
    st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=4,
    ),
)
"""Whatever JSON can hold."""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A file with bits flipped, parts cut out, put in, exchanged or written twice."""
    data = whole
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(at + draw(st.sampled_from([1, 2, 8, 100, len(data)])), len(data))
        match draw(st.sampled_from(["flip", "cut", "remove", "insert", "exchange", "repeat"])):
            case "flip" if at < len(data):
                data = data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
            case "cut":
                data = data[:at]
            case "remove":
                data = data[:at] + data[until:]
            case "insert":
                data = data[:at] + draw(st.sampled_from(TOKENS) | st.binary(max_size=8)) + data[at:]
            case "exchange":
                data = data[:at] + draw(st.sampled_from(TOKENS) | st.binary(max_size=8)) + data[until:]
            case "repeat" if len(data) < 100_000:
                data = data[:until] + data[at:]
    return data


@st.composite
def altered(draw: st.DrawFn, value: Any, *, raw: bool = True) -> Any:
    """A value of lists and dicts with entries left out, renamed, exchanged, wrapped or, as text, written twice.

    Args:
        draw: Hypothesis's.
        value: The whole value. Dicts become `Pairs` where `raw` holds.
        raw: Whether it becomes JSON, so that it may hold what no Python object can be.
    """
    for _ in range(draw(st.integers(1, 3))):
        places = [[], *_places(value)]
        # Half of the time near the top: there are few such places, and more hangs on them.
        near = [place for place in places if len(place) <= 1]
        value = _changed(draw, value, draw(st.sampled_from(near) | st.sampled_from(places)), raw)
    return value


def _places(value: Any) -> Iterator[list[Any]]:
    if isinstance(value, Pairs):
        inner: Any = enumerate(each for _, each in value)
    elif isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value[:50])
    else:
        return
    for key, each in inner:
        yield [key]
        yield from ([key, *place] for place in _places(each))


def _changed(draw: st.DrawFn, value: Any, place: Sequence[Any], raw: bool) -> Any:
    if len(place) > 1:
        inner = value[place[0]][1] if isinstance(value, Pairs) else value[place[0]]
        return _with(value, place[0], _changed(draw, inner, place[1:], raw))
    new = draw(odd_values | st.sampled_from(RAW) if raw else odd_values)
    if not place:
        return draw(st.sampled_from([new, [value], value, value, value]))
    key = place[0]
    inner = value[key][1] if isinstance(value, Pairs) else value[key]
    match draw(st.sampled_from(["exchange", "exchange", "remove", "rename", "twice", "wrap", "nudge"])):
        case "exchange":
            return _with(value, key, new)
        case "remove":
            items = [each for i, each in _items(value) if i != key]
            return _like(value, items)
        case "rename" if not isinstance(value, list) or isinstance(value, Pairs):
            name = draw(st.sampled_from(TEXTS) | st.text(max_size=3))
            return _like(value, [(name, inner) if i == key else each for i, each in _items(value)])
        case "twice" if raw and isinstance(value, dict | Pairs):
            pairs = Pairs(value.items() if isinstance(value, dict) else value)
            name = key if isinstance(value, dict) else value[key][0]
            return Pairs([*pairs, (name, new)])
        case "wrap":
            return _with(value, key, [inner])
        case "nudge" if isinstance(inner, int | float) and not isinstance(inner, bool) and abs(inner) < 2**60:
            return _with(
                value,
                key,
                draw(st.sampled_from([-inner, inner + 1, inner - 1, inner * 1000, float(inner), str(inner)])),
            )
    return _with(value, key, new)


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Its entries by their place: a pair of a dict, an element of a list."""
    if isinstance(value, dict):
        return [(key, (key, each)) for key, each in value.items()]
    return list(enumerate(value))


def _like(value: Any, entries: list[Any]) -> Any:
    return dict(entries) if isinstance(value, dict) else type(value)(entries)


def _with(value: Any, key: Any, new: Any) -> Any:
    if isinstance(value, Pairs):
        return Pairs([(name, new if i == key else each) for i, (name, each) in enumerate(value)])
    if isinstance(value, dict):
        return {**value, key: new}
    return [new if i == key else each for i, each in enumerate(value)]


def as_json(value: Any) -> bytes:
    """As JSON; halves of characters are escaped."""
    return _text(value).encode("utf-8", "surrogatepass")


def _text(value: Any) -> str:
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict | Pairs):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ",".join(f"{json.dumps(name)}:{_text(each)}" for name, each in pairs) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_text, value)) + "]"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**70:
        return "1" + "0" * 400
    return json.dumps(value)


def json_files(whole: bytes) -> st.SearchStrategy[bytes]:
    """A JSON file, altered in its structure, damaged, or another file altogether."""
    return st.one_of(
        altered(json.loads(whole)).map(as_json),
        altered(json.loads(whole)).map(as_json),
        damaged(whole),
        st.sampled_from(RAW).map(as_json),
        st.binary(max_size=40),
    )


@st.composite
def _reheaded(draw: st.DrawFn, whole: bytes) -> bytes:
    """A safetensors file with another header: 8 bytes of length, JSON, then numbers."""
    (length,) = struct.unpack("<Q", whole[:8])
    header, body = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    for _ in range(draw(st.integers(1, 2))):
        name = draw(st.sampled_from(sorted(header)))
        if not isinstance(header[name], dict) or name == "__metadata__":
            continue
        match draw(st.sampled_from(["shape", "reshape", "rename", "type", "offsets", "values"])):
            case "reshape":  # as many numbers in another order
                shape = header[name]["shape"]
                other = draw(st.sampled_from([shape[::-1], [*shape, 1], [math.prod(shape)]]))
                header = {**header, name: {**header[name], "shape": other}}
            case "rename":
                new = draw(st.sampled_from(["x", f"{name}.x", name.rpartition("/")[0] + "/99/x", name.upper()]))
                header = {(new if key == name else key): each for key, each in header.items()}
            case "shape":
                shapes = [
                    [],
                    [0],
                    [2**40],
                    [2**62, 4],
                    [0, 2**63],
                    [1] * 70,
                    [-1],
                    [1.5],
                    [10**30],
                    "x",
                    None,
                    [25_000_000_000],
                ]
                header = {**header, name: {**header[name], "shape": draw(st.sampled_from(shapes))}}
            case "type":
                kinds = ["F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "F4", "X", None, 3]
                header = {**header, name: {**header[name], "dtype": draw(st.sampled_from(kinds))}}
            case "offsets":
                offsets = [[0, 0], [0, 10**11], [10**11, 0], [-4, 0], [0, 2**64], [1, 2], None, [0]]
                header = {**header, name: {**header[name], "data_offsets": draw(st.sampled_from(offsets))}}
            case "values" if len(body) >= 8:
                at = 4 * draw(st.integers(0, len(body) // 4 - 2))
                value = draw(st.sampled_from([math.nan, math.inf, -math.inf, 3e38, 1e-40]))
                body = body[:at] + struct.pack("<f", value) + body[at + 4 :]
    told = header.get("__metadata__", {})
    if told and draw(st.integers(0, 3)) == 0:
        name = draw(st.sampled_from(sorted(told)))
        with contextlib.suppress(ValueError):
            told = {**told, name: as_json(draw(altered(json.loads(told[name])))).decode("utf-8", "replace")}
        header = {**header, "__metadata__": told}
    text = as_json(draw(altered(header)) if draw(st.integers(0, 3)) == 0 else header)
    if draw(st.booleans()):
        return struct.pack("<Q", len(text)) + text + body
    length = draw(st.sampled_from([len(text)] * 6 + [0, len(text) - 1, len(text) + 1, 10**8, 10**11, 2**64 - 1]))
    body = draw(st.sampled_from([body, body, body, body[:-4], body + b"\0" * 4, b""]))
    return struct.pack("<Q", length) + text + body


def tensor_files(whole: bytes) -> st.SearchStrategy[bytes]:
    """A safetensors file with another header, other numbers, damaged, or another file altogether."""
    return st.one_of(_reheaded(whole), _reheaded(whole), damaged(whole), st.binary(max_size=40))


@st.composite
def _recelled(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    rows = [list(row) for row in rows]
    for _ in range(draw(st.integers(1, 5))):
        row = draw(st.sampled_from([0, *range(len(rows))]))
        column = draw(st.integers(0, max(len(rows[row]) - 1, 0)))
        match draw(st.sampled_from(["cell", "cell", "remove", "column", "row", "more"])):
            case "cell" if rows[row]:
                cells = [
                    "nan",
                    "inf",
                    "1e308",
                    "-1e308",
                    "1e-320",
                    "finished",
                    "pruned",
                    "failed",
                    "task",
                    "params.lr",
                    "value",
                ]
                rows[row][column] = draw(st.sampled_from([*TEXTS, *cells, *rows[0]]) | st.text(max_size=4))
            case "remove":
                rows[row] = rows[row][:column] + rows[row][column + 1 :]
            case "column":
                rows = [each[:column] + each[column + 1 :] for each in rows]
            case "row":
                rows.append(rows[row])
            case "more":
                rows[row] = [*rows[row], draw(st.sampled_from(TEXTS))]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    encoding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"]))
    return text.getvalue().encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")


def tables(whole: str) -> st.SearchStrategy[bytes]:
    """A CSV file with other cells, damaged, or another file altogether."""
    rows = list(csv.reader(io.StringIO(whole)))
    return st.one_of(_recelled(rows), _recelled(rows), damaged(whole.encode()), st.binary(max_size=40))
