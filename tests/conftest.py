from __future__ import annotations

import os
import secrets

import hypothesis

# Ray reads these when it is imported, by whichever test comes first: nobody else gets in, and nobody is told.
os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # so that a node's address is the loopback interface
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}

# Machines differ in speed, so examples have no deadline; continuous integration repeats the same examples each time.
hypothesis.settings.register_profile("metatuner", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("metatuner")
