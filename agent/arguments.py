"""Checks of arguments: each says what was expected, and what came."""

from __future__ import annotations

import inspect
import sys

from ..envs.errors import ConfigurationError


def require_count(name: str, value: object, least: int = 1) -> None:
    """Raises a `ConfigurationError` unless it is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name} must be a whole number of at least {least}, got {value!r}")


def require_seed(seed: object) -> None:
    """Raises a `ConfigurationError` unless every library takes it for a seed."""
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise ConfigurationError(f"seed must be a whole number from 0 to 2**32 - 1, got {seed!r}")


def require_seconds(name: str, value: object) -> None:
    """Raises a `ConfigurationError` unless it is None or a time above 0."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= sys.float_info.max:
        raise ConfigurationError(f"{name} must be a number of seconds above 0, or None for no limit, got {value!r}")


def require_kind(name: str, value: object, kinds: type | tuple[type, ...], expected: str) -> None:
    """Raises a `ConfigurationError` unless it is one of these kinds, `expected` in words."""
    if not isinstance(value, kinds):
        raise ConfigurationError(f"expected {name} to be {expected}, got {value!r}")


def require_objective(objective: object) -> None:
    """Raises a `ConfigurationError` unless it can be called, and then runs."""
    if not callable(objective):
        raise ConfigurationError(f"expected the objective to be a function, got {objective!r}")
    if inspect.iscoroutinefunction(objective) or inspect.isasyncgenfunction(objective):
        raise ConfigurationError(
            f"the objective {objective!r} is asynchronous: give a plain function, such as one that calls asyncio.run"
        )
