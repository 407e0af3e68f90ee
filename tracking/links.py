"""Links between pages of MLflow, written before anybody knows MLflow's ids.

A description links to `run:KEY`, `trials:KEY` or `compare:KEY,KEY`; where it is sent, the keys of runs have become ids.
Addresses begin with `#`: they lead to the same server that shows the description, whatever its address.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from urllib.parse import quote

_LINK = re.compile(r"\]\((run|trials|compare):([^)]*)\)")


def run_link(text: str, run: str) -> str:
    """A link to the page of a run."""
    return f"[{text}](run:{run})"


def trials_link(text: str, study: str) -> str:
    """A link to the list of a study's trials."""
    return f"[{text}](trials:{study})"


def comparison_link(text: str, runs: Sequence[str]) -> str:
    """A link to the page that compares runs: parallel coordinates, scatter and contour plots."""
    return f"[{text}](compare:{','.join(runs)})"


def resolved(markdown: str, experiment_id: str, run_id: Callable[[str], str | None]) -> str:
    """The text with links that MLflow's page understands; a link to a run that is not there becomes plain text."""

    def address(match: re.Match[str]) -> str:
        kind, keys = match.groups()
        ids = [found for key in keys.split(",") if (found := run_id(key)) is not None]
        return f"]({_address(kind, experiment_id, ids)})" if ids else "](#)"

    return _LINK.sub(address, markdown)


def _address(kind: str, experiment_id: str, ids: Sequence[str]) -> str:
    mode = "workflowType=machine_learning"
    runs = f"#/experiments/{experiment_id}/runs"
    if kind == "run":
        return f"{runs}/{ids[0]}"
    if kind == "trials":
        wanted = quote(f"tags.mlflow.parentRunId = '{ids[0]}'")
        return f"{runs}?searchFilter={wanted}&{mode}"
    return f"#/compare-runs?runs={quote(json.dumps(ids))}&experiments={quote(json.dumps([experiment_id]))}&{mode}"
