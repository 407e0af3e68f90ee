"""A Python file with an objective and its search space, as verbs are given it: FILE.py:FUNCTION."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load_file(file: str, given: str) -> ModuleType:
    """Runs the file.

    Args:
        file: Its path.
        given: What the user gave, for messages.

    Raises:
        ConfigurationError: There is no such file, it cannot be run, or it has the name of another module.
    """
    from ..envs.errors import ConfigurationError

    path = Path(file)
    if not file and _is_file(Path(given)):
        raise ConfigurationError(f"expected FILE.py:FUNCTION, got {given!r}, which names no function")
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
    """The file's search space: the variable of this name; None where it has no `space` and no name was given.

    Raises:
        ConfigurationError: The file has no such variable.
    """
    from ..envs.errors import ConfigurationError

    if name not in (None, "none") and not hasattr(module, name):
        raise ConfigurationError(f"{file} has no variable {name!r}: name the one that holds the search space")
    return getattr(module, name or "space", None)


def _module_of(value: Any) -> str | None:
    """The module that has made a function, or the class of an object that can be called."""
    return getattr(value if hasattr(value, "__name__") else type(value), "__module__", None)


def function_of(module: ModuleType, name: str, file: str) -> Any:
    """The file's function of this name.

    Raises:
        ConfigurationError: The file has no such function.
    """
    from ..envs.errors import ConfigurationError

    found = getattr(module, name, None)
    if not callable(found):
        functions = [
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and _module_of(value) == module.__name__
        ]
        raise ConfigurationError(f"{file} has no function {name!r}: it has {', '.join(functions) or 'none at all'}")
    return found
