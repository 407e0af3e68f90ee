from __future__ import annotations

import os

import hypothesis

# Machines differ in speed, so examples have no deadline; continuous integration repeats the same examples each time.
hypothesis.settings.register_profile("metatuner", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("metatuner")
