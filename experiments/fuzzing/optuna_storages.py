"""The reader of Optuna's journals."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from fuzzed import SPACE, Fuzzed, reader
from hypothesis import strategies as st
from metatuner.agent.quiet import quiet_optuna
from metatuner.agent.tune import tune
from metatuner.envs import records as r
from metatuner.envs.errors import MetatunerError
from metatuner.tracking import optuna_study
from metatuner.tracking.completion import Completion
from metatuner.tracking.projection import Projection
from mutations import altered, as_json, damaged


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


@reader("Optuna journal")
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
