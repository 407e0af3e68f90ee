"""The experiments of a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PAGE = 1000


def experiment_names(client: MlflowClient) -> dict[str, str]:
    """The names of all experiments, by id."""
    found: dict[str, str] = {}
    token = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        found |= {each.experiment_id: each.name for each in page}
        if not (token := page.token):
            return found
