"""Which experiments of a store have a study, where nobody has named one."""

from __future__ import annotations

from .experiments import experiment_names
from .operations import KEY_TAG, STUDY_TAG
from .store import Store, connect
from .study_runs import all_studies
from .transport import unusable


def experiments_with_key(study: str, store: Store) -> list[str]:
    """The experiments that have runs of a study: its own, or only those of trials.

    Args:
        study: The key of the study's run.
        store: The store.

    Raises:
        StoreError: The store cannot be read.
    """
    if store.is_missing:
        return []
    client, found = connect(store, reading=True), []
    try:
        places = experiment_names(client)
        # One run tells that an experiment has the study: those of its trials, which may be many, are not read.
        while places and (runs := client.search_runs(list(places), f"tags.`{KEY_TAG}` LIKE '{study}%'", max_results=1)):
            found.append(places.pop(runs[0].info.experiment_id))
    except Exception as error:
        raise unusable(store, error) from error
    return sorted(found)


def experiments_with_name(name: str, store: Store) -> list[str]:
    """The experiments that have a study of this name.

    Raises:
        StoreError: The store cannot be read.
    """
    if store.is_missing:
        return []
    client = connect(store, reading=True)
    try:
        places = experiment_names(client)
        studies = all_studies(client, list(places))
    except Exception as error:
        raise unusable(store, error) from error
    return sorted({places[run.info.experiment_id] for run in studies if run.data.tags.get(STUDY_TAG) == name})
