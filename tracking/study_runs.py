"""Finds the runs of a study in MLflow: its own, and those of its trials."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .operations import KEY_TAG, KIND_TAG, STUDY_TAG
from .store import Store, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PAGE = 1000


def studies_named(name: str, store: Store, experiment: str) -> list[str]:
    """The keys of the runs of all studies with this name, the newest first.

    Raises:
        StoreError: The store cannot be opened.
    """
    client = connect(store, reading=True)
    if (place := client.get_experiment_by_name(experiment)) is None:
        return []
    studies = all_studies(client, [place.experiment_id])
    return [run.data.tags[KEY_TAG] for run in studies if run.data.tags.get(STUDY_TAG) == name]


def all_studies(client: MlflowClient, experiment_ids: list[str], *, deleted: bool = False) -> list[Run]:
    """The runs of all studies in these experiments, the newest first. Names may hold what a filter cannot.

    Args:
        client: The store's client.
        experiment_ids: The experiments.
        deleted: Whether those are wanted, too, that somebody has deleted: their trials may be there still.
    """
    from mlflow.entities import ViewType

    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    found: list[Run] = []
    token = None
    while experiment_ids:
        page = client.search_runs(experiment_ids, f"tags.`{KIND_TAG}` = 'study'", view, _PAGE, page_token=token)
        found += page
        if not (token := page.token):
            break
    return found


def study_runs(client: MlflowClient, experiment: str, study: str) -> dict[int | None, list[Run]]:
    """The runs of the study itself (None) and of each trial, its latest attempt first.

    Args:
        client: The store's client.
        experiment: The experiment's name.
        study: The key of the study's run.
    """
    found: dict[int | None, list[Run]] = defaultdict(list)
    if (place := client.get_experiment_by_name(experiment)) is None:
        return found
    token = None
    while True:
        page = client.search_runs(
            [place.experiment_id], f"tags.`{KEY_TAG}` LIKE '{study}%'", max_results=_PAGE, page_token=token
        )
        for run in page:
            found[trial_of(run.data.tags[KEY_TAG], study)].append(run)
        if not (token := page.token):
            break
    for runs in found.values():
        runs.sort(key=lambda run: (-int(run.data.tags.get("metatuner.attempt", 0)), run.info.start_time))
    return found


def study_of(run: str) -> str:
    """The key of the study, of the key of any of its runs."""
    return run.split("/", 1)[0]


def trial_of(run: str, study: str) -> int | None:
    """The number of the trial whose run has this key; None for the study's own."""
    return None if run == study else int(run.removeprefix(f"{study}/").split(".")[0])
