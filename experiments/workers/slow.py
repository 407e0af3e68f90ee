"""What `chaos.py` tunes: half a second a trial."""

import time
from collections.abc import Mapping

from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(-5.0, 5.0), "y": FloatDistribution(-5.0, 5.0)}


def train(config: Mapping[str, float]) -> float:
    """A trial."""
    time.sleep(0.5)
    return (config["x"] - 3) ** 2 + (config["y"] - 2) ** 2
