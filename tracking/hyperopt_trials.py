"""Hyperopt's trials as records.

Values are those that hyperopt keeps: of a choice, which one of its options it was, counted from 0. The same trials give
the same records whenever they are read, so that recording them twice is recording them once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..envs.errors import StoreError
from ..envs.records import Record, StudyStarted, TrialFinished, TrialStarted, TrialState

if TYPE_CHECKING:
    from hyperopt import Trials

_DONE, _FAILED = 2, 3  # hyperopt.JOB_STATE_DONE, JOB_STATE_ERROR


def records(trials: Trials, name: str | None = None) -> Iterator[Record]:
    """The records of trials, those that have ended.

    Args:
        trials: What `fmin` was given and has filled.
        name: The study's name; None names it after the moment when it began.

    Raises:
        StoreError: There is no trial that has ended.
    """
    ended = [trial for trial in trials.trials if trial["state"] in (_DONE, _FAILED)]
    if not ended:
        raise StoreError("the trials are empty: give the Trials object that fmin(..., trials=...) has filled")
    began = min(_ms(trial["book_time"]) for trial in ended)
    title = name or f"hyperopt {datetime.fromtimestamp(began / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    yield StudyStarted(name=title, key=f"{title} {began}", metric="loss", time_ms=began)
    for trial in ended:
        yield from _trial(trial)


def _trial(trial: Mapping[str, Any]) -> Iterator[Record]:
    number, started, ended = int(trial["tid"]), _ms(trial["book_time"]), _ms(trial["refresh_time"])
    params = {label: values[0] for label, values in trial["misc"]["vals"].items() if len(values)}
    yield TrialStarted(trial=number, name="hyperopt", params=params, time_ms=started)
    loss = float(trial["result"].get("loss", math.nan))
    worked = trial["state"] == _DONE and trial["result"].get("status") == "ok" and math.isfinite(loss)
    yield TrialFinished(
        trial=number,
        state=TrialState.FINISHED if worked else TrialState.FAILED,
        message="" if worked else _why(trial),
        value=loss if worked else None,
        costs={"resource/wall_s": (ended - started) / 1000},
        time_ms=ended,
    )


def _why(trial: Mapping[str, Any]) -> str:
    error = trial["misc"].get("error")
    return ": ".join(map(str, error)) if error else f"status {trial['result'].get('status')!r}"


def _ms(moment: datetime) -> int:
    # Hyperopt's times are UTC, and do not say so.
    return int(moment.replace(tzinfo=UTC).timestamp() * 1000)
