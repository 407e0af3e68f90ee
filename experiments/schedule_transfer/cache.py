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
    """A folder of small files, one an outcome, found by all that the outcome depends on.

    Args:
        folder: Made where it does not exist.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def get(self, name: str, settings: Mapping[str, object]) -> Outcome | None:
        """The outcome of these settings, where it is there."""
        path = self._path(name, settings)
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as arrays:
            return Outcome(arrays["val"], arrays["test"])

    def compute(self, name: str, settings: Mapping[str, object], run: Callable[[], Outcome]) -> Outcome:
        """The outcome of these settings, worked out where it is not there."""
        if (found := self.get(name, settings)) is not None:
            return found
        began = time.perf_counter()
        outcome = run()
        seconds = time.perf_counter() - began
        path = self._path(name, settings)
        # Under another name until it is whole: a reader never finds half a file.
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, val=outcome.val, test=outcome.test, seconds=seconds, settings=json.dumps(settings))
        unfinished.replace(path)
        print(f"{time.strftime('%H:%M:%S')}  {name}  {seconds:.0f} s", flush=True)
        return outcome

    def _path(self, name: str, settings: Mapping[str, object]) -> Path:
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        return self._folder / f"{name.replace(' ', '_')}-{key}.npz"
