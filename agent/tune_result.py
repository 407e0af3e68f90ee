"""What came out of a tuning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from ..envs.constraints import is_allowed
from ..envs.errors import TrainingError
from ..envs.records import MESSAGE_ATTRIBUTE
from .result_page import result_html


@dataclass(frozen=True)
class TuneResult:
    """What came out.

    Example:
        >>> import metatuner as mt
        >>> from optuna.distributions import FloatDistribution
        >>> result = mt.tune(lambda config: config["x"] ** 2, {"x": FloatDistribution(1, 5)}, budget=5)
        >>> result.best_value == result.best_config["x"] ** 2
        True
        >>> len(result.trials), result.best_trial.state.name
        (5, 'COMPLETE')
        >>> result.study.trials_dataframe().shape[0]  # anything that Optuna has for studies
        5
        >>> len(result.run_id)  # in MLflow
        32

    Attributes:
        study: The Optuna study, with everything that was tried.
        run_id: MLflow's id of the study's run; None where it is not recorded there, or not yet.
    """

    study: Study
    run_id: str | None

    @property
    def trials(self) -> list[FrozenTrial]:
        """All trials, failed ones too."""
        return self.study.trials

    @property
    def best_trial(self) -> FrozenTrial:
        """The best trial that finished, with a finite value if there is one.

        Raises:
            TrainingError: None did, or none of those is allowed.
        """
        try:
            return self._best_finite or self.study.best_trial
        except ValueError as error:
            if finished := sum(trial.state is OptunaState.COMPLETE for trial in self.trials):
                raise TrainingError(
                    f"none of the {finished} trials that finished is allowed: expected one that meets the constraints, "
                    "try more or constrain less"
                ) from error
            failed = [trial for trial in self.trials if trial.state is OptunaState.FAIL]
            why = f"; the last one failed with {failed[-1].user_attrs.get(MESSAGE_ATTRIBUTE)}" if failed else ""
            raise TrainingError(f"none of the {len(self.trials)} trials has finished{why}") from error

    @property
    def _best_finite(self) -> FrozenTrial | None:
        """The best one whose value is a number: an infinite one says that something overflowed, whatever its sign."""
        finished = [each for each in self.trials if each.state is OptunaState.COMPLETE and is_allowed(each)]
        known = [(each.value, each) for each in finished if each.value is not None and math.isfinite(each.value)]
        best = max if self.study.direction is StudyDirection.MAXIMIZE else min
        return best(known, key=lambda pair: pair[0])[1] if known else None

    @property
    def best_config(self) -> dict[str, Any]:
        """The best trial's configuration."""
        return dict(self.best_trial.params)

    @property
    def best_value(self) -> float:
        """The best trial's value."""
        value = self.best_trial.value
        assert value is not None
        return value

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        try:
            best = self.best_trial
        except TrainingError:
            best = None
        return result_html(self.trials, self.study.direction, best)
