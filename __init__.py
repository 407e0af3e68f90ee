"""metatuner: a reinforcement-learning meta-tuner for hyperparameters, backed by MLflow.

Three lines in any PyTorch loop:

    import metatuner as mt

    tuner = mt.AdaptiveSchedule(optimizer, total_steps=1000)
    ...
    loss.backward(); optimizer.step(); tuner.step(loss)

This module imports nothing heavy: a public name is loaded when it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agent.adaptive_schedule import AdaptiveSchedule
    from .agent.hyperopt_suggest import hyperopt_suggest
    from .agent.knobs import Attribute, DropoutRate
    from .agent.lightning_callback import LightningAdaptiveSchedule
    from .agent.policy import Policy
    from .agent.policy_sampler import PolicySampler
    from .agent.policy_scheduler import PolicyScheduler
    from .agent.policy_search_cv import PolicySearchCV
    from .agent.schedule_run import ScheduleRun, run_schedule
    from .agent.transformers_callback import TransformersAdaptiveSchedule
    from .agent.trial_folder import trial_folder
    from .agent.trial_probe import TrialProbe
    from .agent.tune import tune
    from .agent.tune_result import TuneResult
    from .envs.boosting_training import BoostingTraining
    from .envs.errors import MetatunerError
    from .envs.partial_fit_training import PartialFitTraining
    from .envs.schedule import ScheduleEnv
    from .envs.search import SearchEnv
    from .envs.torch_training import TorchTraining
    from .tracking.finished_study import record_study
    from .tracking.recorder import MLflowRecorder
    from .tracking.tune_recorder import TuneRecorder

__version__ = "0.1.0"

__all__ = [
    "AdaptiveSchedule",
    "Attribute",
    "BoostingTraining",
    "DropoutRate",
    "LightningAdaptiveSchedule",
    "MLflowRecorder",
    "MetatunerError",
    "PartialFitTraining",
    "Policy",
    "PolicySampler",
    "PolicyScheduler",
    "PolicySearchCV",
    "ScheduleEnv",
    "ScheduleRun",
    "SearchEnv",
    "TorchTraining",
    "TransformersAdaptiveSchedule",
    "TrialProbe",
    "TuneRecorder",
    "TuneResult",
    "__version__",
    "hyperopt_suggest",
    "record_study",
    "run_schedule",
    "trial_folder",
    "tune",
]

_NEEDS = {
    "BoostingTraining": "xgboost",
    "LightningAdaptiveSchedule": "lightning",
    "PolicyScheduler": "ray",
    "TransformersAdaptiveSchedule": "transformers",
    "TuneRecorder": "ray",
}
"""What cannot be loaded without a package that need not be installed: named, it says which; listed, it is left out."""

_HOME = {
    "AdaptiveSchedule": ".agent.adaptive_schedule",
    "Attribute": ".agent.knobs",
    "BoostingTraining": ".envs.boosting_training",
    "DropoutRate": ".agent.knobs",
    "LightningAdaptiveSchedule": ".agent.lightning_callback",
    "MLflowRecorder": ".tracking.recorder",
    "MetatunerError": ".envs.errors",
    "PartialFitTraining": ".envs.partial_fit_training",
    "Policy": ".agent.policy",
    "PolicySampler": ".agent.policy_sampler",
    "PolicyScheduler": ".agent.policy_scheduler",
    "PolicySearchCV": ".agent.policy_search_cv",
    "ScheduleEnv": ".envs.schedule",
    "ScheduleRun": ".agent.schedule_run",
    "SearchEnv": ".envs.search",
    "TorchTraining": ".envs.torch_training",
    "TransformersAdaptiveSchedule": ".agent.transformers_callback",
    "TrialProbe": ".agent.trial_probe",
    "TuneRecorder": ".tracking.tune_recorder",
    "TuneResult": ".agent.tune_result",
    "hyperopt_suggest": ".agent.hyperopt_suggest",
    "record_study": ".tracking.finished_study",
    "run_schedule": ".agent.schedule_run",
    "trial_folder": ".agent.trial_folder",
    "tune": ".agent.tune",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


for _name, _package in _NEEDS.items():
    if _package not in sys.modules and importlib.util.find_spec(_package) is None:
        __all__.remove(_name)


# Gymnasium is too slow to import for `--help`, but where it is loaded already its users expect
# `import metatuner` to register the environments. Otherwise `import metatuner.envs` does.
if "gymnasium" in sys.modules:
    from . import envs as envs
