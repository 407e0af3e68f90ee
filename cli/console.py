"""How verbs talk: tables, progress that fits a terminal or a pipe, JSON for machines."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import logging
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any


def say(text: str = "") -> None:
    """One line for a person."""
    print(text, flush=True)


def say_aside(text: str) -> None:
    """One line for a person, beside the result."""
    print(text, file=sys.stderr, flush=True)


def say_json(value: Any) -> None:
    """The result for a machine: the only thing on standard output. What is not finite, JSON has as null."""
    _JSON.append(json.dumps(_plain(value), indent=2, allow_nan=False))


@contextlib.contextmanager
def json_alone() -> Iterator[None]:
    """While it is entered, what anybody prints, child processes too, goes to standard error; then come the results."""
    try:
        with contextlib.redirect_stdout(sys.stderr), _stdout_to_stderr():
            yield
    finally:
        results = "\n".join(_JSON)
        _JSON.clear()
    if results:
        print(results, flush=True)


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """What is written to the process's standard output, by whatever way, goes to its standard error."""
    _flush()
    try:
        kept = os.dup(1)
    except OSError:  # there is none
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    """Sends off what Python, and libraries in C, have kept of standard output so far."""
    for stream in (sys.stdout, sys.__stdout__):
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):  # it has no room, or is closed
                stream.flush()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).fflush(None)


_JSON: list[str] = []
"""Results that are still to be printed."""


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def shown_log(name: str) -> Iterator[None]:
    """While it is entered, what a logger informs of goes to standard error, as plain lines."""
    logger, handler = logging.getLogger(name), logging.StreamHandler(sys.stderr)
    before, passed_on = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        logger.propagate = passed_on


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they need to be; the first is left-aligned, the others right-aligned."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = []
    for row in [header, ["-" * width for width in widths], *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say where records lie."""
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="MLflow store: sqlite:///FILE or http://HOST:PORT (default: MLFLOW_TRACKING_URI, else ./mlflow.db)",
    )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """The option that asks for JSON."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON and nothing else")


class ProgressBar:
    """A bar on a terminal, a line every tenth in a pipe, on standard error.

    Args:
        total: How much there is to do.
        what: What is being done.
        unit: What is counted.
        silent: Show nothing.
    """

    def __init__(self, total: int, what: str, unit: str, *, silent: bool = False) -> None:
        self._total, self._what, self._unit = total, what, unit
        self._silent, self._tenth = silent, 0
        self._bar = None
        if sys.stderr.isatty() and not silent:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=what, unit=unit, dynamic_ncols=True)

    def at(self, done: int, note: str = "") -> None:
        """So much is done."""
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.set_postfix_str(note)
        elif not self._silent and done * 10 // self._total > self._tenth:
            self._tenth = done * 10 // self._total
            print(f"{self._what}: {done:,} of {self._total:,} {self._unit} {note}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Done."""
        if self._bar is not None:
            self._bar.close()
