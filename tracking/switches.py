"""MLflow's environment switches, set before MLflow is imported.

Every switch is set by `setdefault`: whoever has set one keeps it. Each stands beside the reason for it.
"""

from __future__ import annotations

import os

SWITCHES = {
    # Nothing is reported home unless somebody asks for it.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With MLflow's own settings one call to a dead server blocks a training for four minutes.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # A value that is too long is an error that we handle, not something that is silently cut.
    "MLFLOW_TRUNCATE_LONG_VALUES": "false",
    # MLflow and its migrations narrate on INFO; a progress bar should not have to compete with them.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def set_switches() -> None:
    """Set what is not set yet. Call before the first `import mlflow`."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
