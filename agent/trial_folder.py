"""A folder for what a training must not lose, such as checkpoints: whoever tries a trial again finds it there.

A trial that is cut off, by a kill or by Ctrl-C, is tried again from its beginning, perhaps by another worker. An
objective that can go on in the middle keeps what it needs for that in `trial_folder()`. One that yields a value for
each unit yields those of the units before again: a trial has the whole curve, however many tries it took.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from optuna.trial import Trial

from ..envs.errors import ConfigurationError
from .cut_off_trials import first_try

_current: ContextVar[Path | None] = ContextVar("trial_folder", default=None)


def trial_folder() -> Path:
    """The folder of the trial that runs, made unless it exists.

    It is kept for whoever tries the trial again, and removed when the trial ends. Where workers run on several
    machines, their folders must lie on a disk that they share (`tune(folder=...)`). A worker that was taken for dead
    may still write: write files whole, under another name, and rename them.

    Example:
        >>> import json
        >>> import metatuner as mt
        >>> from optuna.distributions import FloatDistribution
        >>> def train(config):
        ...     kept = mt.trial_folder() / "losses.json"
        ...     losses = json.loads(kept.read_text()) if kept.exists() else []
        ...     yield from losses
        ...     for epoch in range(len(losses) + 1, 4):
        ...         losses.append(config["x"] + 1 / epoch)
        ...         kept.with_suffix(".new").write_text(json.dumps(losses))
        ...         kept.with_suffix(".new").replace(kept)
        ...         yield losses[-1]
        >>> len(mt.tune(train, {"x": FloatDistribution(0, 1)}, budget=1, units=3).trials[0].intermediate_values)
        3

    Raises:
        ConfigurationError: Nobody runs a trial here.
        OSError: It cannot be made.
    """
    folder = _current.get()
    if folder is None:
        raise ConfigurationError("trial_folder() is for objectives while `tune` runs them: call it within one")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def within(folder: Path | None) -> Iterator[None]:
    """What runs in it is an objective with this folder."""
    token = _current.set(folder)
    try:
        yield
    finally:
        _current.reset(token)


class TrialFolders:
    """The folders of a study's trials. Several threads may use it.

    Args:
        root: Where they lie.
        key: The study's key.
    """

    def __init__(self, root: Path, key: str) -> None:
        self._root = root.absolute() / key  # an objective may change the working directory
        self._folders: dict[int, Path] = {}
        self._lock = threading.Lock()

    def begin(self, trial: Trial, first: int | None = None) -> Path:
        """A trial begins; returns its folder.

        Args:
            trial: The trial.
            first: The trial whose training it goes on with, in this process; None for a new training.
        """
        with self._lock:
            own = self._root / str(first_try(trial))
            return self._folders.setdefault(trial.number, own if first is None else self._folders.get(first, own))

    def of(self, trial: int) -> Path | None:
        """The folder of a trial that has begun; None of one that has not."""
        with self._lock:
            return self._folders.get(trial)

    def remove(self, trial: int) -> None:
        """Nobody needs the folder of a trial any more."""
        if (folder := self.of(trial)) is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def remove_all(self) -> None:
        """Nobody needs those of the study any more."""
        shutil.rmtree(self._root, ignore_errors=True)
