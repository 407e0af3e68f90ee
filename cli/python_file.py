"""A Python file that a person names on the command line, with the objective or the search space in it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ..envs.errors import ConfigurationError


def load(file: str, given: str) -> ModuleType:
    """Runs a file as a module.

    Args:
        file: Its path.
        given: What the person wrote, for errors.

    Raises:
        ConfigurationError: It is no Python file, or cannot be run.
    """
    path = Path(file)
    if path.suffix != ".py" or not _is_file(path):
        raise ConfigurationError(f"expected FILE.py:FUNCTION with a file that exists, got {given!r}")
    if path.stem in sys.stdlib_module_names or _is_another(path):
        raise ConfigurationError(f"{file} has the name of a module that is in use, {path.stem}: give it another name")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Under its name, and with its folder on the path, as when Python runs the file itself.
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    return module


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _is_another(path: Path) -> bool:
    """Whether a module of this file's name is loaded from elsewhere, and would be replaced for all who import it."""
    loaded = sys.modules.get(path.stem)
    return loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() != path.resolve()


def space_of(module: ModuleType, name: str | None, file: str) -> Any:
    """The search space: a variable of this name, or `space`; None where there is none.

    Raises:
        ConfigurationError: No variable has the name.
    """
    if name not in (None, "none") and not hasattr(module, name):
        raise ConfigurationError(f"{file} has no variable {name!r}: name the one that holds the search space")
    return getattr(module, name or "space", None)


def function_of(module: ModuleType, name: str, file: str) -> Any:
    """A function of this name.

    Raises:
        ConfigurationError: There is none.
    """
    found = getattr(module, name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ConfigurationError(f"{file} has no function {name!r}: it has {', '.join(functions) or 'none at all'}")
    return found
