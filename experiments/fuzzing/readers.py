"""Every reader of what comes from outside: what it is given here, and what is done with what it takes."""

from __future__ import annotations

# Each notes its readers.
import checkpoints  # noqa: F401
import commands  # noqa: F401
import optuna_storages  # noqa: F401
import past_trials  # noqa: F401
import policies  # noqa: F401
import spaces  # noqa: F401
import studies  # noqa: F401
from fuzzed import READERS

__all__ = ["READERS"]
