"""Readers of past tasks: tables, runs in MLflow, addresses."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from fuzzed import SPACE, Fuzzed, reader
from hypothesis import strategies as st
from metatuner.agent.policy_sampler import PolicySampler
from metatuner.agent.priors import prior_of
from metatuner.agent.quiet import quiet_optuna
from metatuner.envs.conditional_space import ConditionalSpace
from metatuner.envs.errors import MetatunerError
from metatuner.envs.prior import Prior
from metatuner.tracking.history import read_history
from metatuner.tracking.past_studies import past_studies, past_table
from metatuner.tracking.prior_contents import PriorContents
from metatuner.tracking.table_export import write_table
from metatuner.tracking.told_space import told_space
from metatuner.tracking.told_trials import ToldTrial
from metatuner.tracking.trial_table import read_table
from mutations import TEXTS, odd_values, tables
from stores import database_changes, empty_store, record, tamper

TABLE = "task,trial,step,state,value,lr,depth,kind\n" + "".join(
    f"{task},{i},{step},{'finished' * (step == '1')},{0.1 * i + len(step)},{10.0 ** -(i + 1)},{i + 1},{'ab'[i % 2]}\n"
    for task in ("digits", "wine")
    for i in range(5)
    for step in ("1", "2", "")
)


def use_prior(prior: Prior) -> None:
    """Searches with it."""
    assert prior.match.lines()
    with quiet_optuna():
        study = optuna.create_study(sampler=PolicySampler(past=prior.studies, seed=0, units=2))
        for _ in range(3):
            trial = study.ask(SPACE)
            ConditionalSpace(SPACE).check(trial.params, complete=True)
            study.tell(trial, 1.0)


def _use_trials(trials: Callable[[], Iterator[ToldTrial]], folder: Path) -> None:
    contents = PriorContents.of(trials())
    assert contents.read >= 0
    assert all(isinstance(each.values, str) for each in contents.params.values())
    with contextlib.suppress(MetatunerError):
        ConditionalSpace(told_space(trials(), "x"))
    with contextlib.suppress(MetatunerError):
        write_table(folder / "written.csv", trials(), anonymous=True)
        assert list(read_table(folder / "written.csv")) is not None


@reader("table of past trials")
def _(folder: Path) -> Iterator[Fuzzed]:
    def read(data: bytes) -> None:
        (folder / "past.csv").write_bytes(data)
        _use_trials(lambda: read_table(folder / "past.csv", "value"), folder)
        use_prior(past_table(str(folder / "past.csv"), SPACE, units=2))

    yield Fuzzed(tables(TABLE), read)


@reader("past runs in MLflow")
def _(folder: Path) -> Iterator[Fuzzed]:
    """What others logged: params, metrics, tags, states, at the level of the database, as any client may write them."""
    with empty_store(folder) as uri:
        record(uri)
        whole = (folder / "mlflow.db").read_bytes()

        def read(changes: list[tuple[str, str, Any]]) -> None:
            (folder / "mlflow.db").write_bytes(whole)
            tamper(folder / "mlflow.db", changes)
            for past in read_history("x", with_curves=["val/loss"], tracking_uri=uri):
                assert past.run_id
            use_prior(past_studies("x", SPACE, metric="val/loss", tracking_uri=uri, units=2))

        yield Fuzzed(database_changes(), read)


@reader("address of past tasks")
def _(folder: Path) -> Iterator[Fuzzed]:
    os.chdir(folder)
    Path("past.csv").write_text(TABLE)

    def read(address: Any) -> None:
        use_prior(
            prior_of(
                address,
                ConditionalSpace(SPACE),
                metric="value",
                direction="minimize",
                tracking_uri=None,
                own=None,
                units=2,
            )
        )

    kinds = st.sampled_from(["table:", "table:past.csv", "tables:", "", ":", "table"])
    yield Fuzzed(
        st.just("table:past.csv")
        | st.builds(str.__add__, kinds, st.sampled_from(TEXTS) | st.text(max_size=5))
        | odd_values,
        read,
    )
