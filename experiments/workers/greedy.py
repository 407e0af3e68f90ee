"""What `memory.py` tunes: some configurations take memory without end."""

import resource
import time
from collections.abc import Mapping
from pathlib import Path

from optuna.distributions import FloatDistribution

space = {"x": FloatDistribution(0.0, 1.0)}
GREEDY, BLOCK, MOST_BLOCKS = 0.25, 2**24, 32


def limited(config: Mapping[str, float]) -> float:
    """A trial whose system gives it half a gigabyte more than it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MOST_BLOCKS * BLOCK
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return _train(config, 1000 * MOST_BLOCKS)


def unlimited(config: Mapping[str, float]) -> float:
    """A trial that somebody has to end."""
    return _train(config, MOST_BLOCKS)


def _train(config: Mapping[str, float], blocks: int) -> float:
    if config["x"] < GREEDY:
        taken = [b"x" * BLOCK for _ in range(blocks)]
        small = [b"x" * 1000 for _ in range(blocks)]
        time.sleep(60)
        raise AssertionError(f"nobody has ended it: {len(taken) + len(small)} blocks")
    time.sleep(0.1)
    return config["x"]
