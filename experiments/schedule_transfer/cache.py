"""Outcomes on disk, so that a run that was ended goes on, and a new policy computes nobody's runs but its own."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from rivals import Outcome


class Cache:
    """A file of outcomes, a line of JSON each, found by all that the outcome depends on.

    Losses are kept to six significant digits. Several processes may write to one file.

    Args:
        path: Made at the first outcome where it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._found = path, {}
        if path.is_file():
            entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._found = {entry["key"]: Outcome(np.array(entry["val"]), np.array(entry["test"])) for entry in entries}

    def get(self, settings: Mapping[str, object]) -> Outcome | None:
        """The outcome of these settings, where it is there."""
        return self._found.get(_key(settings))

    def compute(self, name: str, settings: Mapping[str, object], run: Callable[[], Outcome]) -> Outcome:
        """The outcome of these settings, worked out where it is not there; `name` is for people."""
        if (found := self.get(settings)) is not None:
            return found
        began = time.perf_counter()
        outcome = run()
        seconds = time.perf_counter() - began
        losses = {part: [float(f"{loss:.6g}") for loss in getattr(outcome, part)] for part in ("val", "test")}
        entry = {"key": _key(settings), "name": name, **losses}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        print(f"{time.strftime('%H:%M:%S')}  {name}  {seconds:.0f} s", flush=True)
        # As whoever reads it later will find it.
        self._found[entry["key"]] = Outcome(np.array(losses["val"]), np.array(losses["test"]))
        return self._found[entry["key"]]


def _key(settings: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
