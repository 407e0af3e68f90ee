"""CMA-ES, as Optuna has it, without its trust in storages.

Optuna's sampler keeps its state in the study's storage as a pickle, and unpickles whatever it finds there: who can
write to the storage can run code in every process that goes on with the study. Here nothing is made out of that text
but the optimisers of the package `cmaes`, and arrays and random generators of NumPy.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from ..envs.errors import StoreError

_ALLOWED = {
    "cmaes._cma": {"CMA"},
    "cmaes._cmawm": {"CMAwM"},
    "cmaes._sepcma": {"SepCMA"},
    "numpy": {"ndarray", "dtype"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy.core.multiarray": {"_reconstruct", "scalar"},
    "numpy.random._pickle": {"__randomstate_ctor", "__bit_generator_ctor"},
    "numpy.random._mt19937": {"MT19937"},
}


class PlainCmaEsSampler(CmaEsSampler):
    """CMA-ES that goes on from the state in a storage, if it is one."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            parts = {key: each for key, each in trial.system_attrs.items() if key.startswith(self._attr_key_optimizer)}
            if parts:
                return self._optimiser(trial.number, parts)
        return None

    def _optimiser(self, trial: int, parts: dict[str, Any]) -> Any:
        try:
            found = _Unpickler(io.BytesIO(bytes.fromhex(self._concat_optimizer_attrs(parts)))).load()
        # A text that is no pickle fails in one of these ways; what is not allowed is the first.
        except (pickle.UnpicklingError, ValueError, KeyError, IndexError, TypeError, AttributeError, EOFError) as error:
            raise StoreError(
                f"trial {trial} has no valid state of CMA-ES ({error}): it was altered; begin a study of another name"
            ) from error
        if type(found).__module__.partition(".")[0] != "cmaes":
            raise StoreError(
                f"trial {trial} has {type(found).__name__} as the state of CMA-ES: begin a study of another name"
            )
        return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module, name)
