"""What carries over from past tasks, as records: a study whose trials are the ways to search."""

from __future__ import annotations

from collections.abc import Iterator

from ..envs.records import (
    Artifact,
    Description,
    Metrics,
    Record,
    StudyFinished,
    StudyStarted,
    TrialFinished,
    TrialStarted,
)
from ..envs.transfer import Transfer

METRIC = "regret"


def transfer_records(transfer: Transfer, address: str, page: str, command: str) -> Iterator[Record]:
    """The records, in their order.

    Each way to search is a trial: its normalised regret by number of full trainings, with the ends of its interval, and
    the mean over all of them as its value.

    Args:
        transfer: What was measured.
        address: Where the past tasks came from, such as "table:past.csv".
        page: The report, see `transfer_page`; an artifact of the study.
        command: What measures it again.
    """
    yield StudyStarted(
        name=f"transfer of {transfer.policy}",
        params={
            "policy": transfer.policy,
            "prior": address,
            "tasks": len(transfer.tasks),
            "trials": transfer.trials,
            "repeats": transfer.repeats,
            "seed": transfer.seed,
            "confidence": transfer.confidence,
        },
        metric=METRIC,
        budget=f"{transfer.trials} full trainings a search",
        command=command,
    )
    lines = "\n".join(f"- {line}" for line in transfer.verdict)
    yield Description(markdown=f"# How well `{transfer.policy}` carries over\n\n{lines}\n\nMore: transfer.html.\n")
    yield Artifact(trial=None, path="transfer.html", text=page)
    for trial, curve in enumerate(transfer.curves):
        yield TrialStarted(trial=trial, name=curve.label, params={"search": curve.searcher, "past_tasks": curve.past})
        for trials, regret in enumerate(curve.regrets, start=1):
            values = {METRIC: regret.mean, f"{METRIC}/low": regret.low, f"{METRIC}/high": regret.high}
            yield Metrics(trial=trial, step=trials, values=values)
        yield TrialFinished(trial=trial, value=curve.average.mean)
    yield StudyFinished()
