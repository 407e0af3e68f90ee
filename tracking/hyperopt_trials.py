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
from ..envs.hyperopt_documents import ended_trials
from ..envs.records import Record, StudyStarted, TrialFinished, TrialStarted, TrialState

if TYPE_CHECKING:
    from hyperopt import Trials


def records(trials: Trials, name: str | None = None) -> Iterator[Record]:
    """The records of trials, those that have ended.

    Args:
        trials: What `fmin` was given and has filled.
        name: The study's name; None names it after the moment when it began.

    Raises:
        StoreError: There is no trial that has ended.
    """
    ended = ended_trials(trials)
    if not ended:
        raise StoreError("the trials are empty: give the Trials object that fmin(..., trials=...) has filled")
    # Trials that the user put in, with values known before, have no times.
    began = min((_ms(trial["book_time"]) for trial in ended if trial["book_time"]), default=0)
    title = name or f"hyperopt {datetime.fromtimestamp(began / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    yield StudyStarted(name=title, key=f"{title} {began}", metric="loss", time_ms=began)
    for trial in ended:
        yield from _trial(trial, began)


def _trial(trial: Mapping[str, Any], began: int) -> Iterator[Record]:
    from hyperopt import JOB_STATE_DONE

    number, started = int(trial["tid"]), _ms(trial["book_time"]) if trial["book_time"] else began
    ended = _ms(trial["refresh_time"]) if trial["refresh_time"] else started
    params = {label: values[0] for label, values in trial["misc"]["vals"].items() if len(values)}
    yield TrialStarted(trial=number, name="hyperopt", params=params, time_ms=started)
    told = trial["result"].get("loss")
    loss = math.nan if told is None else float(told)
    worked = trial["state"] == JOB_STATE_DONE and trial["result"].get("status") == "ok" and math.isfinite(loss)
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
